//! How fast jobs are accepted.

use sqlx::{AssertSqlSafe, Connection};

use super::{Case, Figures, Ground, Measured};
use crate::Result;
use crate::contestant::Contestant::{self, Floor, Gw, Node, Ours, River};
use crate::process::{Process, Role};

pub fn cases() -> Vec<Case> {
    vec![
        Case {
            name: "add-1",
            about: "single adds, one after the other",
            figure: "jobs/s",
            contestants: &[Ours, Node, Gw, River],
            once: false,
            measure: |ground, who| Box::pin(one_by_one(ground, who, 2_000, 1)),
        },
        Case {
            name: "add-16",
            about: "single adds from 16 tasks of one process",
            figure: "jobs/s",
            contestants: &[Ours, Node, Gw, River],
            once: false,
            measure: |ground, who| Box::pin(one_by_one(ground, who, 16_000, 16)),
        },
        Case {
            name: "add-bulk",
            about: "all jobs by the function for many",
            figure: "jobs/s",
            contestants: &[Ours, Node, Gw, River, Floor],
            once: false,
            measure: |ground, who| Box::pin(bulk(ground, who)),
        },
    ]
}

/// The rate, once the database has been asked how many there are.
async fn rate(
    ground: &mut Ground,
    contestant: Contestant,
    database: &str,
    jobs: usize,
    seconds: f64,
) -> Result<Measured> {
    let mut connection = ground.server.open(database).await?;
    let stored: i64 =
        sqlx::query_scalar(AssertSqlSafe(contestant.library().count().to_owned())).fetch_one(&mut connection).await?;
    connection.close().await?;
    ground.server.drop(database).await?;
    if usize::try_from(stored)? != jobs {
        return Err(format!("{jobs} jobs were added, and {stored} are stored").into());
    }
    #[expect(clippy::cast_precision_loss, reason = "numbers of jobs are far below 2^52")]
    Ok(vec![(contestant.to_string(), Figures::from([("jobs/s", jobs as f64 / seconds)]))])
}

async fn one_by_one(ground: &mut Ground, contestant: Contestant, jobs: usize, tasks: usize) -> Result<Measured> {
    let database = ground.filled(contestant.library(), 0, 0, &[]).await?;
    let mut child = Process::start(&ground.told(contestant, &database, Role::AddOneByOne { jobs, tasks })).await?;
    child.go().await?;
    let seconds = child.line().await?.parse()?;
    child.end().await?;
    rate(ground, contestant, &database, jobs, seconds).await
}

async fn bulk(ground: &mut Ground, contestant: Contestant) -> Result<Measured> {
    let database = ground.filled(contestant.library(), 0, 0, &[]).await?;
    let jobs = ground.jobs;
    let seconds = ground.fill(contestant, &database, jobs, 0).await?;
    rate(ground, contestant, &database, jobs, seconds).await
}
