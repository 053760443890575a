//! Whether the file at the path is still the one that is open.
//!
//! Whoever has opened a file keeps it when it is removed, or when another takes its name: what is written then is lost with the last
//! program that has it open, and nobody else reads it. So each call looks whether the path still leads to the file that was opened
//! first. The same holds for the write-ahead log, in which the newest transactions are.
//!
//! A file is known by its device and its number there (inode), which no other file gets while it is open. Where the system has no such
//! numbers, only a removal is noticed; but there a file that is open cannot be replaced, as a rule. Nothing here opens the file:
//! to close it would release SQLite's locks of the whole process.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use backfill_core::Error;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, SqliteConnection};

/// How often the file is opened while somebody changes it under us. (A file of some `vfs` is nowhere, however often.)
const TRIES: u32 = 5;

/// What makes a file the same.
type Identity = (u64, u64);

/// A path, and which file is meant by it.
pub(crate) struct Place {
    path: PathBuf,
    known: Mutex<Option<Identity>>,
}

impl Place {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, known: Mutex::default() }
    }

    /// Fails when the file is gone, or is another one than that which was opened first.
    pub(crate) fn check(&self) -> sqlx::Result<()> {
        let known = *self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match known {
            Some(known) => still_there(&self.path, known),
            None => Ok(()),
        }
    }

    /// Opens the file, and makes sure that it is the one that is meant.
    pub(crate) async fn open(&self, options: &SqliteConnectOptions) -> sqlx::Result<SqliteConnection> {
        let mut tries = 1;
        loop {
            self.check()?;
            let before = identity(&self.path);
            let connection = options.connect().await?;
            match (before, identity(&self.path)) {
                (Ok(Some(before)), Ok(Some(after))) if before == after => {
                    self.learn(before)?;
                    return Ok(connection);
                }
                // It was made just now, or somebody is changing it.
                (Ok(_), Ok(_)) if tries < TRIES => tries += 1,
                _ => {
                    self.check()?;
                    return Ok(connection);
                }
            }
        }
    }

    fn learn(&self, opened: Identity) -> sqlx::Result<()> {
        let known = *self.known.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(opened);
        if known == opened { Ok(()) } else { Err(gone(&self.path, "was replaced by another file")) }
    }

    /// The write-ahead log beside it.
    pub(crate) fn log(&self) -> Log {
        // SQLite goes by where links lead to.
        let path = self.path.canonicalize().unwrap_or_else(|_| self.path.clone());
        let mut name = OsString::from(path);
        name.push("-wal");
        Log { path: name.into(), known: None }
    }
}

/// The write-ahead log of one connection, as it was when that first wrote. Nobody else may delete it meanwhile.
pub(crate) struct Log {
    path: PathBuf,
    known: Option<Identity>,
}

impl Log {
    /// To be called inside a transaction. A file on a file system without shared memory has no such log.
    pub(crate) fn check(&mut self) -> sqlx::Result<()> {
        if let Some(known) = self.known {
            return still_there(&self.path, known);
        }
        self.known = identity(&self.path).ok().flatten();
        Ok(())
    }
}

fn still_there(path: &Path, known: Identity) -> sqlx::Result<()> {
    match identity(path) {
        Ok(Some(now)) if now == known => Ok(()),
        Ok(Some(_)) => Err(gone(path, "was replaced by another file")),
        Ok(None) => Err(gone(path, "was removed")),
        // It cannot be seen; SQLite says what it can do with it.
        Err(_) => Ok(()),
    }
}

/// Where links lead to; `None` if nothing is there.
fn identity(path: &Path) -> io::Result<Option<Identity>> {
    match std::fs::metadata(path) {
        #[cfg(unix)]
        Ok(found) => {
            use std::os::unix::fs::MetadataExt;
            Ok(Some((found.dev(), found.ino())))
        }
        #[cfg(not(unix))]
        Ok(_) => Ok(Some((0, 0))),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

fn gone(path: &Path, how: &'static str) -> sqlx::Error {
    let storage = format!("the file {}", path.display());
    sqlx::Error::AnyDriverError(Box::new(Error::StorageGone { storage, how }))
}

/// Whether that is what an error says.
pub(crate) fn is_gone(error: &sqlx::Error) -> bool {
    let told = match error {
        sqlx::Error::AnyDriverError(told) => told.downcast_ref(),
        _ => None,
    };
    matches!(told, Some(Error::StorageGone { .. }))
}
