//! `backfill move`: waiting jobs go from one place to another, each once, whatever becomes of the run that moves them.

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use backfill::{BackfillClient, JobFilter, JobSpec};
use common::support::{soon, until};
use common::{Ran, Scene, signal};
use tokio::process::Child;

/// Many jobs in a file, which go to the scene's database.
struct Moving {
    scene: Scene,
    file: String,
    old: BackfillClient,
    client: BackfillClient,
}

impl Moving {
    const JOBS: u64 = 20_000;

    async fn new() -> Self {
        let scene = Scene::new().await;
        let file = format!("sqlite://{}", scene.path("jobs.db").display());
        let old = BackfillClient::new(&file).await.expect("open");
        old.add_many((0..Self::JOBS).map(|n| JobSpec::new("t", n))).await.expect("add");
        let client = scene.client().await;
        Self { scene, file, old, client }
    }

    fn args(&self) -> [&str; 5] {
        ["move", "--from", &self.file, "--to", &self.scene.url]
    }

    fn start(&self) -> Child {
        self.scene.command(&self.args()).spawn().expect("it runs")
    }

    async fn has_arrived(&self, jobs: u64) {
        let there = || async { self.client.counts().await.expect("counts").total() };
        until("a part has arrived", || async { there().await >= jobs }).await;
    }

    /// None is left, none is lost, and none came twice.
    async fn assert_all_moved_once(&self) {
        assert_eq!(self.old.counts().await.expect("counts").total(), 0);
        let mut times: BTreeMap<String, u32> = BTreeMap::new();
        for job in self.client.jobs(&JobFilter::new().limit(100_000)).await.expect("list") {
            *times.entry(job.payload.to_string()).or_default() += 1;
        }
        assert_eq!(times.len() as u64, Self::JOBS, "none is lost");
        assert!(times.values().all(|times| *times == 1), "none came twice");
        assert_eq!(self.scene.ask("select count(*) from S.backfill_imports").await, "0");
    }
}

