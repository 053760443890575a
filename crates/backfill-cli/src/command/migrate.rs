//! `backfill migrate`.

use backfill::storage::Storage;
use serde_json::json;

use crate::args::Global;
use crate::database;
use crate::failure::Failure;
use crate::output::Output;

pub async fn run(global: &Global, output: &Output) -> Result<(), Failure> {
    let storage = database::storage(global)?;
    let migrated = storage.migrate().await?;
    let (schema, from, to) = (storage.schema(), migrated.from, migrated.to);
    let text = match from {
        None => format!("created the schema {schema:?} at revision {to}"),
        Some(from) if from < to => format!("brought the schema {schema:?} from revision {from} to {to}"),
        Some(_) => format!("the schema {schema:?} is at revision {to} already"),
    };
    output.either(&json!({ "schema": schema, "from": from, "to": to }), text)
}
