//! The crate durare.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use ::durare::{Client, DurableContext, DurableEngine, Error, PostgresProvider, WorkflowOptions, WorkflowQueue};
use sqlx_of_durare::postgres::{PgConnectOptions, PgPoolOptions};

use crate::Result;
use crate::cases::STEPS;
use crate::child::{Contestant, Told, started};

pub struct Durare {
    engine: DurableEngine,
    client: Client,
}

async fn ten(ctx: DurableContext, n: u64) -> ::durare::Result<u64> {
    for step in 0..STEPS {
        ctx.step("step", || async move { Ok::<_, Error>(n + step) }).await?;
    }
    Ok(n)
}

async fn nothing(_: DurableContext, n: u64) -> ::durare::Result<u64> {
    started();
    Ok(n)
}

impl Durare {
    pub async fn new(told: &Told) -> Result<Self> {
        // Its tables are made by its own way to connect; the pool of another size is the one that its manual tells how to make.
        let mut builder = DurableEngine::connect(&told.url).await?;
        if told.is_best() {
            drop(builder.build().await?);
            let options = PgConnectOptions::from_str(&told.url)?.options([("search_path", "dbos")]);
            let pool = PgPoolOptions::new().max_connections(32).connect_with(options).await?;
            builder = DurableEngine::builder(Arc::new(PostgresProvider::from_pool_with_schema(pool, "dbos")?));
        }
        builder.register("ten", ten).register("nothing", nothing);
        let mut queue = WorkflowQueue::new("queue");
        if told.is_best() {
            queue = queue.base_polling_interval(Duration::from_millis(1)).max_tasks_per_iteration(2000);
        }
        builder.register_queue(queue);
        let engine = builder.build().await?;
        engine.launch().await?;
        let client = Client::new(Arc::new(PostgresProvider::connect(&told.url).await?));
        Ok(Self { engine, client })
    }
}

impl Contestant for Durare {
    async fn ten_steps(&self, n: u64) -> Result<()> {
        self.engine.start::<u64, u64>("ten", n, WorkflowOptions::default()).await?.result().await?;
        Ok(())
    }

    async fn enqueue(&self, n: u64) -> Result<()> {
        self.client.enqueue::<u64, u64>("queue", "nothing", n, WorkflowOptions::default()).await?;
        Ok(())
    }
}
