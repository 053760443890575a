//! What a database URL means, and what service files and the environment say beside it.
//!
//! As with PostgreSQL's own library, what the URL says comes first, then the service, then the variables `PG*`, then what is usual.
//! Beside its parameters those of Node's driver are known, so that a fleet's URL means to us what it means to Node. The driver gets
//! nothing but what it understands: no wish for security is passed over, and nothing else is told on each start.
//!
//! | file | what it knows |
//! | --- | --- |
//! | `url` | which parameters a URL says |
//! | `service` | which ones a service file says |
//! | `parameters` | which ones there are: taken, refused or passed over |
//! | `user` | who logs in where nobody says it |

mod parameters;
mod service;
mod url;
mod user;

use std::env;
use std::path::Path;

use form_urlencoded::Serializer;
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use crate::error::{Error, Result};
use crate::nearest::did_you_mean;
use parameters::{Known, TAKEN, Wish};
pub(in crate::postgres) use user::why as why_this_user;

const UNREADABLE: &str = "the database URL cannot be read; it looks like postgres://user:password@host:5432/database, with special \
                          characters in the password percent-encoded and a port from 1 to 65535";

/// Node's: an encrypted connection to whomever.
const NO_VERIFY: &str = "no-verify";
const MODES: [&str; 7] = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full", NO_VERIFY];
/// Where servers have their sockets, in Debian's packages, on macOS, and by themselves.
const SOCKETS: [&str; 3] = ["/var/run/postgresql", "/private/tmp", "/tmp"];

/// What this URL means; without one, what a service and the variables `PG*` say.
///
/// A parameter of the URL counts before one of the service that `service` or `PGSERVICE` names, and that before a variable. A user
/// whom nobody names is the operating system's, as for `psql`. A user without a host is one at `localhost`, unless `host` names
/// another, or the directory of a socket.
///
/// `sslmode=no-verify`, as Node's driver has it, is `require`: encrypted, and no certificate is looked at. `ssl=true` is
/// `verify-full`, and `ssl=false` is `disable`, also as Node has them. `allow` is `prefer`.
///
/// A wish for security that cannot be met is refused, such as `channel_binding=require` or `PGGSSENCMODE=require`. Other
/// parameters of other drivers are passed over, which is logged once.
///
/// # Errors
/// [`Error::InvalidClient`] when it cannot be read, names several hosts, or has a value that is not understood or cannot be heeded;
/// when the service is not found; and when nobody says who the user is, not even the operating system. The message repeats nothing
/// that could be secret.
pub fn address(url: Option<&str>) -> Result<PgConnectOptions> {
    Settings::gather(url, &|name| env::var(name).ok())?.options()
}

/// Looks up an environment variable.
type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Who says something.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    Url,
    Service(String),
    Variable(&'static str),
}

/// One thing that is said.
#[derive(Clone, Debug)]
struct Said {
    name: &'static str,
    value: String,
    by: Source,
}

impl Said {
    /// What people look for.
    fn what(&self) -> String {
        match &self.by {
            Source::Url => self.name.to_owned(),
            Source::Service(service) => format!("{} of the service {service:?}", self.name),
            Source::Variable(name) => (*name).to_owned(),
        }
    }
}

/// Everything that is said, the weightier first.
#[derive(Debug, Default)]
struct Settings {
    said: Vec<Said>,
    /// The URL has a place for a user, and nothing in the place for the host.
    user_only: bool,
}

impl Settings {
    fn gather(url: Option<&str>, variables: Variables<'_>) -> Result<Self> {
        let mut settings = Self::default();
        if let Some(url) = url {
            let parsed = url::parse(url)?;
            settings.user_only = parsed.user_only;
            for (name, value) in parsed.parameters {
                settings.take(&name, value, &Source::Url)?;
            }
        }
        let variable = |name: &str| variables(name).filter(|value| !value.is_empty());
        if let Some(service) = settings.get("service").map(str::to_owned).or_else(|| variable("PGSERVICE")) {
            let file = settings.get("servicefile").map(str::to_owned).or_else(|| variable("PGSERVICEFILE"));
            let system = variable("PGSYSCONFDIR");
            for (name, value) in service::read(&service, file.as_deref(), system.as_deref())? {
                settings.take(&name, value, &Source::Service(service.clone()))?;
            }
        }
        for (name, from) in parameters::VARIABLES {
            if let Some(value) = variable(from) {
                settings.take(name, value, &Source::Variable(from))?;
            }
        }
        Ok(settings)
    }

