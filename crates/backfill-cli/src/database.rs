//! Which storage is meant, and how secrets stay secret.

use std::env;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use backfill::error::Unready;
use backfill::messages::{self, Queue};
use backfill::postgres::FIRST_WITH_PRIVATE_TABLES;
use backfill::sqlite;
use backfill::storage::{AnyStorage, Backend, OpenOptions};
use backfill::{BackfillClient, Error};
use chrono::{DateTime, Utc};

use crate::args::Global;
use crate::failure::{Failure, failed};
use crate::nearest::nearest;
use crate::variables::{self, variable};

/// Where URLs go, with a number behind, that were given on the command line with a password in them.
pub const HIDDEN_URL: &str = "BACKFILL_DATABASE_URL_ARGUMENT_";

/// What stands on the command line instead of a URL with a password, with the same number behind.
const HIDDEN: &str = "postgres://hidden-";

/// What the URLs of servers begin with, in which a password may be. (Others end with one of these.)
const SCHEMES: [&str; 8] = [
    "postgres://",
    "postgresql://",
    "redis://",
    "rediss://",
    "redis+sentinel://",
    "rediss+sentinel://",
    "redis+cluster://",
    "rediss+cluster://",
];

/// Starts the program again without a password on its command line, where every user of the machine could read it. The
/// environment, where it goes, can be read by the same user and the administrator only.
///
/// Whatever looks like a URL with a password goes, unless another option says that it is something else (such as a key): it
/// may stand behind letters of other options, or where no URL is wanted at all.
#[cfg(unix)]
pub fn hide_password_of_arguments() -> Result<(), Failure> {
    use std::os::unix::process::CommandExt;

    let mut urls = Vec::new();
    let mut kept: Vec<std::ffi::OsString> = Vec::new();
    for argument in env::args_os().skip(1) {
        let after = kept.last().and_then(|last| last.to_str()).unwrap_or_default();
        let Some((before, found)) = argument.to_str().and_then(|argument| url_with_password(after, argument)) else {
            kept.push(argument);
            continue;
        };
        kept.push(format!("{before}{HIDDEN}{}", urls.len()).into());
        urls.push((format!("{HIDDEN_URL}{}", urls.len()), found.to_owned()));
    }
    if urls.is_empty() {
        return Ok(());
    }
    let program = env::current_exe()?;
    let name = env::args_os().next().unwrap_or_else(|| "backfill".into());
    // Only answers if it did not work.
    let error = std::process::Command::new(program).arg0(name).args(kept).envs(urls).exec();
    Err(failed(format!("could not take the password off the command line ({error}); use DATABASE_URL instead")))
}

#[cfg(not(unix))]
pub fn hide_password_of_arguments() -> Result<(), Failure> {
    Ok(())
}

/// The URL with a password that an argument ends with, and what stands before it, such as `--database-url=`. What the argument
/// before it is, matters too.
fn url_with_password<'a>(after: &str, argument: &'a str) -> Option<(&'a str, &'a str)> {
    let start = SCHEMES.into_iter().filter_map(|scheme| argument.find(scheme)).min()?;
    let (before, url) = argument.split_at(start);
    // What users call their own things may be anything. Everywhere else such a text is a URL, or a mistake that has one in it.
    let other =
        |option: &str| matches!(option, "--task" | "--queue" | "--key" | "--flag" | "--forbidden-flags" | "--reason");
    let option = before.trim_end_matches('=');
    let meant = if before.is_empty() { !other(after) } else { option.starts_with('-') && !other(option) };
    (meant && has_password(url)).then_some((before, url))
}

/// Whether this URL has a password in it.
pub fn has_password(url: &str) -> bool {
    let authority = url.split_once("://").map(|(_, rest)| rest.split(['/', '?']).next().unwrap_or_default());
    let user = authority.and_then(|authority| authority.rsplit_once('@')).map(|(user, _)| user);
    user.is_some_and(|user| user.contains(':')) || url.contains("password=")
}

/// Where jobs are kept.
struct Place(Backend);

impl Place {
    /// What this URL means. One with a password was put away at the start.
    fn of(url: &str) -> Result<Self, Failure> {
        let hidden = url.strip_prefix(HIDDEN).and_then(|number| variable(&format!("{HIDDEN_URL}{number}")));
        Ok(Self(Backend::of(&hidden.unwrap_or_else(|| url.to_owned()))?))
    }

