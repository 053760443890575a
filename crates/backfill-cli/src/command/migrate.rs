//! `backfill migrate`.

use std::time::Duration;

use backfill::Error;
use backfill::error::Unready;
use serde_json::json;

use crate::args::{Global, MigrateArgs};
use crate::database;
use crate::failure::Failure;
use crate::output::Output;

pub async fn run(global: &Global, output: &Output, args: &MigrateArgs) -> Result<(), Failure> {
    let storage = if args.messages {
        database::reached_for_messages(global).await?
    } else {
        database::reached(global, Duration::ZERO).await?
    };
    let before = storage.version().await;
    let elsewhere = match before {
        Err(ref error) if error.is_missing() => database::elsewhere(&storage).await,
        _ => String::new(),
    };
    let own_missing = matches!(before, Err(Error::NotReady { reason: Unready::OwnObjectsMissing, .. }));
    let messages_missing = matches!(before, Err(Error::NotReady { reason: Unready::MessagesMissing, .. }));
    let migrated = storage.migrate().await?;
    let mut built = Vec::new();
    for index in &args.indexes {
        let postgres = storage.postgres().ok_or_else(|| {
            Failure::Usage(format!("{} needs no indexes beside its own; leave out --indexes", storage.name()))
        })?;
        let is_new = postgres.build_index(*index).await?;
        let cost = index.bytes_of_wal();
        let name = index.name();
        if !output.is_json() {
            let told = if is_new { "built the index" } else { "there is already the index" };
            output.line(format!("{told} {name}: {cost} bytes more of write-ahead log for each job, of about 800"))?;
        }
        built.push(json!({ "index": name, "built": is_new, "bytes_of_wal": cost }));
    }
    let ((what, version), from, to) = (database::described(&storage), migrated.from, migrated.to);
    let text = match from {
        None => format!("created {what} at {version} {to}{elsewhere}"),
        Some(from) if from < to => format!("brought {what} from {version} {from} to {to}"),
        Some(_) if own_missing => format!("added backfill's own objects to {what}, which is at {version} {to}"),
        Some(_) if messages_missing => format!("added what messages need to {what}, which is at {version} {to}"),
        Some(_) => format!("{what} is at {version} {to} already"),
    };
    let schema = database::schema_of(&storage);
    output.either(&json!({ "storage": storage.name(), "schema": schema, "from": from, "to": to, "own_objects_added": own_missing, "messages_added": messages_missing, "indexes": built }), text)
}
