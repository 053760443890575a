//! The contract suite, on both storages.

mod support;

mod postgres {
    use crate::support::postgres;
    backfill::storage_contract_tests!(postgres);
}

mod memory {
    use std::sync::Arc;

    use backfill::storage::Storage;
    use backfill::storage::memory::MemoryStorage;

    async fn memory() -> Arc<dyn Storage> {
        Arc::new(MemoryStorage::new())
    }
    backfill::storage_contract_tests!(memory);
}
