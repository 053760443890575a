//! What workers and adders do again and again, and what each of it may read.

use std::sync::Arc;
use std::time::Duration;

use backfill::storage::{
    ClaimRef, ClaimRequest, Claimed, ClaimedJob, Consumer, Outcome, Registration, Settlement, WorkerId,
};
use backfill::{BackfillClient, Job, JobSpec, RunAt};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

use crate::server::{Database, Plan};

/// The pages that a statement may look at besides what it needs for its rows: the descent of a few indexes.
pub const PAGES: i64 = 150;
/// The pages that it may look at for each row that it takes, changes or stores: five indexes, of three or four levels each.
pub const PAGES_FOR_EACH: i64 = 60;
/// The rows that it may look at for each such row, and besides them.
pub const ROWS_FOR_EACH: f64 = 12.0;
pub const ROWS: f64 = 200.0;
/// The rows, and pages, that a claim may look at besides, where its worker has found that looks are not cheap, if only because the
/// machine is busy: then it counts the rows that it walks over, a thousand at first, and looks at them again.
pub const LOOK: f64 = 2_000.0;
pub const LOOK_PAGES: i64 = 2_000;

/// A worker's storage and an adder's client, on one connection: so what was done before is told before what is done next.
pub struct Actor<'a> {
    database: &'a Database<'a>,
    label: String,
    pub one: PgPool,
    client: BackfillClient,
    storage: Arc<dyn Consumer>,
    pub worker: WorkerId,
}

/// What an act did: its statements, with those in functions.
#[derive(Debug)]
pub struct Act {
    label: String,
    pub plans: Vec<Plan>,
}

impl<'a> Actor<'a> {
    pub async fn new(database: &'a Database<'a>, label: &str, url: &str) -> Self {
        let one = PgPoolOptions::new().max_connections(1).connect(url).await.expect("connect");
        let client = BackfillClient::with_pool_and_schema(one.clone(), "graphile_worker").await.expect("a client");
        let (storage, worker) = (client.storage().consumer(), WorkerId::random());
        assert!(storage.register(&Registration::new(&worker, &[])).await.expect("register"));
        Self { database, label: label.to_owned(), one, client, storage, worker }
    }

    /// Does something that a function of this does, and looks at what the server ran for it.
    pub async fn watched<T>(&self, what: &str, act: impl Future<Output = T>) -> (T, Act) {
        drop(self.database.server.plans());
        let done = act.await;
        sqlx::raw_sql("select 'the end of an act'").execute(&self.one).await.expect("the end");
        let plans = self.database.server.plans();
        assert!(!plans.is_empty(), "{what}: no plan was told");
        let act = Act { label: format!("{}: {what}", self.label), plans };
        act.is_never_compiled();
        (done, act)
    }

    pub async fn claim(&self, tasks: &[String], limit: usize) -> (Claimed, Act) {
        self.claim_as(ClaimRequest::new(&self.worker, tasks, limit).run_length(4)).await
    }

    pub async fn claim_as(&self, request: ClaimRequest<'_>) -> (Claimed, Act) {
        let claim = async { self.storage.claim(&request).await.expect("claim") };
        self.watched(&format!("a claim of {}", request.limit), claim).await
    }

    pub async fn settle(&self, jobs: &[ClaimedJob], outcome: impl Fn(usize) -> Outcome) -> Act {
        let settlement = |(place, job): (usize, &ClaimedJob)| Settlement::new(ClaimRef::of(job), outcome(place));
        let settled: Vec<Settlement> = jobs.iter().enumerate().map(settlement).collect();
        let settle = async { self.storage.settle(&self.worker, &settled).await.expect("settle") };
        let (written, act) = self.watched(&format!("{} results", jobs.len()), settle).await;
        assert_eq!(written.applied.len(), jobs.len(), "{}", act.label);
        act.reads_no_more_than_for(jobs.len());
        act
    }

    pub async fn add(&self, what: &str, jobs: Vec<JobSpec>) -> Vec<Job> {
        let count = jobs.len();
        let add = async {
            match <[JobSpec; 1]>::try_from(jobs) {
                Ok([job]) => vec![self.client.add(job).await.expect("add")],
                Err(jobs) => self.client.add_many(jobs).await.expect("add"),
            }
        };
        let (added, act) = self.watched(&format!("adding {count} {what}"), add).await;
        act.reads_no_more_than_for(count);
        added
    }

