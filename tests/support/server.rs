//! A PostgreSQL server of a test's own, with settings that no other test could live with. Deleted when dropped.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use super::soon;

pub struct Server {
    directory: PathBuf,
    port: u16,
    /// Where the server looks for locales first.
    locales: Option<PathBuf>,
    settings: Vec<String>,
}

impl Server {
    /// A new one. Settings are like `max_connections=50`.
    pub async fn start(settings: &[&str]) -> Self {
        Self::start_with(None, settings).await
    }

    /// One whose messages are in German; nothing if this machine cannot make that locale.
    pub async fn german() -> Option<Self> {
        let locales = directory();
        let mut localedef = Command::new("localedef");
        localedef.args(["-i", "de_DE", "-f", "UTF-8"]).arg(locales.join("de_DE.UTF-8"));
        localedef.stdout(Stdio::null()).stderr(Stdio::null());
        let made = localedef.status().await.is_ok_and(|status| status.success());
        if !made {
            return None;
        }
        Some(Self::start_with(Some(locales), &["lc_messages=de_DE.UTF-8"]).await)
    }

    async fn start_with(locales: Option<PathBuf>, settings: &[&str]) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        drop(listener);
        let settings = settings.iter().map(|&setting| setting.to_owned()).collect();
        let server = Self { directory: directory(), port, locales, settings };
        let mut initdb = server.program("initdb");
        initdb
            .args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "-D"])
            .arg(server.data());
        done("initdb", initdb).await;
        server.run().await;
        server
    }

    async fn run(&self) {
        let mut options =
            format!("-p {} -k {} -c listen_addresses=127.0.0.1 -c fsync=off", self.port, self.directory.display());
        for setting in &self.settings {
            options.push_str(" -c ");
            options.push_str(setting);
        }
        let mut start = self.program("pg_ctl");
        start.arg("-w").arg("-D").arg(self.data()).arg("-l").arg(self.directory.join("log"));
        start.args(["-o", &options, "start"]);
        done("starting PostgreSQL", start).await;
    }

    /// Ends it as a crash would: nobody is asked, and nothing is written any more.
    pub async fn stop_at_once(&self) {
        let mut stop = self.program("pg_ctl");
        stop.arg("-w").arg("-D").arg(self.data()).args(["-m", "immediate", "stop"]);
        done("stopping PostgreSQL", stop).await;
    }

    /// Starts it again.
    pub async fn start_again(&self) {
        self.run().await;
    }

    /// From now on it is a standby, which waits for what its primary will never send.
    pub async fn become_standby(&self) {
        let mut stop = self.program("pg_ctl");
        stop.arg("-w").arg("-D").arg(self.data()).args(["-m", "fast", "stop"]);
        done("stopping PostgreSQL", stop).await;
        let mut signal = self.as_user(Path::new("touch"));
        signal.arg(self.data().join("standby.signal"));
        done("making it a standby", signal).await;
        self.run().await;
    }

    pub fn url(&self, role: &str, database: &str) -> String {
        format!("postgres://{role}@127.0.0.1:{}/{database}", self.port)
    }

    fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    fn program(&self, name: &str) -> Command {
        let bin = std::env::var("BACKFILL_TEST_PG_BIN").expect("BACKFILL_TEST_PG_BIN is not set; run ./scripts/test");
        self.as_user(&Path::new(&bin).join(name))
    }

    /// PostgreSQL refuses to run as root.
    fn as_user(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        if let Ok(ids) = std::env::var("BACKFILL_TEST_PG_IDS") {
            let (user, group) = ids.split_once(':').expect("BACKFILL_TEST_PG_IDS is UID:GID");
            command.uid(user.parse().expect("a user id")).gid(group.parse().expect("a group id"));
        }
        if let Some(locales) = &self.locales {
            command.env("LOCPATH", locales);
        }
        command.current_dir("/").env("HOME", "/tmp");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }
}

async fn done(what: &str, mut command: Command) {
    let status = soon(what, command.status()).await.expect("it can be started");
    assert!(status.success(), "{what} failed: {status}");
}

/// A directory that the server's user may write to.
fn directory() -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::Builder::new().prefix("backfill-server.").tempdir().expect("a directory").keep();
    std::fs::set_permissions(&directory, PermissionsExt::from_mode(0o777)).expect("permissions");
    directory
}

impl Drop for Server {
    fn drop(&mut self) {
        let mut stop = self.program("pg_ctl");
        let _ = stop.arg("-D").arg(self.data()).args(["-m", "immediate", "stop"]).as_std_mut().status();
        let _ = std::fs::remove_dir_all(&self.directory);
        if let Some(locales) = &self.locales {
            let _ = std::fs::remove_dir_all(locales);
        }
    }
}
