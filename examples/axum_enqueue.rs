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
use backfill::{Answer, BackfillClient, JobContext, Task, TaskResult, Worker};
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

#[derive(serde::Serialize, serde::Deserialize)]
struct Confirm {
    order: i64,
}

struct ConfirmOrder {
    pool: PgPool,
}

impl Task for ConfirmOrder {
    const NAME: &'static str = "confirm_order";
    type Payload = Confirm;

    async fn run(&self, payload: Confirm, _ctx: JobContext) -> TaskResult {
        // Safe to repeat, as every task should be: a job may be started again after a crash.
        sqlx::query("update orders set confirmed_at = now() where id = $1 and confirmed_at is null")
            .bind(payload.order)
            .execute(&self.pool)
            .await?;
        println!("order {} is confirmed", payload.order);
        Ok(Answer::Done)
    }
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
    app.jobs.add_with(&mut *tx, ConfirmOrder::job(&Confirm { order: id })).await?;
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

    let worker = Worker::builder(jobs.clone()).task(ConfirmOrder { pool: pool.clone() }).build()?;
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
