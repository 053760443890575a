//! How fast waiting jobs are done.

use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Connection};

use super::{Case, Figures, Ground, Measured};
use crate::Result;
use crate::contestant::Contestant::{self, Floor, Gw, GwBest, Node, NodeBest, Ours, River, RiverBest};
use crate::contestant::Library;
use crate::process::{Process, Role};

const EVERYBODY: &[Contestant] = &[Ours, Node, NodeBest, Gw, GwBest, River, RiverBest, Floor];
const GRAPHILES: &[Contestant] = &[Ours, NodeBest, GwBest];

const ANALYZED: &[&str] = &["vacuum analyze"];
const STATELESS: &[&str] = &["alter table graphile_worker._private_jobs set (autovacuum_enabled = off)"];
/// One million jobs that cannot run: of the future, of a task that nobody serves, without attempts, and in two queues that
/// somebody holds.
const WAITING: &[&str] = &["
insert into graphile_worker._private_tasks (identifier) values ('other');
insert into graphile_worker._private_job_queues (queue_name, locked_at, locked_by) values ('s1', now(), 'x'), ('s2', now(), 'x');
insert into graphile_worker._private_jobs (task_id, payload, run_at, attempts, max_attempts, job_queue_id)
select
  (select id from graphile_worker._private_tasks where identifier = case when n % 10 = 1 then 'other' else 'noop' end),
  '{\"n\":1}',
  case when n % 10 = 2 then now() + interval '1 day' else now() - interval '1 hour' end,
  case when n % 10 = 3 then 25 else 0 end,
  25,
  case when n % 10 = 0 then (select id from graphile_worker._private_job_queues where queue_name = 's' || (1 + n / 10 % 2)) end
from generate_series(1, 2500000) as n
where n % 10 < 4;", "vacuum analyze"];
/// A hundred thousand jobs at the head of the line, in two queues that somebody holds.
const STUCK: &[&str] = &["
insert into graphile_worker._private_job_queues (queue_name, locked_at, locked_by) values ('s1', now(), 'x'), ('s2', now(), 'x');
insert into graphile_worker._private_jobs (task_id, payload, priority, job_queue_id)
select (select id from graphile_worker._private_tasks where identifier = 'noop'), '{\"n\":1}', -1,
  (select id from graphile_worker._private_job_queues where queue_name = 's' || (1 + n % 2))
from generate_series(1, 100000) as n;", "vacuum analyze"];

/// Two million jobs that wait as the others do, behind them.
const BACKLOG: &[&str] = &[
    "
insert into graphile_worker._private_jobs (task_id, payload)
select (select id from graphile_worker._private_tasks where identifier = 'noop'), '{\"n\":1}'
from generate_series(1, 2000000) as n;",
    "vacuum analyze",
];

struct Drain {
    queues: usize,
    sql: &'static [&'static str],
    processes: usize,
    concurrency: usize,
    /// A fraction of the jobs of a whole run.
    fraction: usize,
}

const PLAIN: Drain = Drain { queues: 0, sql: ANALYZED, processes: 1, concurrency: 24, fraction: 1 };

macro_rules! case {
    ($name:literal, $about:literal, $who:expr, $drain:expr) => {
        Case {
            name: $name,
            about: $about,
            figure: "jobs/s",
            contestants: $who,
            once: false,
            measure: |ground, contestant| {
                Box::pin(async move {
                    const DRAIN: Drain = $drain;
                    DRAIN.measure(ground, contestant).await
                })
            },
        }
    };
}

pub fn cases() -> Vec<Case> {
    vec![
        case!("drain", "no-op jobs, one process, concurrency 24", EVERYBODY, PLAIN),
        case!(
            "drain-4x24",
            "no-op jobs, four processes, concurrency 24 each",
            &[Ours, Node, NodeBest, GwBest, RiverBest],
            Drain { processes: 4, ..PLAIN }
        ),
        case!(
            "drain-1x1",
            "no-op jobs, one process, concurrency 1",
            &[Ours, Node, NodeBest, GwBest, River],
            Drain { concurrency: 1, ..PLAIN }
        ),
        case!(
            "drain-no-statistics",
            "no-op jobs in a table that was never analyzed",
            GRAPHILES,
            Drain { sql: STATELESS, ..PLAIN }
        ),
        case!("drain-waiting", "while a million other jobs wait", GRAPHILES, Drain { sql: WAITING, ..PLAIN }),
        case!(
            "drain-backlog",
            "while two million more stand behind them, analyzed",
            GRAPHILES,
            Drain { sql: BACKLOG, ..PLAIN }
        ),
        case!(
            "drain-stuck",
            "while 100 000 jobs of two held queues stand at the head",
            GRAPHILES,
            Drain { sql: STUCK, ..PLAIN }
        ),
        case!("drain-queues-10", "jobs of 10 serial queues", GRAPHILES, Drain { queues: 10, fraction: 20, ..PLAIN }),
        case!(
            "drain-queues-1000",
            "jobs of 1 000 serial queues",
            GRAPHILES,
            Drain { queues: 1_000, fraction: 2, ..PLAIN }
        ),
        case!("drain-queues-100000", "jobs of 100 000 serial queues", GRAPHILES, Drain { queues: 100_000, ..PLAIN }),
    ]
}

impl Drain {
    async fn measure(&self, ground: &mut Ground, contestant: Contestant) -> Result<Measured> {
        if contestant != Floor {
            let role = Role::Work { concurrency: self.concurrency, record: false };
            return Ok(vec![(contestant.to_string(), self.run(ground, contestant, role).await?)]);
        }
        let mut measured = Vec::new();
        for (batch, connections, fused) in [
            (24, 1, false),
            (24, 4, true),
            (500, 1, false),
            (500, 2, false),
            (500, 4, false),
            (500, 1, true),
            (500, 2, true),
        ] {
            let kind = if fused { "fused" } else { "in two" };
            let who = format!("floor {batch} x {connections} {kind}");
            measured.push((who, self.run(ground, contestant, Role::Floor { batch, connections, fused }).await?));
        }
        Ok(measured)
    }

    #[expect(clippy::cast_precision_loss, reason = "numbers of jobs are far below 2^52")]
    async fn run(&self, ground: &mut Ground, contestant: Contestant, role: Role) -> Result<Figures> {
        let library = contestant.library();
        let jobs = ground.jobs / self.fraction;
        let database = ground.filled(library, jobs, self.queues, self.sql).await?;
        let mut watch = ground.server.open(&database).await?;
        let mut children = Vec::new();
        for _ in 0..self.processes {
            children.push(Process::start(&ground.told(contestant, &database, role.clone())).await?);
        }
        let before = ground.server.spent(&database).await?;
        let cpu_before: Duration = spent(&children)?;
        let begin = Instant::now();
        for child in &mut children {
            child.go().await?;
        }
        // The jobs to be done were added first.
        let done = match library {
            Library::River => library.is_drained().to_owned(),
            _ => format!(
                "select coalesce((select id from graphile_worker._private_jobs order by id limit 1), {jobs} + 1) > {jobs}"
            ),
        };
        let mut looks = 0;
        loop {
            looks += 1;
            let done: bool = sqlx::query_scalar(AssertSqlSafe(done.clone())).fetch_one(&mut watch).await?;
            if done || begin.elapsed() > Duration::from_secs(ground.cap) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let seconds = begin.elapsed().as_secs_f64();
        let client_cpu = spent(&children)? - cpu_before;
        let after = ground.server.spent(&database).await?;
        let left = match library {
            Library::River => library.count_left().to_owned(),
            _ => format!("select count(*) from graphile_worker._private_jobs where id <= {jobs}"),
        };
        let left: i64 = sqlx::query_scalar(AssertSqlSafe(left)).fetch_one(&mut watch).await?;
        let resident =
            children.iter().filter_map(|child| child.spent().ok()).map(|spent| spent.resident_mib).fold(0.0, f64::max);
        for child in children {
            child.end().await?;
        }
        // What sessions count is told when they end.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let commits = ground.server.spent(&database).await?.commits - before.commits - looks;
        watch.close().await?;
        ground.server.drop(&database).await?;
        let done = (jobs as i64 - left) as f64;
        let each = |time: Duration| time.as_secs_f64() * 1e6 / done;
        Ok(Figures::from([
            ("jobs/s", done / seconds),
            ("client CPU us/job", each(client_cpu)),
            ("server CPU us/job", each(after.cpu - before.cpu)),
            ("WAL bytes/job", (after.wal_bytes - before.wal_bytes) / done),
            ("commits/1000 jobs", commits as f64 * 1000.0 / done),
            ("resident MiB", resident),
        ]))
    }
}

fn spent(children: &[Process]) -> Result<Duration> {
    children.iter().map(|child| Ok(child.spent()?.cpu)).sum()
}
