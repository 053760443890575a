//! Asking for the status of those that nobody else will ask for.

use std::collections::BTreeSet;
use std::io;
use std::sync::{LazyLock, Mutex, PoisonError, RwLock};
use std::time::Duration;

use rustix::process::{Pid, WaitOptions, child_subreaper, waitpid};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

/// Who ends meanwhile is reaped together: a look goes over all processes. And whoever waits for a program of ours has had its turn.
const PAUSE: Duration = Duration::from_millis(250);

/// Whether orphans come to this process.
static ADOPTS: LazyLock<bool> =
    LazyLock::new(|| std::process::id() == 1 || child_subreaper().is_ok_and(|set| set.is_some()));
/// The numbers of the programs that were started here.
static OWN: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());
/// Held to read while a program is started: until its number is known, it looks like an orphan. Held to write to reap.
static STARTING: RwLock<()> = RwLock::new(());

/// The number of a program that was started here, until its status was asked for, or nobody will ask any more.
pub(super) struct Entry(i32);

impl Drop for Entry {
    fn drop(&mut self) {
        OWN.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

pub(super) fn start(command: &mut Command) -> io::Result<(Child, Option<Entry>)> {
    if !*ADOPTS {
        return Ok((command.spawn()?, None));
    }
    let _starting = STARTING.read().unwrap_or_else(PoisonError::into_inner);
    let child = command.spawn()?;
    let number = child.id().and_then(|id| i32::try_from(id).ok());
    let entry = number.map(|number| {
        OWN.lock().unwrap_or_else(PoisonError::into_inner).insert(number);
        Entry(number)
    });
    Ok((child, entry))
}

/// Reaps orphans as they end. Comes back only if there is nothing to do, or if it cannot be done.
pub(super) async fn reap() {
    if !*ADOPTS {
        return;
    }
    let mut ended = match signal(SignalKind::child()) {
        Ok(ended) => ended,
        Err(error) => return tracing::warn!(%error, "orphans of tasks cannot be reaped"),
    };
    tracing::debug!("orphans of tasks come to this process, and are reaped");
    loop {
        match tokio::task::spawn_blocking(look).await {
            Ok(Ok(0)) => {}
            Ok(Ok(reaped)) => tracing::debug!(reaped, "reaped orphans of tasks"),
            Ok(Err(error)) => return tracing::warn!(%error, "orphans of tasks cannot be reaped: /proc cannot be read"),
            // The runtime ends.
            Err(_) => return,
        }
        if ended.recv().await.is_none() {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Reaps those that have ended; answers how many.
fn look() -> io::Result<usize> {
    let ended = ended_children()?;
    if ended.is_empty() {
        return Ok(0);
    }
    let _nobody_starts = STARTING.write().unwrap_or_else(PoisonError::into_inner);
    let own = OWN.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let orphans = ended.into_iter().filter(|number| !own.contains(number)).filter_map(Pid::from_raw);
    Ok(orphans.filter(|orphan| matches!(waitpid(Some(*orphan), WaitOptions::NOHANG), Ok(Some(_)))).count())
}

/// The numbers of the children of this process that have ended.
fn ended_children() -> io::Result<Vec<i32>> {
    let ours = std::process::id();
    let mut ended = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // It may be gone by now.
        let Ok(stat) = std::fs::read(entry.path().join("stat")) else { continue };
        if state_and_parent(&stat) == Some((b'Z', ours)) {
            ended.push(number);
        }
    }
    Ok(ended)
}

/// What `/proc/NUMBER/stat` says: `NUMBER (NAME) STATE PARENT ...`, where the name may hold anything.
fn state_and_parent(stat: &[u8]) -> Option<(u8, u32)> {
    let after_name = stat.iter().rposition(|byte| *byte == b')')? + 1;
    let mut fields = std::str::from_utf8(&stat[after_name..]).ok()?.split_ascii_whitespace();
    Some((*fields.next()?.as_bytes().first()?, fields.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_pass_for_a_state() {
        assert_eq!(state_and_parent(b"7 (sh) Z 1 7 7"), Some((b'Z', 1)));
        assert_eq!(state_and_parent(b"7 (a) Z 1 (\xff) S 42 7 7 0"), Some((b'S', 42)));
        assert_eq!(state_and_parent(b""), None);
    }
}
