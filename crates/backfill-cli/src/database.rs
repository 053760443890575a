//! Which database is meant, and how secrets stay secret.

use std::env;
use std::time::Duration;

use backfill::BackfillClient;
use backfill::storage::postgres::{DEFAULT_SCHEMA, PostgresStorage};
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use crate::args::Global;
use crate::failure::{Failure, failed};

/// Where the URL goes when it was given on the command line with a password in it.
pub const HIDDEN_URL: &str = "BACKFILL_DATABASE_URL_ARGUMENT";

const UNREADABLE: &str = "the database URL cannot be read; it looks like postgres://user:password@host:5432/database, with special \
                          characters in the password percent-encoded";

/// What stands on the command line instead of a URL with a password.
const HIDDEN: &str = "postgres://hidden";

/// Starts the program again without a password on its command line, where every user of the machine could read it. The
/// environment, where it goes, can be read by the same user and the administrator only.
///
/// Whatever looks like a URL with a password goes, unless another option says that it is something else (such as a key): it
/// may stand behind letters of other options, or where no URL is wanted at all.
#[cfg(unix)]
pub fn hide_password_of_arguments() -> Result<(), Failure> {
    use std::os::unix::process::CommandExt;

    let mut url = None;
    let mut kept: Vec<std::ffi::OsString> = Vec::new();
    for argument in env::args_os().skip(1) {
        let after = kept.last().and_then(|last| last.to_str()).unwrap_or_default();
        let Some((before, found)) = argument.to_str().and_then(|argument| url_with_password(after, argument)) else {
            kept.push(argument);
            continue;
        };
        kept.push(format!("{before}{HIDDEN}").into());
        url = Some(found.to_owned());
    }
    let Some(url) = url else { return Ok(()) };
    let program = env::current_exe()?;
    let name = env::args_os().next().unwrap_or_else(|| "backfill".into());
    // Only answers if it did not work.
    let error = std::process::Command::new(program).arg0(name).args(kept).env(HIDDEN_URL, url).exec();
    Err(failed(format!("could not take the password off the command line ({error}); use DATABASE_URL instead")))
}

#[cfg(not(unix))]
pub fn hide_password_of_arguments() -> Result<(), Failure> {
    Ok(())
}

/// The URL with a password that an argument ends with, and what stands before it, such as `--database-url=`. What the argument
/// before it is, matters too.
fn url_with_password<'a>(after: &str, argument: &'a str) -> Option<(&'a str, &'a str)> {
    let start = ["postgres://", "postgresql://"].into_iter().filter_map(|scheme| argument.find(scheme)).min()?;
    let (before, url) = argument.split_at(start);
    let other = |option: &str| option.starts_with("--") && !matches!(option, "--database-url" | "--connection");
    let option = before.trim_end_matches('=');
    let meant = if before.is_empty() { !other(after) } else { option.starts_with('-') && !other(option) };
    (meant && has_password(url)).then_some((before, url))
}

fn has_password(url: &str) -> bool {
    let authority = url.split_once("://").map(|(_, rest)| rest.split(['/', '?']).next().unwrap_or_default());
    let user = authority.and_then(|authority| authority.rsplit_once('@')).map(|(user, _)| user);
    user.is_some_and(|user| user.contains(':')) || url.contains("password=")
}

fn options(global: &Global) -> Result<PgConnectOptions, Failure> {
    let variable = |name| env::var(name).ok().filter(|value| !value.is_empty());
    let hidden = || variable(HIDDEN_URL);
    let given = global.database_url.clone().map(|url| if url == HIDDEN { hidden().unwrap_or(url) } else { url });
    let url = given.or_else(|| variable("DATABASE_URL"));
    if let Some(scheme) = url.as_deref().and_then(|url| url.split_once("://")).map(|(scheme, _)| scheme)
        && !matches!(scheme, "postgres" | "postgresql")
    {
        return Err(Failure::Usage(format!("the database URL begins with {scheme}://, and only postgres:// is known")));
    }
    if let Some(port) = variable("PGPORT").filter(|port| port.parse::<u16>().is_err()) {
        return Err(Failure::Usage(format!("PGPORT is {port:?}, and must be a number from 1 to 65535")));
    }
    let options: PgConnectOptions = match url {
        // The driver's message may repeat parts of the URL.
        Some(url) => url.parse().map_err(|_| Failure::Usage(UNREADABLE.to_owned()))?,
        None if ["PGHOST", "PGHOSTADDR", "PGDATABASE", "PGUSER"].into_iter().any(|name| variable(name).is_some()) => {
            PgConnectOptions::new()
        }
        None => {
            return Err(Failure::Usage(
                "no database is named (of PostgreSQL's variables, PGSERVICE is not known); give --database-url postgres://user@host/database, or set DATABASE_URL, or PGHOST, \
                 PGDATABASE and the like"
                    .to_owned(),
            ));
        }
    };
    Ok(if options.get_application_name().is_none() { options.application_name("backfill") } else { options })
}

/// The schema's name.
pub fn schema(global: &Global) -> String {
    let variable = |name| env::var(name).ok().filter(|value| !value.is_empty());
    global
        .schema
        .clone()
        .or_else(|| variable("BACKFILL_SCHEMA"))
        .or_else(|| variable("GRAPHILE_WORKER_SCHEMA"))
        .unwrap_or_else(|| DEFAULT_SCHEMA.to_owned())
}

fn pool(global: &Global) -> Result<PgPool, Failure> {
    Ok(PgPoolOptions::new()
        .max_connections(4)
        .acquire_timeout(Duration::from_secs(10))
        .connect_lazy_with(options(global)?))
}

/// The storage as it is: nothing is created, upgraded or even looked at.
pub fn storage(global: &Global) -> Result<PostgresStorage, Failure> {
    let prepared = !global.no_prepared_statements;
    Ok(PostgresStorage::with_prepared_statements(pool(global)?, &schema(global), prepared)?)
}

/// The same, of a database that answers. One that does not is told with its reason at once, or waited for.
pub async fn reached(global: &Global, patience: Duration) -> Result<PostgresStorage, Failure> {
    let storage = storage(global)?;
    storage.reach(patience).await?;
    Ok(storage)
}

/// A client for looking at a queue and for managing it, which works on any database that a Node fleet uses.
pub async fn client(global: &Global) -> Result<BackfillClient, Failure> {
    Ok(BackfillClient::with_storage(std::sync::Arc::new(reached(global, Duration::ZERO).await?)))
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
            ("jobs", url, ""),
        ] {
            assert_eq!(url_with_password(after, argument), Some((before, url)), "{after} {argument}");
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
