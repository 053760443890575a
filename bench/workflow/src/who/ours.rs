//! backfill.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use backfill_workflow::{Client, Ctx, Engine, EngineBuilder, Failure, Queue, Start, Workflow};
use sqlx::postgres::PgPoolOptions;
use tokio::task::JoinSet;

use crate::Result;
use crate::cases::STEPS;
use crate::child::{Contestant, Input, Told, resident, started};

pub struct Ours {
    engine: Engine,
    /// With connections of its own, as another process has them.
    client: Client,
    ten: Workflow<u64, u64>,
    nothing: Workflow<u64, u64>,
}

async fn ten(ctx: Ctx, n: u64) -> Result<u64, Failure> {
    for step in 0..STEPS {
        ctx.step("step", || async move { Ok(n + step) }).await?;
    }
    Ok(n)
}

async fn nothing(_: Ctx, n: u64) -> Result<u64, Failure> {
    started();
    Ok(n)
}

async fn sleeper(ctx: Ctx, n: u64) -> Result<u64, Failure> {
    ctx.sleep(Duration::from_secs(3600)).await?;
    Ok(n)
}

impl Ours {
    pub async fn new(told: &Told) -> Result<Self> {
        let mut builder = Engine::builder().queue(Queue::new("queue"));
        builder = if told.is_best() {
            // The driver's pool asks each connection whether it still answers before it gives it away, if nothing is said.
            let pool = PgPoolOptions::new().max_connections(10).test_before_acquire(false);
            builder.postgres(pool.connect(&told.url).await?)
        } else {
            builder.url(&told.url)
        };
        let (ten, nothing) = (builder.register("ten", ten), builder.register("nothing", nothing));
        Ok(Self { engine: builder.launch().await?, client: Client::connect(&told.url).await?, ten, nothing })
    }
}

impl Contestant for Ours {
    async fn ten_steps(&self, n: u64) -> Result<()> {
        self.engine.start(self.ten, &n, Start::new()).await?.result().await.map_err(|failure| failure.to_string())?;
        Ok(())
    }

    async fn enqueue(&self, n: u64) -> Result<()> {
        self.client.start(self.nothing, &n, Start::new().queue("queue")).await?;
        Ok(())
    }
}

fn sleepers(told: &Told) -> (EngineBuilder, Workflow<u64, u64>) {
    let mut builder = Engine::builder().url(&told.url).executor("sleepers");
    let sleeper = builder.register("sleeper", sleeper);
    (builder, sleeper)
}

/// Starts workflows that sleep, and stays.
pub async fn sleep(told: &Told) -> Result<()> {
    let (builder, sleeper) = sleepers(told);
    let engine = Arc::new(builder.launch().await?);
    let mut input = Input::ready();
    input.line().await?;
    // What many statements at once need anyway is there before.
    start(&engine, sleeper, 1000).await?;
    let before = resident()?;
    let begin = Instant::now();
    start(&engine, sleeper, told.count - 1000).await?;
    println!("resident bytes each {}", (resident()? - before) / (told.count - 1000) as f64);
    println!("s to start them {}", begin.elapsed().as_secs_f64());
    println!("done");
    input.line().await
}

/// Starts so many, and waits until all of them sleep.
async fn start(engine: &Arc<Engine>, sleeper: Workflow<u64, u64>, count: u64) -> Result<()> {
    let all = engine.running() + usize::try_from(count)?;
    let next = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..256 {
        let (engine, next) = (Arc::clone(engine), Arc::clone(&next));
        tasks.spawn(async move {
            while next.fetch_add(1, Ordering::Relaxed) < count {
                engine.start(sleeper, &0, Start::new()).await?;
            }
            Ok::<_, crate::AnyError>(())
        });
    }
    while let Some(task) = tasks.join_next().await {
        task??;
    }
    // The last ones record when they wake.
    tokio::time::sleep(Duration::from_secs(2)).await;
    match engine.running() {
        running if running == all => Ok(()),
        running => Err(format!("{running} of {all} workflows run").into()),
    }
}

/// Goes on with those that another process has left.
pub async fn sleep_on(told: &Told, began: Instant) -> Result<()> {
    let (builder, _) = sleepers(told);
    let engine = builder.launch().await?;
    println!("ready");
    let launched = began.elapsed();
    while engine.running() < usize::try_from(told.count)? {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    println!("s until launched {}", launched.as_secs_f64());
    println!("resident MiB after that {}", resident()? / 1024.0 / 1024.0);
    println!("done");
    std::future::pending().await
}
