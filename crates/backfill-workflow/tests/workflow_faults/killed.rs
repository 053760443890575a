//! A process that is killed (SIGKILL) before and after each of its writes. Another one goes on, and effects are counted.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use backfill_workflow::postgres::PostgresStore;
use backfill_workflow::sqlite::SqliteStore;
use backfill_workflow::store::Store;
use backfill_workflow::testing::Crash;
use backfill_workflow::{Client, Ctx, Engine, EngineBuilder, Failure, Filter, PgTx, SqliteTx, Start, Workflow};
use tokio::process::Command;

use crate::support::{database, soon};

/// What the process is told: the storage, the file of effects, and perhaps the write at which it dies.
const TOLD: &str = "BACKFILL_WORKFLOW_KILLED";

async fn store(url: &str) -> Arc<dyn Store> {
    if url.starts_with("sqlite") {
        Arc::new(SqliteStore::open(url).await.unwrap())
    } else {
        Arc::new(PostgresStore::connect(url, "dbos").await.unwrap())
    }
}

/// An effect on the world: a line in a file.
fn effect(file: &Path, name: &str) {
    let mut file = std::fs::OpenOptions::new().append(true).create(true).open(file).unwrap();
    file.write_all(format!("{name}\n").as_bytes()).unwrap();
}

/// A workflow with everything that writes.
fn everything(builder: &mut EngineBuilder, sqlite: bool) -> Workflow<PathBuf, String> {
    let child = builder.register("child", |_: Ctx, file: PathBuf| async move {
        effect(&file, "child");
        Ok::<_, Failure>(3)
    });
    builder.register("everything", move |ctx: Ctx, file: PathBuf| async move {
        let own = ctx.id().to_owned();
        ctx.step("one", || async {
            effect(&file, "one");
            Ok(())
        })
        .await?;
        if sqlite {
            let insert = "insert into effects (name) values ('tx')";
            ctx.tx("tx", async |mut tx: SqliteTx| Ok(sqlx::query(insert).execute(&mut *tx).await.map(drop)?)).await?;
        } else {
            let insert = "insert into effects (name) values ('tx')";
            ctx.tx("tx", async |mut tx: PgTx| Ok(sqlx::query(insert).execute(&mut *tx).await.map(drop)?)).await?;
        }
        let three: i32 = ctx.child(child, &file, Start::new()).await?.result().await?;
        ctx.send(&own, "t", &three).await?;
        let received = ctx.recv::<i32>("t", Duration::from_secs(60)).await?;
        ctx.sleep(Duration::from_millis(2)).await?;
        ctx.set_event("e", &received).await?;
        ctx.step("two", || async {
            effect(&file, "two");
            Ok(())
        })
        .await?;
        Ok::<_, Failure>(format!("{received:?}"))
    })
}

/// Not a case by itself: the process that the cases start.
#[tokio::test]
async fn a_process_of_these_cases_does_what_it_is_told() {
    let Ok(told) = std::env::var(TOLD) else { return };
    let [url, file, write, written]: [&str; 4] = told.split('|').collect::<Vec<_>>().try_into().unwrap();
    let store = store(url).await;
    let crash = match write.parse() {
        Ok(write) => Crash::at(store, write, written == "true"),
        Err(_) => Crash::never(store),
    };
    let mut builder = Engine::builder().store(Arc::new(crash.clone())).migrate(false).version("v1").executor("killed");
    let workflow = everything(&mut builder, url.starts_with("sqlite"));
    let engine = builder.launch().await.unwrap();
    let work = async {
        let handle = engine.start(workflow, &PathBuf::from(file), Start::new().id("w")).await.unwrap();
        handle.result().await.unwrap()
    };
    tokio::select! {
        result = work => assert_eq!(result, "Some(3)"),
        () = crash.crashed() => {
            let kill = std::process::Command::new("kill").args(["-9", &std::process::id().to_string()]).status();
            panic!("killed by nobody: {kill:?}");
        }
    }
}

/// Answers whether the process came to the end of the workflow, and was not killed before.
async fn run(url: &str, file: &Path, write: Option<(usize, bool)>) -> bool {
    let (write, written) = write.map_or(("never".to_owned(), false), |(write, written)| (write.to_string(), written));
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "killed::a_process_of_these_cases_does_what_it_is_told"])
        .env(TOLD, format!("{url}|{}|{write}|{written}", file.display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let output = soon("the process", command.output()).await.unwrap();
    let killed = std::os::unix::process::ExitStatusExt::signal(&output.status) == Some(9);
    assert!(killed || output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    !killed
}

async fn sweep(fresh: impl AsyncFn() -> String, count: impl AsyncFn(&str) -> i64) {
    let directory = tempfile::tempdir().unwrap();
    for write in 0.. {
        for written in [false, true] {
            let url = fresh().await;
            let file = directory.path().join(format!("effects-{write}-{written}"));
            let whole = run(&url, &file, Some((write, written))).await;
            assert!(whole || run(&url, &file, None).await);
            let effects = std::fs::read_to_string(&file).unwrap();
            let happened = |name: &str| effects.lines().filter(|line| *line == name).count();
            let place = format!("killed at the write {write}, written: {written}");
            let twice = ["one", "two", "child"].into_iter().filter(|name| happened(name) == 2).count();
            assert!(
                ["one", "two", "child"].into_iter().all(|name| (1..=2).contains(&happened(name))),
                "{place}: {effects}"
            );
            assert!(twice <= usize::from(!written), "{place}: only what was not recorded happens again: {effects}");
            assert_eq!(count(&url).await, 1, "{place}: what is in the transaction of its record happens once");
            let client = Client::of_store(store(&url).await);
            assert_eq!(client.messages("w").await.unwrap().len(), 1, "{place}");
            assert_eq!(client.events("w").await.unwrap().len(), 1, "{place}");
            let children = Filter { parents: vec!["w".to_owned()], ..Filter::default() };
            assert_eq!(client.list(&children).await.unwrap().len(), 1, "{place}");
            if whole {
                assert!(write >= 11, "it was killed at each write: {write}");
                return;
            }
        }
    }
}

#[tokio::test]
async fn a_process_on_postgresql_that_is_killed_at_any_write_is_gone_on_with() {
    let fresh = async || {
        let (pool, url) = database().await;
        sqlx::query("create table effects (name text)").execute(&pool).await.unwrap();
        store(&url).await.migrate().await.unwrap();
        url
    };
    let count = async |url: &str| {
        let pool = sqlx::PgPool::connect(url).await.unwrap();
        sqlx::query_scalar("select count(*) from effects").fetch_one(&pool).await.unwrap()
    };
    sweep(fresh, count).await;
}

#[tokio::test]
async fn a_process_on_a_file_that_is_killed_at_any_write_is_gone_on_with() {
    let directory = tempfile::tempdir().unwrap();
    let number = std::cell::Cell::new(0);
    let fresh = async || {
        number.set(number.get() + 1);
        let url = format!("sqlite://{}", directory.path().join(format!("{}.db", number.get())).display());
        store(&url).await.migrate().await.unwrap();
        let pool = sqlx::SqlitePool::connect(&url).await.unwrap();
        sqlx::query("create table effects (name text)").execute(&pool).await.unwrap();
        url
    };
    let count = async |url: &str| {
        let pool = sqlx::SqlitePool::connect(url).await.unwrap();
        sqlx::query_scalar("select count(*) from effects").fetch_one(&pool).await.unwrap()
    };
    sweep(fresh, count).await;
}
