//! What can be said to `backfill worker`.

use std::path::PathBuf;
use std::time::Duration;

use super::{CRONTAB, DATABASE, DEAD_WORKERS, FINDING, LIMITS, PREFETCHING, SHUTDOWN, TASKS};
use crate::value::{self, ForTask, Retry};

#[derive(clap::Args, Debug)]
#[command(after_long_help = "\
Tasks are programs in a directory, in any language: the file tasks/mail/send.sh runs the jobs of the task mail/send. A program \
gets {\"payload\": …} on its standard input, and GRAPHILE_WORKER_JOB_ID, _JOB_KEY, _JOB_ATTEMPTS, _JOB_MAX_ATTEMPTS, _JOB_PRIORITY, \
_JOB_RUN_AT, _TASK_IDENTIFIER and _PAYLOAD_FORMAT in its environment. Exit status 0 means done; anything else fails the attempt, and \
the last lines of its standard error become last_error. What it prints goes to the log. A program that is put into the directory later \
is a task too, and one that is taken out of it is none any more.

A crontab is in Graphile's dialect, which Node reads too. After the comment `# dialect: extended` (or, for one line, with the option \
?dialect=extended) it may say more: names such as MON, steps of ranges, @daily, seconds before the minutes, and ?tz=Europe/Berlin. \
`backfill crontab check FILE` tells what is wrong with one, or when it is due.

The first SIGINT, SIGTERM or SIGHUP lets running jobs end; a second one forces the end. A worker whose log nobody reads any more ends as by \
a signal. One that is killed (SIGKILL) cannot end its programs: each runs on, beside the next attempt.")]
#[expect(clippy::struct_excessive_bools, reason = "switches, independent of each other")]
pub struct WorkerArgs {
    /// The directory of the tasks [default: tasks]
    #[arg(long, value_name = "DIR", help_heading = TASKS)]
    pub tasks: Option<PathBuf>,
    /// Run what is ready, then end; the crontab is not run
    #[arg(long, help_heading = TASKS)]
    pub once: bool,
    /// How often to look for programs that were put into that directory, or taken out of it; 0s for never
    #[arg(long, value_name = "DURATION", value_parser = value::duration, default_value = "2s", help_heading = TASKS, hide_short_help = true)]
    pub rescan_interval: Duration,
    /// Let programs have the variables that hold the database's password (DATABASE_URL, PGPASSWORD, …), as Node's worker does
    #[arg(long, help_heading = TASKS, hide_short_help = true)]
    pub pass_secrets: bool,
    /// How many jobs run at once
    ///
    /// Node's name for it, --jobs, is understood too.
    #[arg(short = 'j', long, alias = "jobs", value_name = "N", default_value_t = 10, value_parser = value::up_to(1_000_000), help_heading = LIMITS)]
    pub concurrency: usize,
    /// How many jobs of one task run at the same time
    #[arg(long, value_name = "TASK=N", value_parser = value::task_count, help_heading = LIMITS, hide_short_help = true)]
    pub task_concurrency: Vec<ForTask<usize>>,
    /// How long a job may run [default: 4h]
    ///
    /// It may be said of all tasks or of one, and be repeated.
    #[arg(long, value_name = "[TASK=]TIME", value_parser = value::task_duration, help_heading = LIMITS)]
    pub timeout: Vec<ForTask<Duration>>,
    /// When to try failed jobs again [default: graphile]
    ///
    /// The policy is graphile, fixed:10s, linear:10s:1h (step and cap) or exponential:1s:2:1h (first delay, factor and cap).
    #[arg(long, value_name = "[TASK=]POLICY", value_parser = value::task_retry, help_heading = LIMITS, hide_short_help = true)]
    pub retry: Vec<ForTask<Retry>>,
    /// Leave jobs alone that have any of these flags
    #[arg(long, value_name = "FLAG,…", value_delimiter = ',', help_heading = LIMITS, hide_short_help = true)]
    pub forbidden_flags: Vec<String>,
    /// A crontab to run [default: crontab, if that is there]
    #[arg(long, value_name = "FILE", help_heading = CRONTAB)]
    pub crontab: Option<PathBuf>,
    /// Go by this machine's clock, not the database's
    #[arg(long, visible_alias = "use-node-time", help_heading = CRONTAB, hide_short_help = true)]
    pub client_time: bool,
    /// How often to look for jobs without being told
    #[arg(long, value_name = "DURATION", value_parser = value::duration, default_value = "2s", help_heading = FINDING, hide_short_help = true)]
    pub poll_interval: Duration,
    /// Do not listen for notifications, only poll: for poolers in transaction mode
    #[arg(long, help_heading = FINDING, hide_short_help = true)]
    pub no_listen: bool,
    /// Refuse direct handoff: claim every job. Otherwise a single new job may be stored as claimed by an idle worker
    #[arg(long, help_heading = FINDING, hide_short_help = true)]
    pub no_handoff: bool,
    /// Hold up to this many jobs ready beyond those that run
    #[arg(long, value_name = "N", help_heading = PREFETCHING, hide_short_help = true)]
    pub prefetch: Option<usize>,
    /// How long a prefetched job may wait before it is released
    #[arg(long, value_name = "DURATION", value_parser = value::duration, default_value = "5m", requires = "prefetch", help_heading = PREFETCHING, hide_short_help = true)]
    pub prefetch_ttl: Duration,
    /// After a prefetch that found little, wait about this long before the next
    #[arg(long, value_name = "DURATION", value_parser = value::duration, requires = "prefetch", help_heading = PREFETCHING, hide_short_help = true)]
    pub refetch_delay: Option<Duration>,
    /// What "little" means
    #[arg(long, value_name = "N", default_value_t = 0, requires = "refetch_delay", help_heading = PREFETCHING, hide_short_help = true)]
    pub refetch_threshold: usize,
    /// How many announced jobs end that wait early, about [default: five times the size]
    #[arg(long, value_name = "N", requires = "refetch_delay", help_heading = PREFETCHING, hide_short_help = true)]
    pub refetch_abort_at: Option<u64>,
    /// When programs that still run are killed
    ///
    /// Their jobs are ready again at once.
    #[arg(long, value_name = "DURATION", value_parser = value::duration, default_value = "25s", help_heading = SHUTDOWN, hide_short_help = true)]
    pub grace: Duration,
    /// When programs that still run get SIGTERM
    #[arg(long, value_name = "DURATION", value_parser = value::duration, default_value = "5s", help_heading = SHUTDOWN, hide_short_help = true)]
    pub cancel_after: Duration,
    /// How long after the first signal another one forces the end; what comes sooner says nothing new
    #[arg(long, value_name = "DURATION", value_parser = value::duration, default_value = "5s", help_heading = SHUTDOWN, hide_short_help = true)]
    pub second_signal_after: Duration,
    /// How often to send a heartbeat
    #[arg(long, value_name = "DURATION", value_parser = value::duration, default_value = "5s", help_heading = DEAD_WORKERS, hide_short_help = true)]
    pub heartbeat_interval: Duration,
    /// After how long without a heartbeat a worker counts as dead, and its jobs are freed
    ///
    /// It is at least two and a half times the heartbeat interval. Of two workers' settings the longer one holds. With --once, a run
    /// that ends sooner frees no job of another.
    #[arg(long, value_name = "DURATION", value_parser = value::duration, default_value = "15s", help_heading = DEAD_WORKERS, hide_short_help = true)]
    pub dead_after: Duration,
    /// How often locks older than four hours are looked for, at least
    #[arg(long, value_name = "DURATION", value_parser = value::duration, default_value = "8m", help_heading = DEAD_WORKERS, hide_short_help = true)]
    pub min_reset_locked_interval: Duration,
    /// The same, at most
    #[arg(long, value_name = "DURATION", value_parser = value::duration, default_value = "10m", help_heading = DEAD_WORKERS, hide_short_help = true)]
    pub max_reset_locked_interval: Duration,
    /// Do not create or upgrade the schema
    #[arg(long, help_heading = DATABASE, hide_short_help = true)]
    pub no_migrate: bool,
    /// Fail if the database cannot be reached at the start, rather than wait for it (--once never waits)
    #[arg(long, help_heading = DATABASE, hide_short_help = true)]
    pub fail_fast: bool,
}
