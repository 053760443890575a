//! The table of capabilities in docs/storages.md says what the storages say of themselves.

use std::collections::BTreeMap;

use backfill::postgres::PostgresStorage;
use backfill::sqlx::PgPool;
use backfill::storage::memory::MemoryStorage;
use backfill::storage::{AnyStorage, Backend, Capabilities, OpenOptions, Storage};

/// The rows of the table, by their first cell, and its columns.
fn table() -> (Vec<String>, BTreeMap<String, Vec<String>>) {
    let page = include_str!("../docs/storages.md");
    let section = page.split_once("## What each can do").expect("the section").1;
    let rows = section.split("\n## ").next().expect("a section").lines().filter(|line| line.starts_with('|'));
    let mut rows = rows.map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()));
    let columns = rows.next().expect("a head").skip(1).collect();
    let rows = rows.skip(1).map(|mut cells| (cells.next().expect("a name"), cells.collect()));
    (columns, rows.collect())
}

fn told(storage: &dyn Storage) -> BTreeMap<&'static str, String> {
    let yes = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    // A capability that is new has to be in the table too.
    let serde_json::Value::Object(fields) = serde_json::to_value(storage.capabilities()).expect("JSON") else {
        panic!("capabilities have fields");
    };
    assert_eq!(fields.len(), 6, "the table has a row for each of {fields:?}");
    let Capabilities { max_payload_bytes, max_delay, transactional_add, handoff, several_processes, durable, .. } =
        storage.capabilities();
    BTreeMap::from([
        ("`Storage`, `Consumer`", yes(true)),
        ("`Schedules`: crontabs", yes(storage.schedules().is_some())),
        ("`Admin`: managing jobs", yes(storage.admin().is_some())),
        ("`Inspect`: looking at jobs", yes(storage.inspect().is_some())),
        ("`Transfer`: `backfill move`", yes(storage.transfer().is_some())),
        ("`Messages`: a durable queue", yes(storage.messages().is_some())),
        ("`Doctor`: `backfill doctor`", yes(storage.doctor().is_some())),
        (
            "`max_payload_bytes`",
            if max_payload_bytes == u64::MAX { "any".to_owned() } else { max_payload_bytes.to_string() },
        ),
        ("`max_delay`, in years", (max_delay.as_secs() / (365 * 24 * 3600)).to_string()),
        ("`transactional_add`", yes(transactional_add)),
        ("`handoff`", yes(handoff)),
        ("`several_processes`", yes(several_processes)),
        ("`durable`", yes(durable)),
    ])
}

/// The commands of the guide's user are those that the storage names, by which the contract runs.
#[cfg(feature = "redis")]
#[test]
fn the_guide_names_the_commands_that_redis_needs() {
    let page = include_str!("../docs/guides/redis.md");
    let line = page.split_once("ACL SETUSER app").expect("the user").1.split("```").next().expect("its end");
    let named: Vec<&str> = line.split_whitespace().filter_map(|word| word.strip_prefix('+')).collect();
    assert_eq!(named, backfill::redis::COMMANDS);
}

#[tokio::test]
async fn the_table_says_what_storages_say_of_themselves() {
    let (columns, rows) = table();
    let pool = PgPool::connect_lazy("postgres://nobody@localhost:1/nowhere").expect("a URL");
    let mut storages: Vec<(&str, AnyStorage)> = vec![
        ("memory", MemoryStorage::new().into()),
        ("PostgreSQL", PostgresStorage::new(pool, "graphile_worker").expect("a schema").with_messages().into()),
    ];
    if cfg!(feature = "sqlite") {
        let options = OpenOptions::default().messages(true);
        let file = Backend::of("sqlite://no/such/jobs.db").expect("a URL");
        storages.push(("SQLite file", options.open(&file).await.expect("a file")));
    }
    if cfg!(feature = "redis") {
        let options = OpenOptions::default();
        let server = Backend::of("redis://nowhere").expect("a URL");
        storages.push(("Redis", options.open(&server).await.expect("a namespace")));
    }
    for (name, storage) in storages {
        let column = columns.iter().position(|column| column == name).expect("its column");
        let written: BTreeMap<&str, String> =
            rows.iter().map(|(row, cells)| (row.as_str(), cells[column].clone())).collect();
        assert_eq!(written, told(&**storage.storage()), "{name}");
    }
}
