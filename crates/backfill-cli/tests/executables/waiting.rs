//! A database that cannot be reached when a worker starts.

use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use crate::common::{Running, Scene};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_waits_for_a_database_that_is_away_unless_told_to_fail() {
    let scene = Scene::new().await;
    scene.task("hello", "#!/bin/sh\n");
    let nowhere = ["-c", "postgres://postgres@127.0.0.1:1/x", "worker"];
    let mut worker = Running::start(scene.command(&nowhere));
    for _ in 0..3 {
        worker.logs("the database cannot be reached; trying again").await;
    }
    worker.child.kill().await.expect("kill");
    let unknown = ["-c", "postgres://postgres@no-such-host.invalid/x", "worker"];
    let mut worker = Running::start(scene.command(&unknown));
    worker.logs("the database cannot be reached; trying again").await;
    worker.logs("lookup").await;
    worker.child.kill().await.expect("kill");
    for option in ["--fail-fast", "--once"] {
        let failed = scene.run(&[&nowhere[..], &[option]].concat()).await;
        assert!(failed.status == Some(1) && failed.err.contains("Connection refused"), "{}", failed.err);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_does_not_wait_for_encryption_that_cannot_come() {
    let scene = Scene::new().await;
    scene.task("hello", "#!/bin/sh\n");
    let server = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let without_tls = format!("postgres://postgres@{}/x?sslmode=require", server.local_addr().expect("an address"));
    let serving = tokio::spawn(async move {
        while let Ok((mut client, _)) = server.accept().await {
            // What a server without TLS answers who asks for it.
            let _ = client.write_all(b"N").await;
        }
    });
    let ended = scene.run(&["-c", &without_tls, "worker"]).await;
    assert!(ended.status == Some(1) && ended.err.contains("server does not support TLS"), "{}", ended.err);
    assert!(ended.err.contains("switch TLS on at the server"), "{}", ended.err);
    serving.abort();
}