async fn ended(child: Child) -> Ran {
    soon("the binary ends", child.wait_with_output()).await.expect("it ends").into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_jobs_move_as_they_are_and_their_program_with_them() {
    let scene = Scene::new().await;
    let file = format!("sqlite://{}", scene.path("jobs.db").display());
    let old = BackfillClient::new(&file).await.expect("open");
    let spec = || JobSpec::new("t", [1]);
    old.add(spec().key("taken")).await.expect("add");
    let kept = old.add(spec().key("kept").serial_queue("q").priority(-3).max_attempts(5).flag("f")).await.expect("add");
    let later = old.add(spec().run_in(Duration::from_secs(900))).await.expect("add");
    let dead = old.add(spec()).await.expect("add");
    old.discard(&[dead.id], "no").await.expect("discard");
    old.add_many((0..1500).map(|n| JobSpec::new("many", n))).await.expect("add");
    let client = scene.client().await;
    client.add(spec().key("taken")).await.expect("add");

    let told = scene.run(&["move", "--from", &file, "--to", &scene.url]).await.ok();
    assert!(told.starts_with("moved 1502 jobs from SQLite, file "), "{told}");
    assert!(told.contains("1 stay, because a job there has their key: 1\n"), "{told}");
    assert!(told.contains("0 running and 1 dead jobs stay"), "{told}");
    assert_eq!(old.counts().await.expect("counts").total(), 2);
    assert_eq!(client.counts().await.expect("counts").total(), 1503);
    let moved = client.jobs(&JobFilter::new().key("kept")).await.expect("list").remove(0);
    assert_eq!((moved.queue, moved.priority, moved.max_attempts), (kept.queue, kept.priority, kept.max_attempts));
    assert_eq!((moved.flags, moved.created_at, moved.attempts), (kept.flags, kept.created_at, 0));
    let scheduled = client.jobs(&JobFilter::new().state(backfill::JobState::Scheduled)).await.expect("list");
    assert_eq!(scheduled.iter().map(|job| job.run_at).collect::<Vec<_>>(), [later.run_at]);
    // And back again.
    let back = scene.run(&["--json", "move", "--to", &file]).await.json();
    assert_eq!((&back["moved"], &back["key_taken"][0]), (&1502.into(), &1.into()));
    assert_eq!(scene.run(&["move", "--to", &scene.url]).await.status, Some(2), "to where it is");
    assert_eq!(scene.run(&["move", "--to", "memory:"]).await.status, Some(2), "to nowhere");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_that_is_killed_again_and_again_loses_nothing_and_moves_nothing_twice() {
    let moving = Moving::new().await;
    for kill in 1..6 {
        let mut run = moving.start();
        moving.has_arrived(kill * 2000).await;
        run.kill().await.expect("kill");
    }
    // Some are on their way: nobody may run them.
    assert_eq!(moving.old.counts().await.expect("counts").dead, 0);
    ended(moving.start()).await.ok();
    moving.assert_all_moved_once().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_interrupted_move_holds_is_found_by_a_check_up() {
    let moving = Moving::new().await;
    let doctor = || async { moving.scene.run(&["doctor", "--database-url", &moving.file]).await };
    assert!(doctor().await.ok().contains("fine     moves: "));
    // Whenever a run is killed, it holds some, but for the short while between two chunks.
    let found = loop {
        let before = moving.client.counts().await.expect("counts").total();
        let mut run = moving.start();
        moving.has_arrived(before + 500).await;
        run.kill().await.expect("kill");
        let found = doctor().await;
        if found.status == Some(1) {
            break found;
        }
    };
    assert!(found.out.contains("found    moves: ") && found.out.contains(" are held by move-"), "{}", found.out);
    assert!(found.out.contains("remedy: run `backfill move` again"), "{}", found.out);
    ended(moving.start()).await.ok();
    assert!(doctor().await.ok().contains("fine     moves: "));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_that_is_stopped_while_another_run_ends_it_moves_nothing_when_it_goes_on() {
    let moving = Moving::new().await;
    let first = moving.start();
    moving.has_arrived(2000).await;
    // Within a transaction it would keep the file locked for ever, and the other run would say so.
    loop {
        signal(&first, "STOP").await;
        let nobody = ["nobody".to_owned()];
        let written = tokio::time::timeout(
            Duration::from_millis(500),
            moving.old.storage().require_admin().expect("admin").unlock(&nobody),
        )
        .await;
        if written.is_ok() {
            break;
        }
        signal(&first, "CONT").await;
    }
    // It waits until the first one is declared dead.
    ended(moving.start()).await.ok();
    moving.assert_all_moved_once().await;
    signal(&first, "CONT").await;
    let first = ended(first).await;
    assert_eq!(first.status, Some(1), "{}", first.out);
    // Whether it was stopped between two transactions, or within one, which the server has ended.
    let says = ["declared dead", "has taken over", "idle-in-transaction"];
    assert!(says.iter().any(|says| first.err.contains(says)), "{}", first.err);
    moving.assert_all_moved_once().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_move_releases_what_has_not_arrived_and_says_how_to_go_on() {
    let moving = Moving::new().await;
    let run = moving.start();
    moving.has_arrived(2000).await;
    signal(&run, "INT").await;
    let told = ended(run).await;
    assert_eq!(told.status, Some(1), "{}", told.out);
    assert!(told.err.contains("interrupted; ") && told.err.contains("run it again for the rest"), "{}", told.err);
    let (left, arrived) =
        (moving.old.counts().await.expect("counts"), moving.client.counts().await.expect("counts").total());
    assert_eq!((left.ready, left.running), (Moving::JOBS - arrived, 0));
    assert!(told.err.contains(&format!("{arrived} jobs were moved")), "{}", told.err);
    ended(moving.start()).await.ok();
    moving.assert_all_moved_once().await;
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_terminal_a_move_shows_how_far_it_is() {
    let moving = Moving::new().await;
    let args = format!("move --from {} --to {}", moving.file, moving.scene.url);
    let shown = moving.scene.run_on_a_terminal(&args).await.ok();
    assert!(shown.contains(" of 20000 jobs, "), "{shown}");
    assert!(shown.contains("moved 20000 jobs"), "{shown}");
    moving.assert_all_moved_once().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_into_a_new_file_behind_a_link_is_found_again() {
    let scene = Scene::new().await;
    std::fs::create_dir(scene.path("real")).expect("a directory");
    std::os::unix::fs::symlink(scene.path("real"), scene.path("link")).expect("a link");
    let client = scene.client().await;
    client.add_many((0..5_000).map(|n| JobSpec::new("t", n))).await.expect("add");
    let to = "sqlite://link/../link/new.db";
    let arrived = || async {
        match BackfillClient::builder()
            .database_url(format!("sqlite://{}", scene.path("real/new.db").display()))
            .migrate(false)
            .build()
            .await
        {
            Ok(file) => file.counts().await.map_or(0, |counts| counts.total()),
            Err(_) => 0,
        }
    };
    let mut run = scene.command(&["move", "--to", to]).spawn().expect("it runs");
    until("a part has arrived", || async { arrived().await >= 500 }).await;
    run.kill().await.expect("kill");
    scene.run(&["move", "--to", to]).await.ok();
    assert_eq!(arrived().await, 5_000);
    assert_eq!(client.counts().await.expect("counts").total(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_under_two_names_is_one_place() {
    let scene = Scene::new().await;
    let client = scene.client().await;
    client.add(JobSpec::new("t", 1)).await.expect("add");
    let other = scene.url.replace("127.0.0.1", "localhost");
    assert_ne!(other, scene.url);
    let ran = scene.run(&["move", "--to", &other]).await;
    assert_eq!(ran.status, Some(2), "{}", ran.err);
    assert!(ran.err.contains("the same place"), "{}", ran.err);
    assert_eq!(client.counts().await.expect("counts").ready, 1);
    assert_eq!(scene.ask("select count(*) from S.backfill_pools").await, "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_runs_of_one_move_one_waits_or_gives_up_and_nothing_is_moved_twice() {
    let scene = Scene::new().await;
    let file = format!("sqlite://{}", scene.path("jobs.db").display());
    let old = BackfillClient::new(&file).await.expect("open");
    old.add_many((0..10_000).map(|n| JobSpec::new("t", n))).await.expect("add");
    let args = ["move", "--from", &file, "--to", &scene.url];
    let runs = futures::future::join_all((0..3).map(|_| scene.run(&args))).await;
    for run in runs {
        assert!(run.status == Some(0) || run.err.contains("another run of this move"), "{}", run.err);
    }
    scene.run(&args).await.ok();
    assert_eq!(old.counts().await.expect("counts").total(), 0);
    assert_eq!(
        scene.ask("select count(distinct payload::text) || ' ' || count(*) from S._private_jobs").await,
        "10000 10000"
    );
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_passwords_of_both_places_are_not_in_the_process_list() {
    let scene = Scene::new().await;
    // Two servers that never answer.
    let silent = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").expect("a port"));
    let ports = silent.each_ref().map(|listener| listener.local_addr().expect("its address").port());
    let [from, to] = ports.map(|port| format!("postgres://u:sekret@127.0.0.1:{port}/d"));
    let mut run = scene.command(&["move", "--from", &from, &format!("--to={to}")]).spawn().expect("it runs");
    let pid = run.id().expect("it runs");
    let line = || std::fs::read_to_string(format!("/proc/{pid}/cmdline")).expect("its command line");
    until("the passwords are gone", || async { line().contains("hidden-1") }).await;
    assert!(!line().contains("sekret"), "{}", line());
    run.kill().await.expect("kill");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_schema_is_that_of_whichever_place_has_schemas() {
    let scene = Scene::empty().await;
    let file = format!("sqlite://{}", scene.path("jobs.db").display());
    scene.run(&["add", "t", "--schema", "mine"]).await.ok();
    let there = scene.run(&["move", "--schema", "mine", "--to", &file]).await.ok();
    assert!(there.starts_with("moved 1 job"), "{there}");
    let back = scene.run(&["move", "--schema", "other", "--from", &file, "--to", &scene.url]).await.ok();
    assert!(back.starts_with("moved 1 job"), "{back}");
    assert!(scene.run(&["jobs", "--schema", "other"]).await.ok().contains("ready"));
    assert_eq!(scene.run(&["jobs", "--schema", "mine"]).await.ok(), "no jobs\n");
    // Where no place has any, the name is a mistake.
    let second = format!("sqlite://{}", scene.path("second.db").display());
    scene.run(&["add", "t", "--database-url", &file]).await.ok();
    let refused = scene.run(&["move", "--schema", "mine", "--from", &file, "--to", &second]).await;
    assert_eq!(refused.status, Some(2), "{}", refused.err);
    assert!(refused.err.contains("only PostgreSQL has schemas"), "{}", refused.err);
}
