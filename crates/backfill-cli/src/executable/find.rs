//! Which files are tasks, and what they are called.
//!
//! Node's rules: directories are walked, a task is called by its path without extensions, names are made of letters, digits, `_` and
//! `-`, the owner must be allowed to execute the file, links to files are followed and links to directories are not.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use backfill::job::limits::MAX_TASK_NAME_CHARS;

/// What is in a directory.
#[derive(Debug, Default)]
pub struct Found {
    /// The programs by the names of their tasks.
    pub tasks: BTreeMap<String, PathBuf>,
    /// What looks like a task and is none, and why.
    pub others: Vec<String>,
}

/// Looks through a directory.
pub fn find(directory: &Path) -> io::Result<Found> {
    let mut found = Found::default();
    // Programs are started from the current directory, so a relative path would do; a link that changes would not.
    walk(&directory.canonicalize()?, "", &mut found)?;
    Ok(found)
}

fn walk(directory: &Path, prefix: &str, found: &mut Found) -> io::Result<()> {
    let mut entries: Vec<fs::DirEntry> = fs::read_dir(directory)?.collect::<io::Result<_>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let name = entry.file_name();
        let Some(name) = name.to_str() else {
            found.others.push(format!("{} has a name that is no UTF-8", path.display()));
            continue;
        };
        let kind = entry.file_type()?;
        if kind.is_dir() {
            if is_name(name) {
                walk(&path, &format!("{prefix}{name}/"), found)?;
            } else if !is_hidden(name) && has_programs(&path) {
                found.others.push(format!("{} has programs, and {NO_NAME}", path.display()));
            }
            continue;
        }
        let (base, extensions) = name.split_once('.').map_or((name, ""), |(base, extensions)| (base, extensions));
        if !is_name(base) || extensions.split('.').any(|part| !extensions.is_empty() && !is_name(part)) {
            // A program under such a name was meant to be a task; hidden files and backups of editors were not.
            if !is_hidden(name) && is_program(&path) {
                found.others.push(format!("{} {NO_NAME}", path.display()));
            }
            continue;
        }
        let target = match fs::metadata(&path) {
            Ok(target) => target,
            Err(error) => {
                found.others.push(format!("{} cannot be looked at: {error}", path.display()));
                continue;
            }
        };
        if !target.is_file() {
            continue;
        }
        if !is_executable(&target) {
            found.others.push(match extensions.rsplit('.').next() {
                Some("js" | "mjs" | "cjs" | "ts" | "mts") => format!(
                    "{} is a module for Node's worker; to run it here, let it read its payload from standard input, begin it with \
                     #!/usr/bin/env node, and make it executable",
                    path.display()
                ),
                _ => format!("{} is not executable; chmod +x makes it a task", path.display()),
            });
            continue;
        }
        let task = format!("{prefix}{base}");
        // (Each character of a name is a byte.)
        if task.len() > MAX_TASK_NAME_CHARS {
            found.others.push(format!(
                "{} has a name that no task can have; rename it: at most {MAX_TASK_NAME_CHARS} characters are allowed, with its \
                 directories",
                path.display()
            ));
            continue;
        }
        if let Some(first) = found.tasks.get(&task) {
            found.others.push(format!("{} has the task name of {} already", path.display(), first.display()));
            continue;
        }
        found.tasks.insert(task, path);
    }
    Ok(())
}

/// What tells of a name that no task can have.
const NO_NAME: &str =
    "has a name that no task can have; rename it: letters, digits, _ and - are allowed, and dots before extensions";

/// What nobody looks at: hidden files, and what editors leave behind.
fn is_hidden(name: &str) -> bool {
    name.starts_with(['.', '#'])
        || name.ends_with(['~', '#'])
        || [".bak", ".orig", ".swp"].iter().any(|end| name.ends_with(end))
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.is_file() && is_executable(&file))
}

fn has_programs(directory: &Path) -> bool {
    // One that cannot be read has none that could be run.
    fs::read_dir(directory)
        .is_ok_and(|mut entries| entries.any(|entry| entry.is_ok_and(|entry| is_program(&entry.path()))))
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

#[cfg(unix)]
fn is_executable(file: &fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.permissions().mode() & 0o100 != 0
}

#[cfg(not(unix))]
fn is_executable(_: &fs::Metadata) -> bool {
    true
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn put(directory: &Path, name: &str, mode: u32) {
        let path = directory.join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(&path, "#!/bin/sh\n").expect("write");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("mode");
    }

    #[test]
    fn tasks_are_found_by_nodes_rules() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        for name in
            ["hello", "mail/send.sh", "mail/deep-er/x_1.test.py", ".hidden", "back~", "with space", "größe.sh", "_ok"]
        {
            put(root, name, 0o755);
        }
        put(root, "plain.txt", 0o644);
        put(root, "node.js", 0o644);
        put(root, "hello.rb", 0o755);
        put(root, "group", 0o070);
        fs::create_dir(root.join("elsewhere.d")).unwrap();
        put(root, "elsewhere.d/in", 0o755);
        let (longest, too_long) = ("x".repeat(128), "y".repeat(124));
        put(root, &format!("{longest}.sh"), 0o755);
        put(root, &format!("mail/{too_long}"), 0o755);
        symlink(root.join("hello"), root.join("linked.sh")).unwrap();
        symlink(root.join("mail"), root.join("linked-dir")).unwrap();
        symlink(root.join("nowhere"), root.join("broken")).unwrap();
        let found = find(root).unwrap();
        let names: Vec<&str> = found.tasks.keys().map(String::as_str).collect();
        assert_eq!(names, ["_ok", "hello", "linked", "mail/deep-er/x_1", "mail/send", &longest]);
        let others = found.others.join("\n");
        for told in [
            "plain.txt is not executable",
            "node.js is a module",
            "hello.rb has the task name of",
            "group is not",
            "broken cannot be",
            "with space has a name that no task can have",
            "größe.sh has a name",
            "elsewhere.d has programs, and has a name",
            &format!("{too_long} has a name that no task can have; rename it: at most 128 characters"),
        ] {
            assert!(others.contains(told), "{told} in {others}");
        }
        assert_eq!(found.others.len(), 9, "{others}");
    }
}
