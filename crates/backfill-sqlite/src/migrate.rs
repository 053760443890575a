//! The file's version.

use std::sync::Arc;

use backfill_core::error::{Error, Result, Unready};
use backfill_core::storage::Migrated;
use sqlx::SqliteConnection;

use crate::errors::failed;
use crate::file::File;

/// The scripts, in order; a file's version is the number of those it has seen. None is ever changed.
const SCRIPTS: [&str; 8] = [
    include_str!("../sql/001_jobs.sql"),
    include_str!("../sql/002_dead_after.sql"),
    include_str!("../sql/003_queues.sql"),
    include_str!("../sql/004_serves.sql"),
    include_str!("../sql/005_status.sql"),
    include_str!("../sql/006_freed.sql"),
    include_str!("../sql/007_in_place.sql"),
    include_str!("../sql/008_lists.sql"),
];

/// The same of what messages need, in files that want them. They have a ledger of their own.
const MESSAGES: [&str; 1] = [include_str!("../sql/messages/001_messages.sql")];

/// The version of file that this crate works with.
pub const VERSION: i32 = version_of(&SCRIPTS);

const fn version_of(scripts: &[&str]) -> i32 {
    // There are few.
    #[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "there are few")]
    {
        scripts.len() as i32
    }
}

/// Brings the file to [`VERSION`], in one transaction; makes it if it is not there. Adds what messages need, if they are wanted.
pub(crate) async fn migrate(file: &Arc<File>, messages: bool) -> Result<Migrated> {
    let migrated = migrate_by(file, &SCRIPTS).await?;
    if messages && messages_version(file).await? < version_of(&MESSAGES) {
        let now = file.now();
        let work = file.writer.write("migrate the file", move |connection| {
            Box::pin(async move {
                let applied = read_messages_version(connection).await?;
                for (number, script) in (1_i32..).zip(MESSAGES).filter(|(number, _)| *number > applied) {
                    sqlx::raw_sql(script).execute(&mut *connection).await?;
                    sqlx::query!(
                        "insert into backfill_message_migrations (version, applied_at) values (?1, ?2)",
                        number,
                        now
                    )
                    .execute(&mut *connection)
                    .await?;
                }
                Ok(())
            })
        });
        work.await?;
    }
    Ok(migrated)
}

async fn migrate_by(file: &Arc<File>, scripts: &'static [&'static str]) -> Result<Migrated> {
    let to = version_of(scripts);
    if let Ok(Some(from)) = version(file).await {
        // The usual case takes no lock.
        if from >= to {
            return known(file, from, to).map(|()| Migrated::new(Some(from), from));
        }
    }
    let now = file.now();
    let from = file
        .writer
        .write("migrate the file", move |connection| {
            Box::pin(async move {
                let from = read_version(connection).await?;
                let applied = from.unwrap_or(0);
                for (number, script) in (1_i32..).zip(scripts).filter(|(number, _)| *number > applied) {
                    sqlx::raw_sql(*script).execute(&mut *connection).await?;
                    sqlx::query!("insert into backfill_migrations (version, applied_at) values (?1, ?2)", number, now)
                        .execute(&mut *connection)
                        .await?;
                }
                Ok(from)
            })
        })
        .await?;
    known(file, from.unwrap_or(0), to)?;
    Ok(Migrated::new(from, to))
}

/// Fails unless the file is there and has a version that this crate works with.
pub(crate) async fn check(file: &Arc<File>, messages: bool) -> Result<i32> {
    let storage = || format!("the file {}", file.path().display());
    match version(file).await? {
        None => Err(Error::not_ready(storage(), Unready::Missing)),
        Some(version) if version < VERSION => {
            Err(Error::not_ready(storage(), Unready::Outdated { found: version, needed: VERSION }))
        }
        Some(_) if messages && messages_version(file).await? < version_of(&MESSAGES) => {
            Err(Error::not_ready(storage(), Unready::MessagesMissing))
        }
        Some(version) => known(file, version, VERSION).map(|()| version),
    }
}

fn known(file: &File, version: i32, supported: i32) -> Result<()> {
    if version <= supported {
        return Ok(());
    }
    let reason = Unready::TooNew { found: version, breaking: None, supported };
    Err(Error::not_ready(format!("the file {}", file.path().display()), reason))
}

