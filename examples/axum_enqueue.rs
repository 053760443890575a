//! A web handler that stores its own row and the job in one transaction.
//!
//! ```sh
//! DATABASE_URL=postgres://localhost/app cargo run --example axum_enqueue
//! curl -d '{"customer":"Ada","amount":12}' -H 'content-type: application/json' http://127.0.0.1:3000/orders
//! ```
//!
//! Either both exist or neither does: no job for an order that was rolled back, no order whose job was lost. The worker
//! runs in the same process here; it may as well be a program of its own.

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use backfill::{BackfillClient, TaskPayload, Worker, handler_with};
use sqlx::PgPool;

#[derive(Clone)]
struct App {
    pool: PgPool,
    jobs: BackfillClient,
}

#[derive(serde::Deserialize)]
struct NewOrder {
    customer: String,
    amount: i64,
}

/// A job of the task `confirm_order`.
#[derive(serde::Serialize, serde::Deserialize, TaskPayload)]
struct ConfirmOrder {
    order: i64,
}

/// The task: what it needs, and what the job carries.
async fn confirm_order(pool: PgPool, ConfirmOrder { order }: ConfirmOrder) -> Result<(), sqlx::Error> {
    // Safe to repeat, as every task should be: a job may be started again after a crash.
    sqlx::query("update orders set confirmed_at = now() where id = $1 and confirmed_at is null")
        .bind(order)
        .execute(&pool)
        .await?;
    println!("order {order} is confirmed");
    Ok(())
}

async fn create_order(State(app): State<App>, Json(order): Json<NewOrder>) -> Result<Json<i64>, (StatusCode, String)> {
    if order.amount <= 0 {
        return Err((
            StatusCode::UNPROCESSABLE_ENTITY,
            format!("the amount is {}, and must be positive", order.amount),
        ));
    }
    store(&app, &order).await.map(Json).map_err(|error| {
        // What went wrong is for the log, not for the caller.
        eprintln!("an order could not be stored: {error}");
        (StatusCode::INTERNAL_SERVER_ERROR, "the order could not be stored".to_owned())
    })
}

async fn store(app: &App, order: &NewOrder) -> Result<i64, Box<dyn std::error::Error + Send + Sync>> {
    let mut tx = app.pool.begin().await?;
    let id: i64 = sqlx::query_scalar("insert into orders (customer, amount) values ($1, $2) returning id")
        .bind(&order.customer)
        .bind(order.amount)
        .fetch_one(&mut *tx)
        .await?;
    app.jobs.add(ConfirmOrder { order: id }).within(&mut tx).await?;
    tx.commit().await?;
    Ok(id)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::var("DATABASE_URL").map_err(|_| "set DATABASE_URL to a PostgreSQL database")?;
    let pool = PgPool::connect(&url).await?;
    sqlx::query(
        "create table if not exists orders (
           id bigint generated always as identity primary key, customer text not null, amount bigint not null,
           confirmed_at timestamptz
         )",
    )
    .execute(&pool)
    .await?;
    let jobs = BackfillClient::with_pool(pool.clone()).await?;

    let worker = Worker::builder(jobs.clone()).task(handler_with(pool.clone(), confirm_order)).build()?;
    let handle = worker.shutdown_handle();
    let app = Router::new().route("/orders", post(create_order)).with_state(App { pool, jobs });
    let address = std::env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:3000".to_owned());
    let listener = tokio::net::TcpListener::bind(&address).await?;
    println!("listening on http://{}", listener.local_addr()?);

    // The worker handles the signals; the server stops taking requests when the worker has ended.
    let running = tokio::spawn(async move { worker.run().await });
    axum::serve(listener, app)
        .with_graceful_shutdown(async move {
            if let Err(error) = running.await {
                eprintln!("the worker failed: {error}");
            }
        })
        .await?;
    handle.shutdown();
    Ok(())
}
