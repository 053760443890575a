//! What is measured, and by whom.

use std::time::{Duration, Instant};

use crate::child::{Role, Told};
use crate::process::Process;
use crate::report::{Figures, Turns};
use crate::server::{Held, Server, ended, held};
use crate::{Options, Result};

pub struct Case {
    pub name: &'static str,
    pub about: &'static str,
    /// The figure that decides.
    pub figure: &'static str,
    contestants: &'static [&'static str],
    role: Role,
    /// Whether one round has to do.
    once: bool,
}

/// How many steps a workflow has.
pub const STEPS: u64 = 10;

pub const ALL: &[Case] = &[
    Case {
        name: "steps",
        about: "Workflows of ten plain steps, one at a time, from the start to the result.",
        figure: "p50 ms",
        contestants: &["backfill", "backfill-best", "durare", "dbos", "python", "floor"],
        role: Role::Throughput(1),
        once: false,
    },
    Case {
        name: "throughput16",
        about: "Workflows of ten steps, 16 in flight.",
        figure: "steps/s",
        contestants: &["backfill", "backfill-best", "durare", "durare-best", "dbos", "dbos-best", "python", "python-best", "floor"],
        role: Role::Throughput(16),
        once: false,
    },
    Case {
        name: "throughput256",
        about: "Workflows of ten steps, 256 in flight.",
        figure: "steps/s",
        contestants: &["backfill", "backfill-best", "durare", "durare-best", "dbos", "dbos-best", "python", "python-best"],
        role: Role::Throughput(256),
        once: false,
    },
    Case {
        name: "queued-one",
        about: "A no-op workflow at a time through a queue, put there by a client with connections of its own, from the call to the start.",
        figure: "p50 ms",
        contestants: &["backfill", "durare", "durare-best", "dbos", "dbos-best", "python", "python-best"],
        role: Role::QueuedOne,
        once: false,
    },
    Case {
        name: "queued-many",
        about: "No-op workflows put into a queue from 16 tasks, until all have ended.",
        figure: "workflows/s",
        contestants: &["backfill", "durare", "durare-best", "dbos", "dbos-best", "python", "python-best"],
        role: Role::QueuedMany,
        once: false,
    },
    Case {
        name: "sleeping",
        about: "Workflows that sleep for an hour; then their process is killed, and another takes over.",
        figure: "resident bytes each",
        contestants: &["backfill"],
        role: Role::Sleep,
        once: true,
    },
];

pub async fn run(options: &Options) -> Result<()> {
    if let Some(unknown) = options.cases.iter().find(|name| !ALL.iter().any(|case| case.name == **name)) {
        return Err(format!("there is no case {unknown}; --list names them").into());
    }
    let mut server = Server::connect(&options.url).await?;
    println!("PostgreSQL {}, {} rounds", server.version().await?, options.rounds);
    for case in ALL.iter().filter(|case| options.cases.is_empty() || options.cases.iter().any(|name| name == case.name)) {
        let mut turns = Turns::default();
        for round in 1..=if case.once { 1 } else { options.rounds } {
            for who in case.contestants {
                let left_out = !options.only.is_empty() && !options.only.iter().any(|it| it == who);
                if left_out || (who.starts_with("python") && options.python.is_none()) {
                    continue;
                }
                eprintln!("{}: {who}, round {round}", case.name);
                let database = server.database().await?;
                match measure(&mut server, options, case, who, &database).await {
                    Ok(figures) => turns.add(who, round, figures),
                    // One contestant that cannot do it does not end the others' race; it is told.
                    Err(error) => turns.failed(who, round, &error.to_string()),
                }
                server.drop(&database).await?;
            }
        }
        turns.print(case);
    }
    Ok(())
}

async fn measure(server: &mut Server, options: &Options, case: &Case, who: &str, database: &str) -> Result<Figures> {
    let told = |role| {
        let (seconds, count) = match role {
            Role::Sleep | Role::SleepOn => (0.0, options.sleepers),
            _ => (options.seconds, options.queued),
        };
        Told { who: who.to_owned(), role, seconds, count, url: server.url(database) }
    };
    let python = options.python.as_deref();
    if case.role == Role::Sleep {
        return sleeping(&told(Role::Sleep), &told(Role::SleepOn)).await;
    }
    let mut process = Process::start(&told(case.role), python).await?;
    let mut connection = server.open(database).await?;
    let before = held(&mut connection).await?;
    // What the preparations have committed is told a moment later.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let commits = server.commits(database).await?;
    process.go().await?;
    let begin = Instant::now();
    let mut rate = 0.0;
    if case.role == Role::QueuedMany {
        let end = begin + Duration::from_secs(options.cap);
        let all = before.ended + i64::try_from(options.queued)?;
        loop {
            let now = ended(&mut connection).await?;
            rate = (now - before.ended) as f64 / begin.elapsed().as_secs_f64();
            if now >= all || Instant::now() > end {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // It tells how it has fared when it reads another line.
        process.go().await?;
    }
    let mut figures = process.figures().await?;
    let after = held(&mut connection).await?;
    process.end().await?;
    tokio::time::sleep(Duration::from_millis(600)).await;
    let commits = (server.commits(database).await? - commits) as f64;
    let done = Held { ended: after.ended - before.ended, steps: after.steps - before.steps };
    if let Some(cpu) = figures.remove("cpu s") {
        figures.insert("client CPU us each".to_owned(), cpu * 1e6 / done.ended as f64);
    }
    figures.insert("commits each".to_owned(), commits / done.ended as f64);
    match case.role {
        Role::Throughput(_) => {
            let seconds = figures.remove("s").ok_or("it has told no seconds")?;
            let told = figures.remove("workflows").ok_or("it has told no workflows")?;
            if (told - done.ended as f64).abs() > 0.5 || done.steps != done.ended * i64::try_from(STEPS)? {
                return Err(format!("it told of {told} workflows, and the database has {done:?}").into());
            }
            figures.insert("steps/s".to_owned(), done.steps as f64 / seconds);
        }
        Role::QueuedMany => {
            figures.insert("workflows/s".to_owned(), rate);
        }
        _ => {}
    }
    Ok(figures)
}

async fn sleeping(first: &Told, second: &Told) -> Result<Figures> {
    let mut process = Process::start(first, None).await?;
    process.go().await?;
    let mut figures = process.figures().await?;
    process.kill().await?;
    let begin = Instant::now();
    let mut process = Process::start(second, None).await?;
    process.go().await?;
    let again = process.figures().await?;
    figures.insert("s until all run again".to_owned(), begin.elapsed().as_secs_f64());
    figures.extend(again);
    process.kill().await?;
    Ok(figures)
}