    /// Takes what is said, refuses it, or passes it over.
    fn take(&mut self, name: &str, value: String, by: &Source) -> Result<()> {
        if value.contains('\0') {
            return Err(Error::InvalidClient(format!("{name} holds a zero byte, which PostgreSQL cannot take")));
        }
        match parameters::known(name) {
            Known::Taken(name) => self.said.push(Said { name, value, by: by.clone() }),
            Known::Wish(wish) => {
                let said = Said { name: wish.name, value, by: by.clone() };
                refuse_unless_fine(&said, wish)?;
            }
            Known::Harmless => parameters::tell_once(name, ""),
            Known::Unknown { meant, about_security: true } => {
                return Err(Error::InvalidClient(format!(
                    "{name} in the database URL is not known, and may be a wish for security{meant}"
                )));
            }
            Known::Unknown { meant, .. } => parameters::tell_once(name, &meant),
        }
        Ok(())
    }

    /// The weightiest thing that is said of this.
    fn said(&self, name: &str) -> Option<&Said> {
        // Of two in one place the last one counts, as with PostgreSQL's own library.
        let first = self.said.iter().find(|said| said.name == name)?;
        self.said.iter().rfind(|said| said.name == name && said.by == first.by)
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.said(name).map(|said| said.value.as_str()).filter(|value| !value.is_empty())
    }

    fn options(&self) -> Result<PgConnectOptions> {
        let mut driver = Serializer::new(String::new());
        let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
        let mut ports = self.said.iter().filter(|said| said.name == "port" && !said.value.is_empty());
        if let Some(said) = ports.find(|said| !is_port(&said.value)) {
            let (what, port) = (said.what(), &said.value);
            return Err(Error::InvalidClient(format!("{what} is {port:?}, and must be a number from 1 to 65535")));
        }
        let port = self.get("port").unwrap_or("5432");
        driver.append_pair("port", port);
        driver.append_pair("host", &self.host(port)?);
        match self.get("user") {
            Some(user) => driver.append_pair("user", user),
            None => driver.append_pair("user", &user::of_the_system()?),
        };
        let mode = self.mode()?;
        driver.append_pair("sslmode", mode);
        for (name, driver_name) in TAKEN {
            if let (Some(said), Some(driver_name)) = (self.said(name), driver_name) {
                if matches!(said.by, Source::Variable(_)) || said.value.is_empty() {
                    // The driver has read the variable itself.
                    continue;
                }
                if name == "sslrootcert" && said.value == "system" {
                    continue;
                }
                driver.append_pair(driver_name, &said.value);
            }
        }
        if mode != "disable" {
            self.check_files()?;
        }
        for setting in self.said.iter().filter(|said| said.name == parameters::ONE_OPTION) {
            driver.append_pair("options", &setting.value);
        }
        if let Some(name) = self.get("fallback_application_name").filter(|_| self.get("application_name").is_none()) {
            driver.append_pair("application_name", name);
        }
        // In this form it reads all of them, and the file of passwords too.
        let options: PgConnectOptions = format!("postgres:///?{}", driver.finish())
            .parse()
            .map_err(|_| Error::InvalidClient(UNREADABLE.to_owned()))?;
        Ok(if mode == "disable" { options.ssl_mode(PgSslMode::Disable) } else { options })
    }

    fn host(&self, port: &str) -> Result<String> {
        let addressed = self.said("hostaddr").filter(|said| !said.value.is_empty());
        let named = self.said("host").filter(|said| !said.value.is_empty());
        let said = match (addressed, named) {
            // An address from the environment is none of a host that the URL names.
            (Some(address), Some(host)) if address.by != host.by && host.by == Source::Url => Some(host),
            (address, host) => address.or(host),
        };
        match said {
            Some(said) if said.value.contains(',') => Err(Error::InvalidClient(format!(
                "{} names several hosts ({}), and only one is tried; name the one that takes writes, or a name or proxy that always leads \
                 to it",
                if said.by == Source::Url { "the database URL".to_owned() } else { said.what() },
                said.value,
            ))),
            Some(said) => Ok(said.value.trim_start_matches('[').trim_end_matches(']').to_owned()),
            None if self.user_only => Ok("localhost".to_owned()),
            None => {
                let socket = format!(".s.PGSQL.{port}");
                let there = SOCKETS.iter().find(|directory| Path::new(directory).join(&socket).exists());
                Ok(there.map_or("localhost", |directory| directory).to_owned())
            }
        }
    }

