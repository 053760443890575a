//! Programs that come and go while the worker runs.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::find::{Found, find};

/// What tells a file that is being written from one that is whole.
type Stamp = (u64, Option<SystemTime>);

/// The programs of a directory, looked at again and again.
pub struct Directory {
    path: PathBuf,
    /// Those that are tasks.
    known: BTreeMap<String, PathBuf>,
    /// Those that are new, and how they looked.
    seen: BTreeMap<PathBuf, Stamp>,
    /// What was told of other files.
    told: BTreeSet<String>,
    unreadable: bool,
}

/// What has changed.
#[derive(Debug, PartialEq, Eq)]
pub struct Changed {
    /// All programs by the names of their tasks.
    pub tasks: BTreeMap<String, PathBuf>,
    pub new: Vec<String>,
    pub gone: Vec<String>,
}

impl Directory {
    /// As it was when the worker started.
    pub fn new(path: &Path, found: &Found) -> Self {
        let (known, told) = (found.tasks.clone(), found.others.iter().cloned().collect());
        Self { path: path.to_owned(), known, seen: BTreeMap::new(), told, unreadable: false }
    }

    /// Looks again. A new program counts when it looks the same at two looks, so that none is run that is still being written. A
    /// directory that cannot be read, as in the middle of a deployment, changes nothing.
    pub fn look(&mut self) -> Option<Changed> {
        let found = match find(&self.path) {
            Ok(found) => found,
            // Who has a crontab alone need not have a directory.
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.known.is_empty() => return None,
            Err(error) => {
                if !std::mem::replace(&mut self.unreadable, true) {
                    tracing::warn!(
                        "cannot read the tasks in {} ({error}); going on with those that were there",
                        self.path.display()
                    );
                }
                return None;
            }
        };
        self.unreadable = false;
        for other in found.others.iter().filter(|other| !self.told.contains(*other)) {
            tracing::warn!("{other}");
        }
        self.told = found.others.iter().cloned().collect();
        let mut seen = BTreeMap::new();
        let mut tasks = BTreeMap::new();
        for (task, program) in found.tasks {
            if self.known.get(&task) == Some(&program) {
                tasks.insert(task, program);
                continue;
            }
            // One that is gone again is looked at the next time.
            let Ok(stamp) = stamp(&program) else { continue };
            if self.seen.get(&program) == Some(&stamp) {
                tasks.insert(task, program);
            } else {
                // Until then the one that had the name keeps it.
                if let Some(before) = self.known.get(&task) {
                    tasks.insert(task, before.clone());
                }
                seen.insert(program, stamp);
            }
        }
        self.seen = seen;
        if tasks == self.known {
            return None;
        }
        let only_in = |these: &BTreeMap<String, PathBuf>, those: &BTreeMap<String, PathBuf>| {
            these.keys().filter(|task| !those.contains_key(*task)).cloned().collect::<Vec<_>>()
        };
        let (new, gone) = (only_in(&tasks, &self.known), only_in(&self.known, &tasks));
        self.known.clone_from(&tasks);
        Some(Changed { tasks, new, gone })
    }
}

fn stamp(program: &Path) -> io::Result<Stamp> {
    let data = std::fs::metadata(program)?;
    Ok((data.len(), data.modified().ok()))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn put(path: &Path, text: &str) {
        std::fs::write(path, text).expect("it is written");
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("it is written");
    }

    #[test]
    fn a_new_program_counts_when_it_is_whole_and_one_that_is_gone_at_once() {
        let root = tempfile::tempdir().expect("it is written");
        let path = root.path();
        put(&path.join("old"), "#!/bin/sh\n");
        let mut directory = Directory::new(path, &find(path).unwrap());
        assert_eq!(directory.look(), None);
        put(&path.join("new"), "#!/bin/sh\n");
        assert_eq!(directory.look(), None, "it may be half of it");
        put(&path.join("new"), "#!/bin/sh\ntrue\n");
        assert_eq!(directory.look(), None, "it was");
        let changed = directory.look().expect("it is whole");
        assert_eq!((changed.new, changed.gone), (vec!["new".to_owned()], vec![]));
        assert_eq!(changed.tasks.keys().collect::<Vec<_>>(), ["new", "old"]);
        assert_eq!(directory.look(), None);
        std::fs::remove_file(path.join("old")).unwrap();
        let changed = directory.look().expect("it is gone");
        assert_eq!((changed.new, changed.gone), (vec![], vec!["old".to_owned()]));
        // Another program under the same name.
        std::fs::rename(path.join("new"), path.join("new.sh")).unwrap();
        assert_eq!(directory.look(), None);
        let changed = directory.look().expect("it has another path");
        assert!(changed.new.is_empty() && changed.gone.is_empty() && changed.tasks["new"].ends_with("new.sh"));
        // A deployment takes it away for a moment.
        let aside = root.path().with_extension("aside");
        std::fs::rename(path, &aside).unwrap();
        assert_eq!(directory.look(), None);
        std::fs::rename(&aside, path).unwrap();
        assert_eq!(directory.look(), None);
    }
}
