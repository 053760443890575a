//! `backfill migrate`.

use serde_json::json;

use crate::args::Global;
use crate::database;
use crate::failure::Failure;
use crate::output::Output;

pub async fn run(global: &Global, output: &Output) -> Result<(), Failure> {
    let storage = database::storage(global).await?;
    let migrated = storage.migrate().await?;
    let ((what, version), from, to) = (database::described(&storage), migrated.from, migrated.to);
    let text = match from {
        None => format!("created {what} at {version} {to}"),
        Some(from) if from < to => format!("brought {what} from {version} {from} to {to}"),
        Some(_) => format!("{what} is at {version} {to} already"),
    };
    let schema = database::schema_of(&storage);
    output.either(&json!({ "storage": storage.name(), "schema": schema, "from": from, "to": to }), text)
}
