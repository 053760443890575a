//! The test kit, on each storage.

mod adds;
mod clock;
mod failures;
mod faults;
mod mistakes;
mod running;
mod transactions;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use backfill::{BackfillClient, JobSpec, TaskPayload};
use futures::FutureExt;

#[derive(serde::Serialize, serde::Deserialize, TaskPayload, PartialEq, Debug)]
struct SendInvoice {
    order: u64,
}

#[derive(serde::Serialize, serde::Deserialize, TaskPayload, PartialEq, Debug)]
struct Welcome {
    to: String,
}

fn welcome(to: &str) -> Welcome {
    Welcome { to: to.to_owned() }
}

/// The code under test.
async fn place_order(jobs: &BackfillClient, order: u64) -> backfill::Result<()> {
    jobs.add(SendInvoice { order }).run_in(Duration::from_secs(3600)).await?;
    jobs.add(JobSpec::new("charge_card", order)).serial_queue("bank").key(format!("charge {order}")).await?;
    Ok(())
}

async fn send_invoice(invoice: SendInvoice) -> Result<(), String> {
    if invoice.order == 0 { Err("there is no order 0".to_owned()) } else { Ok(()) }
}

fn server() -> String {
    std::env::var("BACKFILL_TEST_DATABASE_URL")
        .expect("BACKFILL_TEST_DATABASE_URL is not set; run the tests with ./scripts/test, which starts a server")
}

/// The text of the panic that this ends in.
fn panic_of<T>(run: impl FnOnce() -> T) -> String {
    text(&*catch_unwind(AssertUnwindSafe(run)).err().expect("it panics"))
}

/// The same of a future.
async fn panic_in<T>(run: impl Future<Output = T>) -> String {
    text(&*AssertUnwindSafe(run).catch_unwind().await.err().expect("it panics"))
}

fn text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).expect("a text")
}

/// The list of storages that a test runs on.
macro_rules! on_each {
    ($($tests:tt)*) => {
        backfill::testing::on_each_storage! {
            [
                memory,
                sqlite,
                #[cfg_attr(not(feature = "server-tests"), ignore = "needs PostgreSQL: ./scripts/test")]
                postgres($crate::server())
            ]
            $($tests)*
        }
    };
}
use on_each;