/// The file's version, if it is there and has one.
async fn version(file: &Arc<File>) -> Result<Option<i32>> {
    file.check("read the file's version")?;
    if !file.path().exists() {
        return Ok(None);
    }
    let mut connection = file.reader().await.map_err(failed("open the file"))?;
    read_version(&mut connection).await.map_err(failed("read the file's version"))
}

async fn read_version(connection: &mut SqliteConnection) -> sqlx::Result<Option<i32>> {
    let there = sqlx::query_scalar!(
        r#"select count(*) as "count!: i64" from sqlite_schema where type = 'table' and name = 'backfill_migrations'"#
    )
    .fetch_one(&mut *connection)
    .await?;
    if there == 0 {
        return Ok(None);
    }
    let version = sqlx::query_scalar!(r#"select max(version) as "version?: i64" from backfill_migrations"#)
        .fetch_one(connection)
        .await?;
    Ok(version.map(|version| i32::try_from(version).unwrap_or(i32::MAX)))
}

/// How many of the scripts of messages this file has seen.
async fn messages_version(file: &Arc<File>) -> Result<i32> {
    let mut connection = file.reader().await.map_err(failed("open the file"))?;
    read_messages_version(&mut connection).await.map_err(failed("read the file's version"))
}

async fn read_messages_version(connection: &mut SqliteConnection) -> sqlx::Result<i32> {
    let there = sqlx::query_scalar!(
        r#"
select count(*) as "count!: i64" from sqlite_schema where type = 'table' and name = 'backfill_message_migrations'
"#
    );
    if there.fetch_one(&mut *connection).await? == 0 {
        return Ok(0);
    }
    let version =
        sqlx::query_scalar!(r#"select coalesce(max(version), 0) as "version!: i64" from backfill_message_migrations"#);
    Ok(i32::try_from(version.fetch_one(connection).await?).unwrap_or(i32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEXT: [&str; SCRIPTS.len() + 1] = followed_by("create table backfill_next (id integer) strict;");
    const BROKEN: [&str; SCRIPTS.len() + 1] =
        followed_by("create table backfill_last (id integer) strict; insert into nowhere values (1);");

    const fn followed_by(last: &'static str) -> [&'static str; SCRIPTS.len() + 1] {
        let mut scripts = [last; SCRIPTS.len() + 1];
        let mut number = 0;
        while number < SCRIPTS.len() {
            scripts[number] = SCRIPTS[number];
            number += 1;
        }
        scripts
    }

    const NEXT_VERSION: i32 = VERSION + 1;

    fn file() -> (tempfile::TempDir, Arc<File>) {
        let directory = tempfile::tempdir().unwrap();
        let file = File::new(&format!("sqlite://{}/jobs.db", directory.path().display())).unwrap();
        (directory, Arc::new(file))
    }

    #[tokio::test]
    async fn an_older_file_is_migrated_in_one_transaction() {
        let (_directory, file) = file();
        assert_eq!(migrate(&file, false).await.unwrap(), Migrated::new(None, VERSION));
        assert_eq!(migrate(&file, false).await.unwrap(), Migrated::new(Some(VERSION), VERSION));
        let error = migrate_by(&file, &BROKEN).await.unwrap_err().to_string();
        assert!(error.contains("nowhere"), "{error}");
        assert_eq!(version(&file).await.unwrap(), Some(VERSION), "nothing of the script is left");
        assert_eq!(migrate_by(&file, &NEXT).await.unwrap(), Migrated::new(Some(VERSION), VERSION + 1));
        assert_eq!(version(&file).await.unwrap(), Some(VERSION + 1));
    }

    #[tokio::test]
    async fn a_newer_file_is_refused() {
        let (_directory, file) = file();
        assert!(check(&file, false).await.unwrap_err().is_missing());
        migrate_by(&file, &NEXT).await.unwrap();
        for error in [migrate(&file, false).await.unwrap_err(), check(&file, false).await.unwrap_err()] {
            let reason = Unready::TooNew { found: NEXT_VERSION, breaking: None, supported: VERSION };
            assert!(matches!(&error, Error::NotReady { reason: told, .. } if *told == reason), "{error}");
            assert!(error.to_string().contains("upgrade"), "{error}");
        }
    }
}
