//! An order that survives the crash of its process.
//!
//! ```sh
//! cargo run --example order                                   # charges, ships, notifies
//! FAILPOINTS=after_charge=return cargo run --example order    # dies after the charge
//! cargo run --example order                                   # ships and notifies; nobody is charged again
//! ```
//!
//! It is kept in an SQLite file, or in PostgreSQL if `DATABASE_URL` is set.

use std::time::Duration;

use backfill_workflow::{Backoff, Client, Ctx, Engine, Failure, Filter, Handle, Start, Status};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Order {
    article: String,
    cents: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Receipt {
    payment: String,
    parcel: String,
}

/// What the shop does for an order. Each step is recorded: a restarted order goes on behind the last one.
async fn order(ctx: Ctx, order: Order) -> Result<Receipt, Failure> {
    // The key lets the bank know a call that is repeated: between a charge and its record, a process may die.
    let key = format!("{}-charge", ctx.id());
    let payment = ctx.step("charge", || charge(&key, order.cents)).await?;

    // Here the process dies, if FAILPOINTS says so.
    fail::fail_point!("after_charge", |_| {
        println!("  (the process dies here)");
        std::process::exit(1)
    });

    let waits = Backoff { first: Duration::from_millis(50), ..Backoff::default() };
    let parcel = ctx.step("ship", || ship(&order.article)).retries(3).backoff(waits).await?;
    ctx.step("notify", || notify(&parcel)).await?;
    Ok(Receipt { payment, parcel })
}

#[expect(clippy::unused_async, reason = "in a shop it calls the bank")]
async fn charge(key: &str, cents: u64) -> Result<String, Failure> {
    println!("  charging {}.{:02} EUR", cents / 100, cents % 100);
    Ok(format!("payment {key}"))
}

#[expect(clippy::unused_async, reason = "in a shop it calls the warehouse")]
async fn ship(article: &str) -> Result<String, Failure> {
    println!("  shipping {article}");
    Ok(format!("parcel with {article}"))
}

#[expect(clippy::unused_async, reason = "in a shop it sends a mail")]
async fn notify(parcel: &str) -> Result<(), Failure> {
    println!("  telling the customer of the {parcel}");
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let _failpoints = fail::FailScenario::setup();
    let url = std::env::var("DATABASE_URL").unwrap_or_else(|_| {
        let file = std::env::temp_dir().join("backfill-order.db");
        println!("orders are kept in {}; set DATABASE_URL for PostgreSQL", file.display());
        format!("sqlite://{}", file.display())
    });

    // Asked before the engine is launched, which goes on with them at once.
    let open = Filter {
        names: vec!["order".to_owned()],
        statuses: vec![Status::Pending, Status::Enqueued],
        ..Filter::default()
    };
    let interrupted = Client::connect(&url).await?.list(&open).await?;

    // Under its name it finds at once what it had left.
    let mut builder = Engine::builder().url(url).executor("order-example").version("1");
    let order = builder.register("order", order);
    let engine = builder.launch().await?;

    if interrupted.is_empty() {
        let book = Order { article: "a book".to_owned(), cents: 4990 };
        let handle = engine.start(order, &book, Start::new()).await?;
        println!("order {}", handle.id());
        finish(&handle).await?;
    }
    for run in interrupted {
        println!("order {} was interrupted, and goes on", run.id);
        if engine.steps(&run.id).await?.iter().any(|step| step.name == "charge") {
            println!("  the charge is on record: nobody is charged again");
        }
        finish(&engine.handle(order, &run.id)).await?;
    }
    engine.shutdown(Duration::from_secs(5)).await;
    Ok(())
}

async fn finish(handle: &Handle<Receipt>) -> Result<(), Failure> {
    let Receipt { payment, parcel } = handle.result().await?;
    println!("done: {payment}, {parcel}");
    Ok(())
}
