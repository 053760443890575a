//! PostgreSQL clusters of the suite's own, which it may stop, crash, copy and promote.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::process::Command;

/// How long starting or stopping may take.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A running cluster, deleted when dropped.
pub struct Cluster {
    directory: PathBuf,
    pub port: u16,
    settings: Vec<String>,
}

/// What a server shows to those who want TLS; files.
pub struct Certificate {
    /// Who trusts this authority trusts the certificate.
    pub authority: PathBuf,
    shown: String,
    key: String,
}

/// How a server is stopped.
#[derive(Clone, Copy, Debug)]
pub enum Stop {
    /// Sessions are ended, and everything is written.
    Fast,
    /// As in a crash.
    Immediate,
}

fn bin(name: &str) -> PathBuf {
    let directory = std::env::var("BACKFILL_TEST_PG_BIN")
        .expect("BACKFILL_TEST_PG_BIN is not set; run this with ./scripts/test faults, which finds PostgreSQL");
    Path::new(&directory).join(name)
}

/// A program of PostgreSQL's, as the user that servers run under.
fn program(name: &str) -> Command {
    unprivileged(Command::new(bin(name)))
}

fn unprivileged(mut command: Command) -> Command {
    if let Ok(ids) = std::env::var("BACKFILL_TEST_PG_IDS") {
        let (user, group) = ids.split_once(':').expect("BACKFILL_TEST_PG_IDS is UID:GID");
        command.uid(user.parse().expect("a user id")).gid(group.parse().expect("a group id"));
    }
    command.current_dir("/").env("HOME", "/tmp").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

async fn done(what: &str, mut command: Command) {
    let status = tokio::time::timeout(TIMEOUT, command.status()).await;
    let status = status.unwrap_or_else(|_| panic!("{what} took too long")).expect("it can be started");
    assert!(status.success(), "{what} failed: {status}");
}

pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

/// A directory that the servers' user may write to.
fn directory() -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::Builder::new().prefix("backfill-faults.").tempdir().expect("a directory").keep();
    std::fs::set_permissions(&directory, PermissionsExt::from_mode(0o777)).expect("permissions");
    directory
}

impl Cluster {
    /// A new cluster. Settings are like `max_connections=50`; nothing is synced to disk, which only a crash of the machine
    /// could tell.
    pub async fn start_new(settings: &[&str]) -> Self {
        let mut all = vec!["listen_addresses=127.0.0.1".to_owned(), "fsync=off".to_owned()];
        all.extend(settings.iter().map(|&setting| setting.to_owned()));
        let cluster = Self { directory: directory(), port: free_port(), settings: all };
        let mut initdb = program("initdb");
        initdb.args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-D"]).arg(cluster.data());
        done("initdb", initdb).await;
        cluster.start().await;
        cluster
    }

    /// A standby of this one, which follows it.
    pub async fn standby(&self) -> Self {
        let standby = Self { directory: directory(), port: free_port(), settings: self.settings.clone() };
        let mut copy = program("pg_basebackup");
        copy.args([
            "-h",
            "127.0.0.1",
            "-U",
            "postgres",
            "-R",
            "-X",
            "stream",
            "-c",
            "fast",
            "-p",
            &self.port.to_string(),
            "-D",
        ]);
        copy.arg(standby.data());
        done("pg_basebackup", copy).await;
        standby.start().await;
        standby
    }

    /// What the server tells.
    pub fn log(&self) -> PathBuf {
        self.directory.join("log")
    }

    fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    fn pg_ctl(&self) -> Command {
        let mut command = program("pg_ctl");
        command.arg("-D").arg(self.data()).arg("-w");
        command
    }

    pub async fn start(&self) {
        let mut options = format!("-p {} -k {}", self.port, self.directory.display());
        for setting in &self.settings {
            options += &format!(" -c {setting}");
        }
        let mut start = self.pg_ctl();
        start.arg("-l").arg(self.log()).args(["-o", &options, "start"]);
        done("starting PostgreSQL", start).await;
    }

    pub async fn stop(&self, how: Stop) {
        let mut stop = self.pg_ctl();
        let mode = match how {
            Stop::Fast => "fast",
            Stop::Immediate => "immediate",
        };
        stop.args(["-m", mode, "stop"]);
        done("stopping PostgreSQL", stop).await;
    }

    pub async fn promote(&self) {
        let mut promote = self.pg_ctl();
        promote.arg("promote");
        done("promoting the standby", promote).await;
    }

    /// A certificate for this server, by an authority of its own.
    pub async fn certificate(&self, name: &str) -> Certificate {
        const KEY: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
        let file = |what: &str| self.directory.join(format!("{name}.{what}")).display().to_string();
        std::fs::write(file("names"), "subjectAltName=IP:127.0.0.1\n").expect("write");
        let openssl = |arguments: &[&str]| {
            // The server wants a key of its own user's.
            let mut command = unprivileged(Command::new("openssl"));
            command.args(arguments);
            done("openssl", command)
        };
        let (subject, authority, authority_key) = (format!("/CN={name}"), file("authority"), file("authority-key"));
        let mut arguments = vec!["req", "-x509", "-subj", &subject, "-keyout", &authority_key, "-out", &authority];
        arguments.extend(KEY);
        openssl(&arguments).await;
        let (key, request) = (file("key"), file("request"));
        let mut arguments = vec!["req", "-subj", "/CN=a server", "-keyout", &key, "-out", &request];
        arguments.extend(KEY);
        openssl(&arguments).await;
        let (names, certificate) = (file("names"), file("certificate"));
        openssl(&[
            "x509",
            "-req",
            "-in",
            &request,
            "-CA",
            &authority,
            "-CAkey",
            &authority_key,
            "-CAcreateserial",
            "-days",
            "2",
            "-extfile",
            &names,
            "-out",
            &certificate,
        ])
        .await;
        Certificate { authority: authority.into(), shown: certificate, key }
    }

    /// From now on the server shows this certificate, or speaks no TLS.
    pub async fn speak_tls(&self, shown: Option<&Certificate>) {
        let mut server = PgConnection::connect(&self.url("postgres")).await.expect("connect");
        let mut settings = vec![format!("alter system set ssl = {}", if shown.is_some() { "on" } else { "off" })];
        if let Some(Certificate { shown, key, .. }) = shown {
            settings.push(format!("alter system set ssl_cert_file = '{shown}'"));
            settings.push(format!("alter system set ssl_key_file = '{key}'"));
        }
        settings.push("select pg_reload_conf()".to_owned());
        for setting in settings {
            sqlx::raw_sql(AssertSqlSafe(setting)).execute(&mut server).await.expect("a setting");
        }
        server.close().await.expect("close");
    }

    pub fn url(&self, database: &str) -> String {
        url(self.port, database)
    }
}

pub fn url(port: u16, database: &str) -> String {
    format!("postgres://postgres@127.0.0.1:{port}/{database}")
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // It may be stopped already.
        let _ = self.pg_ctl().args(["-m", "immediate", "stop"]).as_std_mut().status();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
