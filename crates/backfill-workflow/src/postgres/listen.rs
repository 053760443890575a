//! News through `LISTEN`.
//!
//! The listener has a connection of its own, outside the pool, so that a pool of one works. When it is lost, what was told meanwhile is lost, too: after it has come
//! back it says [`Change::Anything`], and whoever waits looks. Nobody relies on it alone.

use std::collections::VecDeque;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use sqlx::postgres::{PgListener, PgNotification, PgPoolOptions};

use super::PostgresStore;
use crate::store::Change;

/// The channels of DBOS's libraries.
const MESSAGES: &str = "dbos_notifications_channel";
const EVENTS: &str = "dbos_workflow_events_channel";
const STREAMS: &str = "dbos_streams_channel";
/// The longest pause between two tries to connect.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(100);

struct Listening {
    store: PostgresStore,
    listener: Option<PgListener>,
    pause: Duration,
    heard: VecDeque<Change>,
}

pub(super) fn changes(store: PostgresStore) -> BoxStream<'static, Change> {
    let start = Listening { store, listener: None, pause: FIRST_PAUSE, heard: VecDeque::new() };
    stream::unfold(start, |mut state| async move {
        loop {
            if let Some(change) = state.heard.pop_front() {
                return Some((change, state));
            }
            let Some(listener) = &mut state.listener else {
                match listen(&state.store).await {
                    Ok(listener) => {
                        state.listener = Some(listener);
                        state.pause = FIRST_PAUSE;
                        // Whatever happened before it listened was not heard.
                        state.heard.push_back(Change::Anything);
                    }
                    Err(error) => {
                        tracing::debug!(%error, "cannot listen; waiters look by themselves");
                        tokio::time::sleep(state.pause.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
                        state.pause = (state.pause * 2).min(LONGEST_PAUSE);
                    }
                }
                continue;
            };
            match listener.try_recv().await {
                Ok(Some(notification)) => read(&state.store, &notification, &mut state.heard),
                Ok(None) | Err(_) => state.listener = None,
            }
        }
    })
    .boxed()
}

async fn listen(store: &PostgresStore) -> Result<PgListener, sqlx::Error> {
    let options = (*store.pool.connect_options()).clone();
    let pool =
        PgPoolOptions::new().max_connections(1).acquire_timeout(Duration::from_secs(10)).connect_with(options).await?;
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.eager_reconnect(false);
    listener.listen_all([MESSAGES, EVENTS, STREAMS, &*store.channel]).await?;
    Ok(listener)
}

fn read(store: &PostgresStore, notification: &PgNotification, heard: &mut VecDeque<Change>) {
    let payload = notification.payload();
    match notification.channel() {
        MESSAGES => heard.push_back(Change::Message(payload.to_owned())),
        EVENTS => heard.push_back(Change::Event(payload.to_owned())),
        STREAMS => heard.push_back(Change::Stream(payload.to_owned())),
        channel if channel == &*store.channel => {
            let mut characters = payload.chars();
            let make: fn(String) -> Change = match characters.next() {
                Some('q') => Change::Queue,
                Some('f') => Change::Finished,
                Some('s') => Change::Steered,
                _ => {
                    heard.push_back(Change::Anything);
                    return;
                }
            };
            heard.extend(characters.as_str().split('\n').map(|name| make(name.to_owned())));
        }
        _ => {}
    }
}
