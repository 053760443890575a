//! Servers of one's own: in a temporary directory, on a socket or a port that is free, gone with the test process.

#![allow(dead_code, reason = "no test file uses all of it")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Nobody, as whom servers run where the tests run as root.
const NOBODY: u32 = 65_534;

/// A server.
pub struct Server {
    directory: TempDir,
    pub port: u16,
    child: Child,
    options: Vec<String>,
}

impl Server {
    /// A server with these options besides those that a test needs. What it writes is durable if the options say so.
    pub fn start(options: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        if is_root() {
            chown(directory.path(), Some(NOBODY), Some(NOBODY)).expect("chown");
        }
        let options: Vec<String> = ["--save", ""].iter().chain(options).map(|&option| option.to_owned()).collect();
        let (port, child) = spawn_on_a_free_port(directory.path(), &options);
        Self { directory, port, child, options }
    }

    /// A sentinel that watches a master.
    pub fn start_sentinel(service: &str, master: u16) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let settings = format!(
            "sentinel monitor {service} 127.0.0.1 {master} 2\nsentinel down-after-milliseconds {service} 500\n\
             sentinel failover-timeout {service} 5000\n"
        );
        std::fs::write(directory.path().join("sentinel.conf"), settings).expect("a file");
        if is_root() {
            for path in [directory.path(), &directory.path().join("sentinel.conf")] {
                chown(path, Some(NOBODY), Some(NOBODY)).expect("chown");
            }
        }
        let options = vec!["sentinel.conf".to_owned(), "--sentinel".to_owned()];
        let (port, child) = spawn_on_a_free_port(directory.path(), &options);
        Self { directory, port, child, options }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Makes a certificate in the server's directory, by an authority of one's own.
    fn make_certificate(directory: &Path) {
        let openssl = |words: &str| {
            let ran = Command::new("openssl").args(words.split(' ')).current_dir(directory).output().expect("openssl");
            assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        };
        openssl("req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -subj /CN=authority -days 2");
        openssl("req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=localhost");
        std::fs::write(directory.join("names"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n").expect("a file");
        openssl(
            "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out server.crt -days 2 -extfile names",
        );
        if is_root() {
            chown(directory.join("server.key"), Some(NOBODY), Some(NOBODY)).expect("chown");
        }
    }

    /// A server that also speaks TLS, on the second port; its authority's certificate is `ca.crt` in its directory.
    pub fn start_with_tls(options: &[&str]) -> (Self, u16) {
        let directory = tempfile::tempdir().expect("a directory");
        if is_root() {
            chown(directory.path(), Some(NOBODY), Some(NOBODY)).expect("chown");
        }
        Self::make_certificate(directory.path());
        for _ in 0..20 {
            let tls = free_port();
            let tls_port = tls.to_string();
            let options: Vec<String> = [
                "--save",
                "",
                "--tls-port",
                &tls_port,
                "--tls-cert-file",
                "server.crt",
                "--tls-key-file",
                "server.key",
                "--tls-ca-cert-file",
                "ca.crt",
                "--tls-auth-clients",
                "no",
            ]
            .iter()
            .chain(options)
            .map(|&option| option.to_owned())
            .collect();
            let port = free_port();
            let mut child = spawn(directory.path(), port, &options);
            if wait_until_it_answers(&mut child, port) {
                return (Self { directory, port, child, options }, tls);
            }
        }
        panic!("no server starts; look at {}", directory.path().join("log").display());
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The server's process.
    pub fn pid(&self) -> u32 {
        std::fs::read_to_string(self.directory.path().join("pid")).expect("a pid file").trim().parse().expect("a pid")
    }

    /// Kills it at once.
    pub fn kill(&mut self) {
        signal(self.pid(), "KILL");
        self.child.wait().expect("wait");
    }

    /// Starts it again where it was.
    pub fn start_again(&mut self) {
        self.child = spawn(self.directory.path(), self.port, &self.options);
        assert!(wait_until_it_answers(&mut self.child, self.port), "it starts again");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Its stdin is closed by this, which is how the shell hears of our own end, too.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

pub fn signal(pid: u32, signal: &str) {
    let sent = Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).status().expect("kill");
    assert!(sent.success(), "{pid} could not be sent {signal}");
}

pub fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port()
}

fn spawn_on_a_free_port(directory: &Path, options: &[String]) -> (u16, Child) {
    for _ in 0..20 {
        let port = free_port();
        let mut child = spawn(directory, port, options);
        // Somebody else may have been quicker.
        if wait_until_it_answers(&mut child, port) {
            return (port, child);
        }
    }
    panic!("no server starts; look at {}", directory.join("log").display());
}

/// What the shell does that ends the server when the test's process is gone, however that ended: then its own stdin is closed.
const SHELL: &str = r#"
exec 3<&0
"$@" >>log 2>&1 3<&- &
server=$!
echo $server >pid
(read -r _ <&3; kill -9 $server 2>/dev/null) >/dev/null 2>&1 &
exec 3<&-
wait $server
"#;

fn spawn(directory: &Path, port: u16, options: &[String]) -> Child {
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg(SHELL)
        .arg("sh")
        .arg(std::env::var("BACKFILL_TEST_REDIS").unwrap_or_else(|_| "redis-server".to_owned()))
        // A file of settings comes first.
        .args(options.iter().take_while(|option| !option.starts_with("--")))
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--dir", &directory.display().to_string()])
        .args(["--daemonize", "no"])
        .args(options.iter().skip_while(|option| !option.starts_with("--")))
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stderr(Stdio::null());
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command.spawn().expect("redis-server is installed (Debian: redis-server)")
}

fn wait_until_it_answers(child: &mut Child, port: u16) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(20) {
        if child.try_wait().expect("wait").is_some() {
            return false;
        }
        // One that asks for a user is there, too; one that loads its data is not yet.
        let answer = answer_of(port).unwrap_or_default();
        if answer.starts_with("+PONG") || answer.starts_with("-NOAUTH") {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

fn answer_of(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"PING\r\n")?;
    let mut answer = [0; 64];
    let length = stream.read(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}

/// One server for all tests of a process, that keeps nothing on disk.
pub fn shared() -> &'static Server {
    static SHARED: OnceLock<Server> = OnceLock::new();
    SHARED.get_or_init(|| Server::start(&["--appendonly", "no"]))
}

/// A namespace that no other test has.
pub fn namespace() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("test {} {}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}
