//! Noticing what this process and others add.
//!
//! This process tells its listeners at once. Of what others write, SQLite keeps a counter in shared memory (`pragma
//! data_version`), which is looked at fifty times a second, and four times as often while something happens; only when it has
//! changed, a small query tells how many jobs were ever added and how many made ready since.
//!
//! Jobs that were made ready without being new, and those of queues that were freed, may stand where this worker's claims have passed by:
//! so its cursor is told.

use std::sync::Arc;
use std::time::{Duration, Instant};

use backfill_core::storage::{Cursor, Wakeup};
use futures::stream::{self, BoxStream, StreamExt};
use sqlx::SqliteConnection;
use tokio::sync::watch;

use crate::file::{File, Reader};
use crate::migrate::VERSION;

/// How often the counter is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// How often for as long as something was heard a moment ago.
const LOOK_CLOSELY: Duration = Duration::from_millis(5);
const MOMENT: Duration = Duration::from_secs(1);
/// How long to wait before the file is opened again.
const REOPEN: Duration = Duration::from_millis(500);

struct Listener {
    /// Before the file, which waits for it to be closed.
    open: Option<OpenFile>,
    file: Arc<File>,
    cursor: Arc<Cursor>,
    ready: watch::Receiver<()>,
    /// What was last told is that nothing is heard.
    lost: bool,
}

/// A connection, and what it last saw.
struct OpenFile {
    connection: Reader<'static>,
    version: i64,
    seen: Counters,
    heard: Option<Instant>,
}

/// What was counted so far.
#[derive(Clone, Copy)]
struct Counters {
    /// Jobs that were ever added.
    added: i64,
    /// How often others were made ready.
    back: i64,
    /// How often a queue was freed that has more jobs.
    freed: i64,
}

pub(crate) fn of(file: Arc<File>, cursor: Arc<Cursor>) -> BoxStream<'static, Wakeup> {
    let ready = file.ready.subscribe();
    let listener = Listener { file, cursor, ready, open: None, lost: false };
    stream::unfold(listener, |mut listener| async move { Some((listener.next().await, listener)) }).boxed()
}

impl Listener {
    async fn next(&mut self) -> Wakeup {
        loop {
            let heard = match &mut self.open {
                Some(open) => {
                    let close = open.heard.is_some_and(|heard| heard.elapsed() < MOMENT);
                    let poked = tokio::select! {
                        poked = self.ready.changed() => poked.is_ok(),
                        () = tokio::time::sleep(if close { LOOK_CLOSELY } else { LOOK }) => false,
                    };
                    match self.file.still_there() {
                        Ok(()) => open.look(&self.cursor, poked).await,
                        Err(gone) => Err(gone),
                    }
                }
                None => OpenFile::open(&self.file).await.map(|open| {
                    self.open = Some(open);
                    self.lost = false;
                    // Of what was made ready meanwhile nothing was heard.
                    self.cursor.forget_soon();
                    Some(Wakeup::Listening)
                }),
            };
            match heard {
                Ok(Some(wakeup)) => return wakeup,
                Ok(None) => {}
                Err(error) => {
                    self.open = None;
                    if !self.lost {
                        self.lost = true;
                        return Wakeup::ListenerLost { reason: error.to_string() };
                    }
                    tokio::time::sleep(REOPEN).await;
                }
            }
        }
    }
}

impl OpenFile {
    async fn open(file: &File) -> sqlx::Result<Self> {
        let mut connection = file.reader().await?;
        // The counter first: what changes after it is seen at the next look.
        let version = changes(&mut connection).await?;
        let (seen, _) = counters(&mut connection).await?;
        Ok(Self { connection, version, seen, heard: None })
    }

    async fn look(&mut self, cursor: &Cursor, poked: bool) -> sqlx::Result<Option<Wakeup>> {
        // Whoever was told need not look for a change; the next look finds it, and nothing new with it.
        if !poked {
            let version = changes(&mut self.connection).await?;
            if version == self.version {
                return Ok(None);
            }
            self.version = version;
        }
        let (now, revision) = counters(&mut self.connection).await?;
        if revision > VERSION {
            return Ok(Some(Wakeup::BreakingMigration { revision, supported: VERSION }));
        }
        let before = std::mem::replace(&mut self.seen, now);
        let mut more = u64::try_from(now.added + now.back - before.added - before.back).unwrap_or_default();
        if more > 0 {
            self.heard = Some(Instant::now());
        }
        // Before anybody looks. A freed queue is news only to whoever has passed its jobs by.
        let may_be_passed_by = (now.back, now.freed) != (before.back, before.freed) && cursor.forget_soon();
        more = more.max(u64::from(may_be_passed_by));
        Ok((more > 0).then_some(Wakeup::JobsAdded(more)))
    }
}

pub(crate) async fn changes(connection: &mut SqliteConnection) -> sqlx::Result<i64> {
    // Not a checked statement: the checker cannot describe a pragma.
    sqlx::query_scalar("pragma data_version").fetch_one(connection).await
}

/// What was counted, and the file's version.
async fn counters(connection: &mut SqliteConnection) -> sqlx::Result<(Counters, i32)> {
    let row = sqlx::query!(
        r#"
select
  coalesce((select seq from sqlite_sequence where name = 'backfill_jobs'), 0) as "added!: i64",
  coalesce((select sum(count) from backfill_wakeups), 0) as "back!: i64",
  coalesce((select sum(freed) from backfill_wakeups), 0) as "freed!: i64",
  coalesce((select max(version) from backfill_migrations), 0) as "version!: i64"
"#
    )
    .fetch_one(connection)
    .await?;
    let counters = Counters { added: row.added, back: row.back, freed: row.freed };
    Ok((counters, i32::try_from(row.version).unwrap_or(i32::MAX)))
}