    pub async fn heartbeat(&self) {
        let (shown, act) = self.watched("a heartbeat", self.storage.heartbeat(&self.worker)).await;
        assert!(shown.expect("heartbeat"));
        act.reads_no_more_than_for(1);
    }

    /// All acts of a worker's life and of adders, each often enough for the server to make a plan of its own for all of them: the
    /// claims must find `limit` jobs each.
    pub async fn live(&self, tasks: &[String], limit: usize) {
        self.live_looking(tasks, limit, LOOK).await;
    }

    /// The same where each claim may look at so many rows that it does not take: a pass over a long line may be under way.
    pub async fn live_looking(&self, tasks: &[String], limit: usize, look: f64) {
        let nobodys = ["nobody's".to_owned()];
        let error = || "no".to_owned();
        for round in 0..8_usize {
            let (claimed, act) = self.claim(tasks, limit).await;
            assert!(claimed.jobs.len() >= limit, "{}: {} jobs", act.label, claimed.jobs.len());
            if round > 1 {
                // The first claims of a worker look carefully, and those of a connection read the catalog.
                act.claims_no_dearer_than_for(claimed.jobs.len(), tasks, look);
            }
            // Of one claim, of several, and of other kinds.
            let later = RunAt::In(Duration::from_secs(86_400));
            self.settle(&claimed.jobs, |place| match (round % 4, place % 3) {
                (0 | 1, _) | (3, 0) => Outcome::completed(),
                (2, 0) => Outcome::failed(error(), later),
                (2, 1) => Outcome::snoozed(later),
                (2, _) => Outcome::dead(error()),
                (_, _) => Outcome::Released,
            })
            .await;
            let (first, _) = self.claim(tasks, limit).await;
            let (second, _) = self.claim(tasks, limit).await;
            let both = [first.jobs, second.jobs].concat();
            self.settle(&both, |_| Outcome::completed()).await;

            let (nothing, act) = self.claim(&nobodys, limit).await;
            assert_eq!(nothing.jobs, [], "{}", act.label);
            act.claims_no_dearer_than_for(0, &nobodys, look);

            let new = |number: usize| JobSpec::new(format!("new {}", number % 10), number).priority(9);
            let keyed = |number: usize| new(number).key(format!("{} {number}", self.label));
            let queued = |number: usize| new(number).serial_queue(format!("q {}", number % 10));
            self.add("plain", vec![new(round)]).await;
            self.add("plain", (0..200).map(new).collect()).await;
            self.add("of queues", (0..200).map(queued).collect()).await;
            self.add("of queues", vec![queued(round)]).await;
            self.add("with keys", vec![keyed(round)]).await;
            self.add("with keys, of which half are known", (round * 50..round * 50 + 100).map(keyed).collect()).await;
            self.heartbeat().await;
        }
    }
}

/// The rows, and pages, that a look may see where many jobs in a row cannot be taken, however many there are; and there are three looks.
pub const LONGEST_LOOK: f64 = 3.0 * 21_000.0;
const LONGEST_LOOK_PAGES: i64 = 3 * 25_000;

/// How many jobs `live` adds, and there are three looks.
const NEW: f64 = 3.0 * 6_000.0;
const NEW_PAGES: i64 = 3 * 6_000;

/// What claims found on their way along the line, as far as it goes without a pause.
#[derive(Debug, Default)]
pub struct Walk {
    pub looks: usize,
    pub jobs: usize,
    pub of_queues: usize,
    /// After which pause the next one begins.
    pub pause: Duration,
}

