//! Service files of PostgreSQL's own library: named sets of parameters.
//!
//! A service is looked for in the user's file (`PGSERVICEFILE`, or `.pg_service.conf` in the home directory), and then in the
//! machine's, `pg_service.conf` in the directory `PGSYSCONFDIR`.

use std::env;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::nearest::nearest;

/// Where Debian's packages, and most others, have the machine's file.
const USUAL: [&str; 2] = ["/etc/postgresql-common", "/etc"];
const NAME: &str = "pg_service.conf";

/// What this service says.
///
/// # Errors
/// [`Error::InvalidClient`] when it, or the file that was named, is not found or cannot be read.
pub(super) fn read(service: &str, file: Option<&str>, system: Option<&str>) -> Result<Vec<(String, String)>> {
    let mut files: Vec<PathBuf> = Vec::new();
    match file {
        Some(file) => {
            if !Path::new(file).exists() {
                return Err(wrong(format!(
                    "the service file {file:?} is not there, in which {service:?} is looked for"
                )));
            }
            files.push(file.into());
        }
        None => files.extend(env::home_dir().map(|home| home.join(".pg_service.conf"))),
    }
    match system {
        Some(directory) => files.push(Path::new(directory).join(NAME)),
        None => files.extend(USUAL.iter().map(|directory| Path::new(directory).join(NAME))),
    }
    let mut others = Vec::new();
    for file in &files {
        let text = match fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(wrong(format!("the service file {} cannot be read: {error}", file.display()))),
        };
        if let Some(found) = find(service, &text, file, &mut others)? {
            return Ok(found);
        }
    }
    let looked: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    let meant = nearest(service, others.iter().map(String::as_str));
    let meant = meant.map(|meant| format!("; did you mean {meant:?}?")).unwrap_or_default();
    Err(wrong(format!("the service {service:?} is in none of {}{meant}", looked.join(", "))))
}

/// The parameters under `[service]`, if that is there. The names of the others are kept.
fn find(service: &str, text: &str, file: &Path, others: &mut Vec<String>) -> Result<Option<Vec<(String, String)>>> {
    let mut found: Option<Vec<(String, String)>> = None;
    for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let place = || format!("line {} of the service file {}", number + 1, file.display());
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix('[') {
            // The first one of the name counts.
            if found.is_some() {
                break;
            }
            let name = name.strip_suffix(']').ok_or_else(|| wrong(format!("{} has no closing bracket", place())))?;
            if name == service {
                found = Some(Vec::new());
            } else {
                others.push(name.to_owned());
            }
            continue;
        }
        let Some(found) = &mut found else { continue };
        if line.starts_with("ldap") {
            return Err(wrong(format!(
                "{} sends to LDAP, which is not asked; write the parameters themselves",
                place()
            )));
        }
        match line.split_once('=') {
            Some(("service" | "servicefile", _)) => {
                return Err(wrong(format!("{} names another service, which is not followed", place())));
            }
            Some((name, value)) => found.push((name.to_owned(), value.to_owned())),
            // It may be a password.
            None => return Err(wrong(format!("{} has no equals sign", place()))),
        }
    }
    Ok(found)
}

fn wrong(problem: String) -> Error {
    Error::InvalidClient(problem)
}
