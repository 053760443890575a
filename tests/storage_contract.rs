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

    /// A fresh schema with messages.
    async fn with_messages() -> Subject {
        let storage = open_with_messages(&place().await).await;
        storage.migrate().await.expect("migrate");
        storage
    }

    async fn open_with_messages(schema: &str) -> Subject {
        Arc::new(PostgresStorage::new(support::pool().await, schema).expect("a schema").with_messages())
    }

    backfill::storage_contract_tests!(postgres);
    backfill::storage_message_tests!(with_messages);
    backfill::storage_process_tests!(place, open);
    backfill::storage_message_process_tests!(place, open_with_messages);
}

mod memory {
    use std::sync::Arc;

    use backfill::storage::contract::Subject;
    use backfill::storage::memory::MemoryStorage;

    async fn memory() -> Subject {
        Arc::new(MemoryStorage::new())
    }
    backfill::storage_contract_tests!(memory);
    backfill::storage_message_tests!(memory);

    /// As many as a database would take minutes for.
    #[tokio::test]
    async fn ten_thousand_random_histories_are_fenced() {
        backfill::storage::contract::messages::random_histories(memory().await, 10_000).await;
    }
}