impl Actor<'_> {
    /// Claims until a claim does not say that the next should follow at once, and so until something is found or the end is reached.
    /// Each reads a bounded number of rows. What is found is done at once.
    pub async fn walk(&self, tasks: &[String], limit: usize, limits: &[(String, usize)]) -> Walk {
        self.walk_over(0, tasks, limit, limits).await
    }

    /// The same, where so many pages are full of what is dead, which no limit counts.
    pub async fn walk_over(&self, dead: i64, tasks: &[String], limit: usize, limits: &[(String, usize)]) -> Walk {
        let mut walk = Walk::default();
        loop {
            let request = ClaimRequest::new(&self.worker, tasks, limit).run_length(4).limits(limits);
            let (claimed, act) = self.claim_as(request).await;
            let dead = if walk.looks == 0 { dead } else { 0 };
            act.reads_no_more_than(PAGES + LONGEST_LOOK_PAGES + dead, ROWS + LONGEST_LOOK, claimed.jobs.len());
            walk.looks += 1;
            walk.jobs += claimed.jobs.len();
            walk.of_queues += claimed.jobs.iter().filter(|job| job.queue.is_some()).count();
            assert!(walk.looks < 500, "{}: this never ends: {walk:?}", self.label);
            if !claimed.jobs.is_empty() {
                self.settle(&claimed.jobs, |_| Outcome::completed()).await;
            }
            if claimed.rescan_after != Some(Duration::ZERO) {
                walk.pause = claimed.rescan_after.unwrap_or_default();
                return walk;
            }
        }
    }

    /// Claims again and again that find nothing, as a worker that is woken for others' jobs: they read next to nothing.
    pub async fn waits(&self, tasks: &[String], limit: usize, limits: &[(String, usize)]) {
        for _ in 0..8 {
            let (claimed, act) = self.claim_as(ClaimRequest::new(&self.worker, tasks, limit).limits(limits)).await;
            assert_eq!(claimed.jobs, [], "{}", act.label);
            // What was added in the last second before the walk began counts as new: a part of what `live` adds.
            act.reads_no_more_than(PAGES + LOOK_PAGES + NEW_PAGES, ROWS + LOOK + NEW, 0);
        }
    }

    /// Claims of jobs behind what is dead: all but a few begin behind it.
    pub async fn passes_by_the_dead(&self, tasks: &[String], limit: usize) {
        let mut dear = Vec::new();
        for _ in 0..20 {
            let (claimed, act) = self.claim(tasks, limit).await;
            assert_eq!(claimed.jobs.len(), limit, "{}", act.label);
            self.settle(&claimed.jobs, |_| Outcome::completed()).await;
            if act.pages() > PAGES + LOOK_PAGES + PAGES_FOR_EACH * i64::try_from(limit).expect("few") {
                dear.push(act);
            }
        }
        // To find out that they are there, and one or another from the start again.
        assert!(dear.len() <= 5, "{}: of 20 claims these walked over the dead: {:#?}", self.label, dear);
    }
}

impl Act {
    fn is_never_compiled(&self) {
        for plan in &self.plans {
            assert!(!plan.is_compiled, "{}: compiled: {plan:#?}", self.label);
        }
    }

    /// The pages that the statements looked at. (A function's contain those of its statements.)
    pub fn pages(&self) -> i64 {
        let claim = self.plans.iter().filter(|plan| plan.is_claim()).map(|plan| plan.buffers).sum();
        if claim > 0 { claim } else { self.plans.iter().map(|plan| plan.buffers).sum() }
    }

    /// The rows of jobs that they looked at.
    pub fn rows(&self) -> f64 {
        self.plans.iter().map(|plan| plan.rows).sum()
    }

    pub fn reads_no_more_than_for(&self, jobs: usize) {
        self.reads_no_more_than(PAGES, ROWS, jobs);
    }

    /// Not many more than it takes, and the names of its tasks.
    pub fn claims_no_dearer_than_for(&self, jobs: usize, tasks: &[String], look: f64) {
        let names = i64::try_from(tasks.len()).expect("few");
        // A row that is looked at may be on a page of its own, besides those of the index.
        #[expect(clippy::cast_possible_truncation, reason = "numbers of rows are small")]
        let look_pages = LOOK_PAGES.max((look * 1.2) as i64);
        self.reads_no_more_than(PAGES + look_pages + 3 * names, ROWS + look, jobs);
    }

    #[expect(clippy::cast_precision_loss, reason = "numbers of jobs are small")]
    pub fn reads_no_more_than(&self, pages: i64, rows: f64, jobs: usize) {
        let pages = pages + PAGES_FOR_EACH * i64::try_from(jobs).expect("few");
        let rows = rows + ROWS_FOR_EACH * jobs as f64;
        assert!(
            self.pages() <= pages && self.rows() <= rows,
            "{}: {} pages and {} rows were read, and {pages} and {rows} may be: {:#?}",
            self.label,
            self.pages(),
            self.rows(),
            self.plans
        );
    }
}
