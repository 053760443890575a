//! What can be set about a worker: limits, time, middleware, flags, prefetch, events, clock.

mod events;
mod limits;
mod middleware;
mod prefetch;
mod ready;
mod settings;
#[path = "../support/mod.rs"]
mod support;

use backfill::{Event, EventStream};
use support::soon;

async fn event(events: &mut EventStream, what: &str, wanted: impl Fn(&Event) -> bool) -> Event {
    soon(what, async {
        loop {
            let event = events.next().await.expect("the worker runs");
            if wanted(&event) {
                return event;
            }
        }
    })
    .await
}