    /// How the connection is encrypted, in the driver's words.
    fn mode(&self) -> Result<&'static str> {
        const WORDS: [&str; 3] = ["sslmode", "ssl", "requiressl"];
        // A wish that is not understood is no less one because another comes first.
        self.said
            .iter()
            .filter(|said| WORDS.contains(&said.name) && !said.value.is_empty())
            .try_for_each(|said| mode_of(said).map(drop))?;
        let said = WORDS.into_iter().filter_map(|name| self.said(name));
        // Of one who says two of them, the mode is more exact.
        let weight = |by: &Source| match by {
            Source::Url => 0,
            Source::Service(_) => 1,
            Source::Variable(_) => 2,
        };
        let said = said.filter(|said| !said.value.is_empty()).min_by_key(|said| weight(&said.by));
        let mode = match said {
            None => "prefer",
            Some(said) => mode_of(said)?,
        };
        if self.get("sslrootcert") != Some("system") {
            return Ok(mode);
        }
        let by_variable = self.said("sslrootcert").is_some_and(|said| matches!(said.by, Source::Variable(_)));
        if by_variable {
            return Err(Error::InvalidClient(
                "PGSSLROOTCERT is \"system\", which is used anyhow; unset it, and set PGSSLMODE=verify-full".to_owned(),
            ));
        }
        match said {
            None => Ok("verify-full"),
            Some(_) if mode == "verify-full" => Ok(mode),
            Some(said) => Err(Error::InvalidClient(format!(
                "sslrootcert is \"system\", and {} is {:?}; write sslmode=verify-full",
                said.what(),
                said.value
            ))),
        }
    }

    /// A file that is not there would look like a server that is not.
    fn check_files(&self) -> Result<()> {
        for name in ["sslrootcert", "sslcert", "sslkey"] {
            let Some(said) = self.said(name).filter(|said| !said.value.is_empty()) else { continue };
            // It may stand there itself.
            if said.value.contains("-----BEGIN") || said.value == "system" {
                continue;
            }
            if let Err(error) = std::fs::metadata(&said.value) {
                return Err(Error::InvalidClient(format!(
                    "{} names the file {:?}, which cannot be read ({error})",
                    said.what(),
                    said.value
                )));
            }
        }
        Ok(())
    }
}

/// The mode that this means.
fn mode_of(said: &Said) -> Result<&'static str> {
    let value = said.value.as_str();
    match (said.name, value) {
        ("requiressl", "1") | ("ssl", NO_VERIFY) => return Ok("require"),
        ("requiressl", _) => return Ok("prefer"),
        ("ssl", "true" | "1") => return Ok("verify-full"),
        ("ssl", "false" | "0") => return Ok("disable"),
        ("ssl", _) => {
            return Err(Error::InvalidClient(format!(
                "{} is {value:?} in the database URL, and must be true or false",
                said.what()
            )));
        }
        _ => {}
    }
    match MODES.into_iter().find(|mode| *mode == value) {
        Some(NO_VERIFY) => Ok("require"),
        // The driver would not encrypt where a server insists on it.
        Some("allow") => Ok("prefer"),
        Some(mode) => Ok(mode),
        None => {
            let meant = did_you_mean(value, MODES);
            Err(Error::InvalidClient(format!(
                "{} is {value:?}, and must be one of {}{meant}",
                said.what(),
                MODES.join(", ")
            )))
        }
    }
}

fn refuse_unless_fine(said: &Said, wish: &Wish) -> Result<()> {
    if said.value.is_empty() || wish.fine.iter().any(|fine| fine.eq_ignore_ascii_case(&said.value)) {
        return Ok(());
    }
    // What is never fine may hold a secret.
    let value = if wish.fine.is_empty() { String::new() } else { format!("={}", said.value) };
    Err(Error::InvalidClient(format!("{}{value} cannot be heeded: {}", said.what(), wish.instead)))
}

#[cfg(test)]
mod tests;
