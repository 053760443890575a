//! Which file is meant, and how it is opened.

use std::fmt;
use std::mem;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use backfill_core::{Error, Result};
use chrono::{DateTime, Utc};
use etcetera::base_strategy::{BaseStrategy, choose_native_strategy};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, SqliteConnection};
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::timeout;

use crate::errors::failed;
use crate::place::Place;
use crate::writer::{Closer, Writer};

/// How long anybody waits for another process that is writing.
const BUSY: Duration = Duration::from_secs(10);
/// The clock was set back if it is so much behind what it was, in microseconds.
const SET_BACK: i64 = 2_000_000;
/// Readers do not hold each other up, nor the writer; more than a few would only wait for the same disk.
const READERS: usize = 4;

pub(crate) struct File {
    path: PathBuf,
    /// Of connections that only read: they change nothing, not even the journal's mode, and make no file.
    reading: SqliteConnectOptions,
    place: Arc<Place>,
    readers: Readers,
    pub(crate) writer: Writer,
    /// Changes when this process has made jobs ready.
    pub(crate) ready: watch::Sender<()>,
    clock: Arc<MonotonicClock>,
}

/// The present in microseconds since 1970, never the same twice within this process: the moment of a claim names it. But if the
/// clock is set back, so is this: other processes go by it.
#[derive(Debug, Default)]
pub(crate) struct MonotonicClock(Mutex<i64>);

impl MonotonicClock {
    /// Takes so many moments at once; answers the first.
    pub(crate) fn take(&self, count: usize) -> i64 {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Utc::now().timestamp_micros();
        // A large batch takes moments up to a second ahead.
        let set_back = now < *last - SET_BACK;
        let first = if set_back { now } else { now.max(*last + 1) };
        *last = first.saturating_add(i64::try_from(count).unwrap_or(i64::MAX)).saturating_sub(1);
        first
    }

    /// One alone.
    pub(crate) fn now(&self) -> i64 {
        self.take(1)
    }
}