    /// The place that the command line, or else the environment, names.
    fn said(global: &Global) -> Result<Option<Self>, Failure> {
        let url = match &global.database_url {
            Some(url) => Some(url.clone()),
            None => variables::set("DATABASE_URL", "postgres://user@host/database")?,
        };
        match url {
            Some(url) => Self::of(&url).map(Some),
            None if variables::names_postgres()? => Ok(Some(Self(Backend::postgres_of_environment()?))),
            None => Ok(None),
        }
    }

    /// The same; or else the user's own file.
    fn named(global: &Global) -> Result<Self, Failure> {
        if let Some(place) = Self::said(global)? {
            return Ok(place);
        }
        let path = sqlite::default_path()?;
        tell_default(&path, global.json || global.quiet);
        Self::of(&sqlite::default_url()?)
    }

    /// The storage as it is: nothing is created, upgraded or even looked at. (But what is away is waited for.)
    async fn open(self, global: &Global, max_wait: Option<Duration>) -> Result<AnyStorage, Failure> {
        self.open_with(global, OpenOptions::default().max_wait(max_wait), schema(global)?).await
    }

    /// The same by these options, in this schema where there are some.
    async fn open_with(
        self,
        global: &Global,
        options: OpenOptions,
        schema: Option<String>,
    ) -> Result<AnyStorage, Failure> {
        let options = options
            .max_connections(4)
            // A worker has connections of its own, and needs these hardly ever after its start.
            .idle_timeout(Duration::from_secs(5))
            .acquire_timeout(Duration::from_secs(10))
            .prepared_statements(!global.no_prepared_statements)
            .application_name("backfill");
        let options = if let Some(default) = self.0.default_schema() {
            let schema = schema.unwrap_or_else(|| default.to_owned());
            if schema.contains("://") {
                return Err(Failure::Usage(
                    "the schema looks like a URL; give that with --database-url, and --schema a name such as graphile_worker"
                        .to_owned(),
                ));
            }
            options.schema(schema)
        } else if let Some(schema) = &global.schema {
            return Err(Failure::Usage(format!(
                "--schema {schema} was given, and only PostgreSQL has schemas, and Redis namespaces; leave it out"
            )));
        } else {
            options
        };
        Ok(options.open(&self.0).await?)
    }
}

/// Says which file is used, since nobody named it; and of a variable that names another, whoever listens.
fn tell_default(path: &Path, quietly: bool) {
    static TOLD: AtomicBool = AtomicBool::new(false);
    if TOLD.swap(true, Ordering::Relaxed) {
        return;
    }
    if let Some(unread) = variables::unread() {
        tracing::warn!("{unread}");
    }
    if quietly {
        return;
    }
    let mut error = std::io::stderr();
    // If it cannot be said, it is used all the same.
    let _ = writeln!(error, "note: no database is named, so jobs are in the SQLite file {}", path.display());
    if !path.exists() {
        let _ = writeln!(
            error,
            "note: for PostgreSQL set DATABASE_URL=postgres://user@host/database; `backfill move --to` it moves waiting jobs there"
        );
    }
}

/// The user's own file, if nobody names a database.
pub fn own_file(global: &Global) -> Result<Option<PathBuf>, Failure> {
    Ok(if Place::said(global)?.is_none() { Some(sqlite::default_path()?) } else { None })
}

/// The schema's name, if one is named.
fn schema(global: &Global) -> Result<Option<String>, Failure> {
    if let Some(schema) = &global.schema {
        return Ok(Some(schema.clone()));
    }
    // Node takes its own variable for unset when it is empty.
    let ours = variables::set("BACKFILL_SCHEMA", "a name such as graphile_worker")?;
    Ok(ours.or_else(|| variable("GRAPHILE_WORKER_SCHEMA")))
}

/// The storage as it is: nothing is created, upgraded or even looked at.
pub async fn storage(global: &Global) -> Result<AnyStorage, Failure> {
    Place::named(global)?.open(global, None).await
}

/// The same, of a database that answers. One that does not is told with its reason at once, or waited for.
pub async fn reached(global: &Global, max_wait: Duration) -> Result<AnyStorage, Failure> {
    Place::named(global)?.open(global, Some(max_wait)).await
}

