//! The contract suite, on PostgreSQL and in memory. (SQLite passes it in its own crate.)

#[cfg(feature = "server-tests")]
mod support;

#[cfg(not(feature = "server-tests"))]
#[test]
#[ignore = "the contract on PostgreSQL needs a server: ./scripts/test"]
fn postgres() {
    panic!("there is nothing to run here");
}

#[cfg(feature = "server-tests")]
mod postgres {
    use std::sync::Arc;

    use backfill::postgres::PostgresStorage;
    use backfill::storage::contract::Subject;

    use crate::support::{self, postgres};

    /// A fresh schema.
    async fn place() -> String {
        support::client().await.2
    }

    async fn open(schema: &str) -> Subject {
        Arc::new(PostgresStorage::new(support::pool().await, schema).expect("a schema"))
    }

    backfill::storage_contract_tests!(postgres);
    backfill::storage_process_tests!(place, open);
}

mod memory {
    use std::sync::Arc;

    use backfill::storage::contract::Subject;
    use backfill::storage::memory::MemoryStorage;

    async fn memory() -> Subject {
        Arc::new(MemoryStorage::new())
    }
    backfill::storage_contract_tests!(memory);
}