impl File {
    pub(crate) fn new(url: &str) -> Result<Self> {
        let options: SqliteConnectOptions = url.parse().map_err(|error| {
            Error::InvalidClient(format!(
                "the URL {url:?} cannot be read ({error}); it looks like sqlite://jobs.db or sqlite:///var/lib/app/jobs.db"
            ))
        })?;
        let invalid = |problem: &str| Err(Error::InvalidClient(format!("the URL {url:?} {problem}")));
        if url.contains(":memory:") || url.contains("mode=memory") {
            return invalid(
                "means a database in memory, which ends with its connection; use memory: for jobs in memory",
            );
        }
        if url.contains("mode=ro") || url.contains("immutable=") {
            return invalid("asks for a file that may only be read, and a queue is written to");
        }
        let path = options.get_filename().to_owned();
        if path.as_os_str().is_empty() {
            return invalid("names no file; it looks like sqlite://jobs.db");
        }
        // The program may change its directory.
        let absolute = std::path::absolute(&path).unwrap_or_else(|_| path.clone());
        let place = Arc::new(Place::new(absolute.clone()));
        let options = options.filename(absolute).busy_timeout(BUSY).foreign_keys(false).disable_statement_logging();
        let reading = options.clone().create_if_missing(false).pragma("query_only", "on");
        let writing = options
            .clone()
            .create_if_missing(true)
            // The thread asks again by itself: see there.
            .busy_timeout(Duration::ZERO)
            .journal_mode(SqliteJournalMode::Wal)
            // With a write-ahead log, FULL is what makes a commit survive a loss of power (NORMAL survives a crash of the
            // process only).
            .synchronous(SqliteSynchronous::Full)
            // In pages of 4 KiB: the log is copied back after 16 MiB, and 32 MiB of the file are kept at hand.
            .pragma("wal_autocheckpoint", "4000")
            .pragma("cache_size", "-32000");
        let clock = Arc::new(MonotonicClock::default());
        let writer = Writer::start(writing, Arc::clone(&place), Arc::clone(&clock))?;
        let readers = Readers { free: Semaphore::new(READERS), idle: Mutex::default() };
        Ok(Self { path, reading, place, readers, writer, ready: watch::Sender::new(()), clock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A connection of its own that only reads.
    pub(crate) async fn reader(&self) -> sqlx::Result<Reader<'static>> {
        let connection = self.place.open(&self.reading).await?;
        Ok(Reader { connection: Some(connection), after: After::Closed(self.writer.closer()) })
    }

    /// One of the connections that are kept for reading.
    pub(crate) async fn read(&self, action: &'static str) -> Result<Reader<'_>> {
        self.check(action)?;
        let permit = timeout(BUSY * 3, self.readers.free.acquire()).await.map_err(|_| sqlx::Error::PoolTimedOut);
        let permit = permit.and_then(|permit| permit.map_err(|_| sqlx::Error::PoolClosed)).map_err(failed(action))?;
        let mut idle = self.readers.idle().pop();
        // A read that was abandoned may have broken it.
        if let Some(connection) = &mut idle
            && connection.ping().await.is_err()
        {
            idle = None;
        }
        let connection = match idle {
            Some(connection) => connection,
            None => self.place.open(&self.reading).await.map_err(failed(action))?,
        };
        let reader = Reader { connection: Some(connection), after: After::Kept(&self.readers, permit) };
        self.check(action)?;
        Ok(reader)
    }

    /// The same, for whoever has opened it already.
    pub(crate) fn still_there(&self) -> sqlx::Result<()> {
        self.place.check()
    }

    /// Fails when the file was removed or replaced since it was opened.
    pub(crate) fn check(&self, action: &'static str) -> Result<()> {
        self.place.check().map_err(failed(action))
    }

    /// Work that is handed to the writer takes this along, and never the file: it would be a handle that nobody waits for.
    pub(crate) fn clock(&self) -> &Arc<MonotonicClock> {
        &self.clock
    }

    /// The present, in microseconds since 1970.
    pub(crate) fn now(&self) -> i64 {
        self.clock.now()
    }

    /// Tells this process's listeners to look.
    pub(crate) fn tell(&self) {
        self.ready.send_replace(());
    }
}

/// The last handle waits a moment until every connection is closed. Then nothing but the file is left, if no other program has it
/// open: whoever closes last copies the write-ahead log back, and removes it.
impl Drop for File {
    fn drop(&mut self) {
        let closer = self.writer.closer();
        for connection in mem::take(&mut *self.readers.idle()) {
            closer.close(connection);
        }
        self.writer.end();
    }
}

/// The connections that are kept for reading.
struct Readers {
    free: Semaphore,
    idle: Mutex<Vec<SqliteConnection>>,
}

impl Readers {
    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<SqliteConnection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that only reads. One that is not kept must go before its file.
pub(crate) struct Reader<'f> {
    /// Only taken by the drop.
    connection: Option<SqliteConnection>,
    after: After<'f>,
}

/// What comes of it.
enum After<'f> {
    Kept(&'f Readers, #[expect(dead_code, reason = "held until the connection is back")] SemaphorePermit<'f>),
    Closed(Closer),
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        match (self.connection.take(), &self.after) {
            (Some(connection), After::Kept(readers, _)) => readers.idle().push(connection),
            (Some(connection), After::Closed(closer)) => closer.close(connection),
            (None, _) => {}
        }
    }
}

impl Deref for Reader<'_> {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        self.connection.as_ref().expect("it is only taken by the drop")
    }
}

impl DerefMut for Reader<'_> {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        self.connection.as_mut().expect("it is only taken by the drop")
    }
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("File").field("path", &self.path).finish_non_exhaustive()
    }
}

/// A moment as the file keeps it.
pub(crate) fn micros(time: DateTime<Utc>) -> i64 {
    time.timestamp_micros()
}

pub(crate) fn time(micros: i64) -> DateTime<Utc> {
    let beyond = if micros < 0 { DateTime::<Utc>::MIN_UTC } else { DateTime::<Utc>::MAX_UTC };
    DateTime::from_timestamp_micros(micros).unwrap_or(beyond)
}

/// Where jobs are kept when nobody says where: `backfill/jobs.db` in the user's directory for data of programs
/// (`$XDG_DATA_HOME`, which is `~/.local/share` as a rule; `~/Library/Application Support` on macOS; `%APPDATA%` on Windows).
///
/// # Errors
/// [`Error::InvalidClient`] when there is no such directory, as for a user without a home.
pub fn default_path() -> Result<PathBuf> {
    let native = choose_native_strategy().map_err(|error| {
        Error::InvalidClient(format!("this user has no directory for data ({error}); name a file, as sqlite://jobs.db"))
    })?;
    Ok(native.data_dir().join("backfill").join("jobs.db"))
}

/// The URL of [`default_path`]; its directory is made if it is missing.
///
/// # Errors
/// As [`default_path`], and when the directory cannot be made.
pub fn default_url() -> Result<String> {
    let path = default_path()?;
    if let Some(directory) = path.parent() {
        // Payloads are the user's own.
        let mut builder = std::fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.recursive(true).create(directory).map_err(|error| {
            Error::InvalidClient(format!(
                "the directory {} cannot be made ({error}); name another file",
                directory.display()
            ))
        })?;
    }
    Ok(SqliteConnectOptions::new().filename(path).to_url_lossy().to_string())
}