/// The same with what messages need, which may be missing.
pub async fn reached_for_messages(global: &Global) -> Result<AnyStorage, Failure> {
    let options = OpenOptions::default().max_wait(Some(Duration::ZERO)).messages(true);
    Place::named(global)?.open_with(global, options, schema(global)?).await
}

/// The queues of a namespace. What is missing is created, if that is wanted.
pub async fn messages(
    global: &Global,
    namespace: Option<&str>,
    retention: Option<Duration>,
    creates: bool,
) -> Result<Queue, Failure> {
    let named = global.schema.clone();
    let ours = variables::set("BACKFILL_SCHEMA", "a name such as backfill_messages");
    let schema = named.map_or(ours, |schema| Ok(Some(schema)))?.unwrap_or_else(|| messages::DEFAULT_SCHEMA.to_owned());
    let options = OpenOptions::default().max_wait(Some(Duration::ZERO)).messages(true);
    let storage = Place::named(global)?.open_with(global, options, Some(schema)).await?;
    if creates {
        storage.migrate().await?;
    } else {
        storage.version().await.map_err(|error| match error {
            Error::NotReady { storage, reason: Unready::Missing, .. } => {
                failed(format!("{storage} has no messages in it; `backfill messages send` creates what is needed"))
            }
            error => error.into(),
        })?;
    }
    let namespace = namespace.map(str::to_owned).or_else(|| variable("BACKFILL_NAMESPACE")).unwrap_or_default();
    let queue = Queue::builder().namespace(namespace);
    let queue = if let Some(retention) = retention { queue.retention(retention) } else { queue };
    Ok(queue.with_storage(storage)?)
}

/// The workflows of a database. What is missing is created, if that is wanted.
pub async fn workflows(global: &Global, creates: bool) -> Result<backfill_workflow::Client, Failure> {
    use backfill_workflow::store::Store;

    let schema = global.schema.clone().unwrap_or_else(|| backfill_workflow::DEFAULT_SCHEMA.to_owned());
    let options = OpenOptions::default().max_wait(Some(Duration::ZERO));
    let place = Place::named(global)?;
    let named = place.0.default_schema().map(|_| schema.clone());
    let storage = place.open_with(global, options, named).await?;
    let store: std::sync::Arc<dyn Store> = if let Some(postgres) = storage.postgres() {
        std::sync::Arc::new(backfill_workflow::postgres::PostgresStore::new(postgres.pool().clone(), &schema)?)
    } else if let Some(file) = storage.sqlite() {
        let path = file.path();
        if !creates && !path.exists() {
            return Err(failed(format!("there is no file {}", path.display())));
        }
        std::sync::Arc::new(
            backfill_workflow::sqlite::SqliteStore::open(&format!("sqlite://{}", path.display())).await?,
        )
    } else {
        let name = storage.storage().name();
        return Err(Failure::Usage(format!("{name} keeps no workflows; name a PostgreSQL database or an SQLite file")));
    };
    if creates {
        store.migrate().await?;
    }
    Ok(backfill_workflow::Client::of_store(store))
}

/// The storage that this URL means, or that is meant when none is given; it answers.
pub async fn reached_at(global: &Global, url: Option<&str>) -> Result<AnyStorage, Failure> {
    let place = url.map_or_else(|| Place::named(global), Place::of)?;
    place.open(global, Some(Duration::ZERO)).await
}

/// What tells the place that this URL means, or that is meant when none is given, from others. Holds no secret.
pub fn identity(global: &Global, url: Option<&str>) -> Result<String, Failure> {
    let Place(backend) = url.map_or_else(|| Place::named(global), Place::of)?;
    let schema = schema(global)?.or_else(|| backend.default_schema().map(str::to_owned));
    Ok(backend.identity(&schema.unwrap_or_default()))
}

/// Whether what this URL means, or what is meant when none is given, has schemas.
pub fn has_schemas(global: &Global, url: Option<&str>) -> Result<bool, Failure> {
    let Place(backend) = url.map_or_else(|| Place::named(global), Place::of)?;
    Ok(backend.has_schemas())
}

/// A client for looking at a queue and for managing it, which works on any database that a Node fleet uses.
pub async fn client(global: &Global) -> Result<BackfillClient, Failure> {
    let storage = reached(global, Duration::ZERO).await?;
    check(&storage).await?;
    Ok(BackfillClient::with_storage(storage))
}

