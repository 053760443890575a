//! What the storage is asked, for pages and API alike.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use backfill::search::{Found, Order, Place, Query, Search};
use backfill::storage::{Check, Effort, QueueInfo, QueueList, Tally, TaskInfo, WorkerInfo};
use backfill::{BackfillClient, Job, JobId, Payload};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use tokio::sync::Mutex;

use crate::Shared;
use crate::gate::Caller;
use crate::principal::Permission;
use crate::problem::{Answer, Problem};

/// So long one page of a search looks.
const BUDGET: Duration = Duration::from_millis(120);
/// So many jobs a page may have.
const MOST: u32 = 500;
/// So long counts are shown again to whoever comes meanwhile: however many look, the storage is asked once.
const KEPT: Duration = Duration::from_secs(2);
/// The same of what the doctor found, who makes a whole schema to compare with.
const KEPT_FINDINGS: Duration = Duration::from_secs(30);
/// A payload that is larger is shown when it is asked for.
pub(crate) const LARGE: usize = 64 * 1024;

/// Something that is looked up again only after a while.
#[derive(Debug, Default)]
struct Kept<T>(Mutex<Option<(Instant, T)>>);

impl<T: Clone> Kept<T> {
    /// Those who ask meanwhile wait for the one who looks: the lock is held for that.
    async fn get(&self, age: Duration, look: impl Future<Output = backfill::Result<T>>) -> backfill::Result<T> {
        let mut kept = self.0.lock().await;
        if let Some((at, value)) = &*kept
            && at.elapsed() < age
        {
            return Ok(value.clone());
        }
        let value = look.await?;
        *kept = Some((Instant::now(), value.clone()));
        Ok(value)
    }

    async fn forget(&self) {
        *self.0.lock().await = None;
    }
}

/// The storage, as this page sees it.
#[derive(Debug)]
pub(crate) struct Looks {
    client: BackfillClient,
    tally: Kept<Tally>,
    tasks: Kept<Vec<TaskInfo>>,
    workers: Kept<Vec<WorkerInfo>>,
    findings: Kept<Vec<Check>>,
}

impl Looks {
    pub fn new(client: BackfillClient) -> Self {
        Self {
            client,
            tally: Kept(Mutex::default()),
            tasks: Kept(Mutex::default()),
            workers: Kept(Mutex::default()),
            findings: Kept(Mutex::default()),
        }
    }

    /// By the storage's clock.
    pub async fn now(&self) -> backfill::Result<DateTime<Utc>> {
        self.client.storage().now().await
    }

    pub async fn tally(&self) -> backfill::Result<Tally> {
        self.tally.get(KEPT, self.client.tally()).await
    }

    pub async fn tasks(&self) -> backfill::Result<Vec<TaskInfo>> {
        self.tasks.get(KEPT, async { self.client.storage().require_inspect()?.tasks(Effort::Bounded).await }).await
    }

    pub async fn workers(&self) -> backfill::Result<Vec<WorkerInfo>> {
        self.workers.get(KEPT, async { self.client.storage().require_inspect()?.workers(Effort::Bounded).await }).await
    }

    pub async fn queues(&self, list: &QueueList) -> backfill::Result<Vec<QueueInfo>> {
        self.client.storage().require_inspect()?.queues(list).await
    }

    /// What the doctor found, half a minute ago at most.
    pub async fn findings(&self) -> Answer<Vec<Check>> {
        let storage = self.client.storage();
        let doctor = storage
            .doctor()
            .ok_or_else(|| Problem::new(StatusCode::NOT_IMPLEMENTED, format!("{} has no doctor", storage.name())))?;
        Ok(self.findings.get(KEPT_FINDINGS, async { Ok(doctor.diagnose(Effort::Bounded).await) }).await?)
    }

    /// Whoever changed something sees it.
    pub async fn forget(&self) {
        tokio::join!(self.tally.forget(), self.tasks.forget(), self.workers.forget());
    }
}

/// What a request says of a list of jobs.
#[derive(Debug, Default, Clone, Deserialize)]
pub(crate) struct JobsQuery {
    #[serde(default)]
    pub q: String,
    #[serde(default)]
    pub order: Option<String>,
    #[serde(default)]
    pub after: Option<String>,
    #[serde(default)]
    pub limit: Option<u32>,
}

/// A page of jobs, and what was asked for.
pub(crate) struct Listed {
    pub query: Query,
    pub found: Found,
    /// Where the next page begins, for this search alone.
    pub next: Option<String>,
    pub now: DateTime<Utc>,
}

impl JobsQuery {
    fn order(&self) -> Answer<Order> {
        match self.order.as_deref() {
            None | Some("") => Ok(Order::Newest),
            Some(order) => Ok(order.parse()?),
        }
    }

    /// A place is bound to its search: in another one it would leave jobs out.
    fn mark(&self, order: Order) -> String {
        let mut hasher = DefaultHasher::new();
        (&self.q, order.as_str()).hash(&mut hasher);
        format!("{:08x}", hasher.finish() & 0xffff_ffff)
    }

    fn place(&self, order: Order) -> Answer<Option<Place>> {
        let Some(after) = self.after.as_deref().filter(|after| !after.is_empty()) else { return Ok(None) };
        match after.split_once('.') {
            Some((mark, place)) if mark == self.mark(order) => Ok(Some(place.parse()?)),
            _ => Err(Problem::bad(format!(
                "after={after:?} is no place in this search: take it from the page before, with the same q and order"
            ))),
        }
    }
}

/// Searches, if this caller may.
pub(crate) async fn jobs(shared: &Shared, caller: &Caller, asked: &JobsQuery, payloads: bool) -> Answer<Listed> {
    caller.need(Permission::View)?;
    let query: Query = asked.q.parse()?;
    if query.reads_payloads() {
        caller.need(Permission::Payload)?;
    }
    if let Some(why) = shared.settings.redaction.refuses(&query) {
        return Err(Problem::new(StatusCode::FORBIDDEN, why));
    }
    let limit = asked.limit.unwrap_or(50);
    if !(1..=MOST).contains(&limit) {
        return Err(Problem::bad(format!("limit={limit} must be from 1 to {MOST}")));
    }
    let order = asked.order()?;
    let mut search = Search::new(query.clone()).order(order).after(asked.place(order)?).limit(limit).budget(BUDGET);
    if !payloads {
        search = search.without_payloads();
    }
    search.max_bytes = Some(8 * 1024 * 1024);
    let now = shared.looks.now().await?;
    let found = shared.client().search(&search).await?;
    let next = found.next.map(|next| format!("{}.{next}", asked.mark(order)));
    Ok(Listed { query, found, next, now })
}

/// One job.
pub(crate) async fn job(shared: &Shared, caller: &Caller, id: JobId) -> Answer<Job> {
    caller.need(Permission::View)?;
    let found = shared.client().job(id).await?;
    found.ok_or_else(|| {
        Problem::missing(format!("there is no job {id}: it is done, or was deleted, and such jobs are not kept"))
    })
}

/// What this caller may see of a job: without its payload, or with one in which what is hidden is hidden. Says whether something is.
pub(crate) fn shown(shared: &Shared, caller: &Caller, mut job: Job) -> (Job, bool) {
    if !caller.may(Permission::Payload) {
        job.payload = Payload::empty();
        return (job, true);
    }
    let (text, is_hidden) = shared.settings.redaction.apply(job.payload.as_str());
    if is_hidden {
        // What was taken out leaves JSON.
        job.payload = Payload::from_json(text).unwrap_or_else(|_| Payload::empty());
    }
    (job, is_hidden)
}
