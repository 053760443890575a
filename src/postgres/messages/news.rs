//! Hearing of changes, on a channel of the schema's own, so that the many changes of messages wake nobody who waits for jobs of another schema.
//!
//! The connection is one of its own, outside the pool that statements use. It is asked now and then whether it is alive: one can die without
//! a word.

use std::time::Duration;

use futures::stream::{self, BoxStream, StreamExt};
use serde_json::Value;
use sqlx::Acquire;
use sqlx::postgres::{PgListener, PgNotification};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::super::PostgresStorage;
use super::super::connection::connections::apart;
use super::super::connection::own::or_why;
use super::super::listen::reconnect_delay;
use crate::error::Result;
use crate::storage::messages::{Changes, Names, News};

/// How often the connection is asked whether it is alive, and how long it may take to answer.
const ASK_EVERY: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_secs(5);

struct Listener {
    storage: PostgresStorage,
    connection: Option<PgListener>,
    next_question: Instant,
    failures: i32,
    /// What was last told is that nothing is heard.
    lost: bool,
}

pub(super) fn of(storage: PostgresStorage) -> BoxStream<'static, News> {
    let listener = Listener { storage, connection: None, next_question: Instant::now(), failures: 0, lost: false };
    stream::unfold(listener, |mut listener| async move {
        let news = listener.next().await;
        Some((news, listener))
    })
    .boxed()
}

impl Listener {
    async fn next(&mut self) -> News {
        loop {
            let Some(connection) = &mut self.connection else {
                match self.connect().await {
                    Ok(news) => return news,
                    Err(reason) => match self.lose(&reason) {
                        Some(news) => return news,
                        None => continue,
                    },
                }
            };
            // Dropping a wait for a notification loses none: what was read of it stays with the connection.
            let heard = tokio::select! {
                heard = connection.try_recv() => Some(heard),
                () = sleep_until(self.next_question) => None,
            };
            let told = match heard {
                Some(Ok(Some(notification))) => return News::Changed(understand(&notification)),
                Some(Ok(None)) => Err("the connection was closed".to_owned()),
                Some(Err(error)) => Err(error.to_string()),
                None => is_alive(connection).await,
            };
            self.next_question = Instant::now() + ASK_EVERY;
            if let Err(reason) = told
                && let Some(news) = self.lose(&reason)
            {
                return news;
            }
        }
    }

    async fn connect(&mut self) -> Result<News, String> {
        if self.failures > 0 {
            sleep(reconnect_delay(self.failures)).await;
        }
        match timeout(TIMEOUT * 2, self.try_connect()).await {
            Ok(Ok(connection)) => {
                self.connection = Some(connection);
                self.next_question = Instant::now() + ASK_EVERY;
                (self.failures, self.lost) = (0, false);
                Ok(News::Listening)
            }
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no connection within {:?}", TIMEOUT * 2)),
        }
    }

    async fn try_connect(&self) -> Result<PgListener> {
        let database = &self.storage.database;
        let fail = |e| database.error("listen", e);
        let channel = sqlx::query_scalar!(
            r#"select 'backfill:' || 'graphile_worker._private_jobs'::regclass::oid as "channel!""#
        )
        .fetch_one(database.schema.on(&database.db()))
        .await
        .map_err(fail)?;
        let pool = apart(&database.pool, 1, |options| options.max_lifetime(None).idle_timeout(None));
        let mut listener = or_why(&pool, PgListener::connect_with(&pool)).await.map_err(fail)?;
        // Its own silent reconnecting would hide that notifications were missed.
        listener.eager_reconnect(false);
        if database.is_transaction_pooled(listener.acquire().await.map_err(fail)?).await.map_err(fail)? {
            return Err(crate::error::Error::storage(
                "listen",
                crate::error::FailureKind::Unknown,
                "a pooler in transaction mode stands between, through which no notification comes",
            ));
        }
        listener.listen(&channel).await.map_err(fail)?;
        Ok(listener)
    }

    /// Told once.
    fn lose(&mut self, reason: &str) -> Option<News> {
        self.connection = None;
        self.failures = self.failures.saturating_add(1);
        (!std::mem::replace(&mut self.lost, true)).then(|| News::lost(reason))
    }
}

async fn is_alive(connection: &mut PgListener) -> Result<(), String> {
    // Not a statement about the schema, and none that a database has to check.
    match timeout(TIMEOUT, sqlx::Executor::execute(&mut *connection, "select 1")).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {TIMEOUT:?}")),
    }
}

/// What cannot be read may have been about anything.
fn understand(notification: &PgNotification) -> Changes {
    let Ok(Value::Object(told)) = serde_json::from_str(notification.payload()) else { return Changes::anywhere() };
    let names = |what: &str| match told.get(what) {
        None => Names::default(),
        Some(Value::Array(names)) => Names::These(names.iter().filter_map(Value::as_str).map(str::to_owned).collect()),
        Some(_) => Names::All,
    };
    let mut changes = Changes::default();
    (changes.lines, changes.documents, changes.streams) = (names("lines"), names("documents"), names("streams"));
    changes
}
