//! Noticing changes: what this process writes is told at once, and what others write within some 20 milliseconds.
//!
//! SQLite counts the writes of others in shared memory (`pragma data_version`). That says nothing of where they were, so all lines, kinds
//! and streams are told in whose counts something is new.

use std::sync::Arc;
use std::time::Duration;

use backfill_core::storage::messages::{Changes, Names, News};
use futures::stream::{self, BoxStream, StreamExt};
use sqlx::SqliteConnection;
use tokio::sync::watch;

use crate::file::{File, Reader};
use crate::wakeups::changes;

/// How often the counter is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// How long to wait before the file is opened again.
const REOPEN: Duration = Duration::from_millis(500);

struct Listener {
    /// Before the file, which waits for it to be closed.
    open: Option<Open>,
    file: Arc<File>,
    ready: watch::Receiver<()>,
    /// What was last told is that nothing is heard.
    lost: bool,
}

struct Open {
    connection: Reader<'static>,
    version: i64,
    seen: Counts,
}

#[derive(Clone, Copy, PartialEq)]
struct Counts {
    /// Jobs that were ever added, and made ready otherwise.
    jobs: i64,
    /// Versions of documents.
    documents: i64,
    /// Positions of events.
    events: i64,
}

pub(super) fn of(file: Arc<File>) -> BoxStream<'static, News> {
    let ready = file.ready.subscribe();
    let listener = Listener { open: None, file, ready, lost: false };
    stream::unfold(listener, |mut listener| async move { Some((listener.next().await, listener)) }).boxed()
}

impl Listener {
    async fn next(&mut self) -> News {
        loop {
            let heard = match &mut self.open {
                Some(open) => {
                    let poked = tokio::select! {
                        poked = self.ready.changed() => poked.is_ok(),
                        () = tokio::time::sleep(LOOK) => false,
                    };
                    match self.file.still_there() {
                        Ok(()) => open.look(poked).await,
                        Err(gone) => Err(gone),
                    }
                }
                None => Open::open(&self.file).await.map(|open| {
                    self.open = Some(open);
                    self.lost = false;
                    Some(News::Listening)
                }),
            };
            match heard {
                Ok(Some(news)) => return news,
                Ok(None) => {}
                Err(error) => {
                    self.open = None;
                    if !self.lost {
                        self.lost = true;
                        return News::lost(error.to_string());
                    }
                    tokio::time::sleep(REOPEN).await;
                }
            }
        }
    }
}

impl Open {
    async fn open(file: &File) -> sqlx::Result<Self> {
        let mut connection = file.reader().await?;
        // The counter first: what changes after it is seen at the next look.
        let version = changes(&mut connection).await?;
        let seen = counts(&mut connection).await?;
        Ok(Self { connection, version, seen })
    }

    async fn look(&mut self, poked: bool) -> sqlx::Result<Option<News>> {
        if !poked {
            let version = changes(&mut self.connection).await?;
            if version == self.version {
                return Ok(None);
            }
            self.version = version;
        }
        let now = counts(&mut self.connection).await?;
        let before = std::mem::replace(&mut self.seen, now);
        let all = |changed| if changed { Names::All } else { Names::default() };
        let mut changes = Changes::default();
        changes.lines = all(now.jobs != before.jobs);
        changes.documents = all(now.documents != before.documents);
        changes.streams = all(now.events != before.events);
        Ok((!changes.is_nothing()).then_some(News::Changed(changes)))
    }
}

async fn counts(connection: &mut SqliteConnection) -> sqlx::Result<Counts> {
    sqlx::query_as!(
        Counts,
        r#"
select
  coalesce((select seq from sqlite_sequence where name = 'backfill_jobs'), 0)
    + coalesce((select sum(count + freed) from backfill_wakeups), 0) as "jobs!: i64",
  coalesce((select sum(last) from backfill_document_versions), 0) as "documents!: i64",
  coalesce((select seq from sqlite_sequence where name = 'backfill_events'), 0) as "events!: i64"
"#
    )
    .fetch_one(connection)
    .await
}