/// Fails unless jobs can be looked at, managed and added: a file that is not there, or what is too old or too new. A schema may be
/// of any revision that Node works with, and need not have our own objects. Jobs that row security hides are told as that.
pub async fn check(storage: &AnyStorage) -> Result<(), Error> {
    match storage.version().await {
        Err(Error::NotReady { reason: Unready::OwnObjectsMissing, .. }) => {}
        Err(Error::NotReady { reason: Unready::Outdated { found, .. }, .. }) if found >= FIRST_WITH_PRIVATE_TABLES => {}
        checked => drop(checked?),
    }
    match storage.postgres() {
        Some(postgres) => postgres.check_visible().await,
        None => Ok(()),
    }
}

/// What time it is where the jobs are; or here, if that cannot be told.
pub async fn now(client: &BackfillClient) -> DateTime<Utc> {
    client.storage().now().await.unwrap_or_else(|_| Utc::now())
}

/// The schema, of a storage in PostgreSQL.
pub fn schema_of(storage: &AnyStorage) -> Option<String> {
    storage.postgres().map(|postgres| postgres.schema().to_owned())
}

/// Says of a schema that does not have a job queue, or is about to get one, that others have: the name may be mistyped.
pub async fn elsewhere(storage: &AnyStorage) -> String {
    const TIMEOUT: Duration = Duration::from_secs(5);
    let Some(postgres) = storage.postgres() else { return String::new() };
    // Only a hint: when it cannot be had, there is none.
    let Ok(Ok(mut others)) = tokio::time::timeout(TIMEOUT, postgres.schemas()).await else { return String::new() };
    others.retain(|other| other != postgres.schema());
    if let Some(other) = nearest(postgres.schema(), others.iter().map(String::as_str)) {
        return format!(" (did you mean {other:?}, which has one?)");
    }
    match &others[..] {
        [] => String::new(),
        [other] => format!(" ({other:?} has one)"),
        [first, rest @ ..] => format!(" ({first:?} has one, and {} more do)", rest.len()),
    }
}

/// The same of a schema that is not there yet, or nothing.
pub async fn elsewhere_if_missing(storage: &AnyStorage) -> Option<String> {
    match storage.version().await {
        Err(error) if error.is_missing() => Some(elsewhere(storage).await),
        _ => None,
    }
}

/// What people call the place, and what they call its version.
pub fn described(storage: &AnyStorage) -> (String, &'static str) {
    if let Some(schema) = schema_of(storage) {
        return (format!("the schema {schema:?}"), "revision");
    }
    match storage.sqlite() {
        Some(file) => (format!("the file {}", file.path().display()), "version"),
        None => (storage.storage().name(), "version"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_recognised_wherever_a_url_may_have_it() {
        for with in
            ["postgres://u:p@h/d", "postgres://u:@h", "postgres://h/d?user=u&password=p", "postgres://u:a%40b@h:1/d"]
        {
            assert!(has_password(with), "{with}");
        }
        let url = "postgres://u:p@h";
        for (after, argument, before) in [
            ("worker", "-vcpostgres://u:p@h", "-vc"),
            ("", "--database-url=postgres://u:p@h", "--database-url="),
            ("-vc", url, ""),
            ("--connection", url, ""),
            ("--to", url, ""),
            ("", "--from=postgres://u:p@h", "--from="),
            ("jobs", url, ""),
            ("--schema", url, ""),
            ("", "--limit=postgres://u:p@h", "--limit="),
        ] {
            assert_eq!(url_with_password(after, argument), Some((before, url)), "{after} {argument}");
        }
        for url in SCHEMES.map(|scheme| format!("{scheme}u:p@h")) {
            assert_eq!(url_with_password("--database-url", &url), Some(("", url.as_str())), "{url}");
        }
        for (after, argument) in
            [("mail", "{\"see\": \"postgres://u:p@h\"}"), ("--key", url), ("", "--key=postgres://u:p@h")]
        {
            assert_eq!(url_with_password(after, argument), None, "{after} {argument}: none of our business");
        }
        for without in ["postgres://h/d", "postgres://u@h:5432/d", "postgres://h:5432", "h", "postgres://h/a:b@c"] {
            assert!(!has_password(without), "{without}");
        }
    }
}
