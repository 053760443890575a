//! The crate dbos.

use std::time::Duration;

use ::dbos::{Client, ClientConfig, Config, DBOS, Error, QueueConflict, QueueOptions, WorkflowHandle, WorkflowRef, step};

use crate::Result;
use crate::cases::STEPS;
use crate::child::{Contestant, Told, started};

pub struct Dbos {
    client: Client,
    ten: WorkflowRef<u64, u64>,
    _instance: DBOS,
}

async fn ten(n: u64) -> ::dbos::Result<u64> {
    for number in 0..STEPS {
        step("step", || async move { Ok::<_, Error>(n + number) }).await?;
    }
    Ok(n)
}

async fn nothing(n: u64) -> ::dbos::Result<u64> {
    started();
    Ok(n)
}

impl Dbos {
    pub async fn new(told: &Told) -> Result<Self> {
        let config = Config { app_version: Some("1".to_owned()), ..Config::new("bench", &told.url) };
        let config = if told.is_best() { Config { max_connections: 32, ..config } } else { config };
        let instance = DBOS::new(config);
        let ten = instance.register_workflow("ten", ten)?;
        instance.register_workflow("nothing", nothing)?;
        instance.launch().await?;
        let mut queue = QueueOptions::default();
        if told.is_best() {
            queue.polling_interval = Duration::from_millis(1);
        }
        instance.register_queue("queue", queue, QueueConflict::AlwaysUpdate).await?;
        let client = Client::connect(ClientConfig { app_name: Some("bench".to_owned()), ..ClientConfig::new(&told.url) }).await?;
        Ok(Self { client, ten, _instance: instance })
    }
}

impl Contestant for Dbos {
    async fn ten_steps(&self, n: u64) -> Result<()> {
        self.ten.start(n).await?.result().await?;
        Ok(())
    }

    async fn enqueue(&self, n: u64) -> Result<()> {
        let _: WorkflowHandle<u64, ::dbos::EngineOnly> = self.client.enqueue("nothing", "queue", n).await?;
        Ok(())
    }
}
