//! What is asked for, and what is answered.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::pattern::Pattern;
use super::query::{Query, Test};
use crate::error::{Error, Result};
use crate::job::{Job, JobId, Payload, Priority};
use crate::storage::{JobFilter, Number};

/// In which order jobs come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Order {
    /// By id, greatest first: those that were added last.
    Newest,
    /// By id, smallest first.
    #[default]
    Oldest,
    /// By priority, time and id, as workers claim them: only jobs that have attempts left and that no worker holds.
    Claim,
}

impl Order {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Newest, Self::Oldest, Self::Claim];

    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Newest => "newest",
            Self::Oldest => "oldest",
            Self::Claim => "claim",
        }
    }
}

impl FromStr for Order {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let order = Self::ALL.into_iter().find(|order| order.as_str() == text);
        order.ok_or_else(|| Error::invalid_search(text, "is no order: it must be newest, oldest or claim"))
    }
}

/// Where a page ended: what comes behind it is the next. As text it is opaque, and has no blanks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Place {
    /// Behind this id, in either direction.
    Id(JobId),
    /// Behind this job in the order of claims.
    Claim {
        /// Its priority.
        priority: Priority,
        /// Its time.
        run_at: DateTime<Utc>,
        /// Its id.
        id: JobId,
    },
}

impl Place {
    /// The place of this job in this order.
    #[must_use]
    pub fn of(job: &Job, order: Order) -> Self {
        match order {
            Order::Newest | Order::Oldest => Self::Id(job.id),
            Order::Claim => Self::Claim { priority: job.priority, run_at: job.run_at, id: job.id },
        }
    }

    /// Whether this job comes behind it in this order. A place of another order is before all jobs.
    #[must_use]
    pub fn is_before(&self, job: &Job, order: Order) -> bool {
        match (*self, order) {
            (Self::Id(id), Order::Newest) => job.id < id,
            (Self::Id(id), Order::Oldest) => job.id > id,
            (Self::Claim { priority, run_at, id }, Order::Claim) => {
                (job.priority, job.run_at, job.id) > (priority, run_at, id)
            }
            _ => true,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "{id}"),
            Self::Claim { priority, run_at, id } => write!(f, "{}_{}_{id}", priority.0, run_at.timestamp_micros()),
        }
    }
}

impl FromStr for Place {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let claim = || {
            let mut parts = text.splitn(3, '_');
            let priority = Priority(parts.next()?.parse().ok()?);
            let run_at = DateTime::from_timestamp_micros(parts.next()?.parse().ok()?)?;
            Some(Self::Claim { priority, run_at, id: parts.next()?.parse().ok()? })
        };
        let place = text.parse().map(Self::Id).ok().or_else(claim);
        place.ok_or_else(|| Error::invalid_search(text, "is no place in a list; take it from the page before"))
    }
}

/// Which jobs, in which order, and how many of them.
#[derive(Clone, Debug)]
#[non_exhaustive]
#[must_use]
pub struct Search {
    /// Which. Default: all.
    pub query: Query,
    /// In which order. Default: the oldest first.
    pub order: Order,
    /// Behind which job. A place of another order is refused.
    pub after: Option<Place>,
    /// How many, at most. Default: 100.
    pub limit: u32,
    /// Whether payloads are read too. Default: yes.
    pub payloads: bool,
    /// How many bytes of payloads, at most; a single larger one comes alone. Default: any number.
    pub max_bytes: Option<u64>,
    /// After how long the storage stops looking and says how far it got; it may take somewhat longer. Default: never.
    pub budget: Option<Duration>,
}

impl Search {
    /// The jobs that this query wants.
    pub fn new(query: Query) -> Self {
        Self { query, order: Order::default(), after: None, limit: 100, payloads: true, max_bytes: None, budget: None }
    }

    /// In this order.
    pub fn order(mut self, order: Order) -> Self {
        self.order = order;
        self
    }

    /// Behind this place.
    pub fn after(mut self, place: Option<Place>) -> Self {
        self.after = place;
        self
    }

    /// So many at most.
    pub fn limit(mut self, limit: u32) -> Self {
        self.limit = limit;
        self
    }

    /// Leaves the payloads where they are: the jobs come with that of a job which has none, `{}`.
    pub fn without_payloads(mut self) -> Self {
        self.payloads = false;
        self
    }

    /// Stops looking after so long.
    pub fn budget(mut self, budget: Duration) -> Self {
        self.budget = Some(budget);
        self
    }

    /// Refuses what no storage can answer. Every storage does so first.
    ///
    /// # Errors
    /// [`Error::InvalidSearch`] for a place of another order.
    pub fn check(&self) -> Result<()> {
        match (self.after, self.order) {
            (Some(Place::Claim { .. }), Order::Newest | Order::Oldest) | (Some(Place::Id(_)), Order::Claim) => {
                let place = self.after.map(|place| place.to_string()).unwrap_or_default();
                let problem =
                    format!("is no place in the order {:?}; take it from the page before", self.order.as_str());
                Err(Error::invalid_search(&place, &problem))
            }
            _ => Ok(()),
        }
    }

    /// Whether this job is one of the order's, and comes behind the place.
    #[must_use]
    pub fn reaches(&self, job: &Job) -> bool {
        let is_listed = self.order != Order::Claim || (job.locked_at.is_none() && job.attempts < job.max_attempts);
        is_listed && self.after.is_none_or(|place| place.is_before(job, self.order))
    }

    /// The answer of a storage that looks at all its jobs, which come by id, one by one.
    #[must_use]
    pub fn among<'a>(&self, jobs: impl IntoIterator<Item = &'a Job>, now: DateTime<Utc>) -> Found {
        let mut looked_at = 0;
        let mut all: Vec<&Job> = jobs.into_iter().collect();
        let of = all.len() as u64;
        match self.order {
            Order::Oldest => {}
            Order::Newest => all.reverse(),
            Order::Claim => all.sort_by_key(|job| (job.priority, job.run_at, job.id)),
        }
        let mut page = Page::new(self);
        for job in all.into_iter().filter(|job| self.reaches(job)) {
            if page.is_full() {
                break;
            }
            looked_at += 1;
            if self.query.matches(job, now) {
                page.add(job.clone());
            }
        }
        page.end(looked_at, Some(Number::exact(of)), None)
    }
}

/// A page that is being filled.
#[derive(Debug)]
pub struct Page<'a> {
    search: &'a Search,
    jobs: Vec<Job>,
    bytes: u64,
    is_full: bool,
}

impl<'a> Page<'a> {
    /// An empty one.
    #[must_use]
    pub fn new(search: &'a Search) -> Self {
        Self { search, jobs: Vec::new(), bytes: 0, is_full: search.limit == 0 }
    }

    /// Whether no more jobs fit.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.is_full
    }

    /// How many more jobs fit.
    #[must_use]
    pub fn room(&self) -> u32 {
        if self.is_full { 0 } else { self.search.limit - u32::try_from(self.jobs.len()).unwrap_or(u32::MAX) }
    }

    /// Adds a job with its payload, which is dropped if it is not wanted, unless the page has too many bytes with it.
    pub fn add(&mut self, mut job: Job) {
        if self.is_full {
            return;
        }
        if self.search.payloads {
            self.bytes = self.bytes.saturating_add(job.payload.as_str().len() as u64);
            if !self.jobs.is_empty() && self.search.max_bytes.is_some_and(|most| self.bytes > most) {
                self.is_full = true;
                return;
            }
        } else {
            job.payload = Payload::empty();
        }
        self.jobs.push(job);
        self.is_full = self.jobs.len() >= self.search.limit as usize;
    }

    /// The page as it is answered. The next one begins behind its last job if this one is full; else behind the place up to which
    /// the storage has looked, which is `None` if it has looked at all.
    #[must_use]
    pub fn end(self, looked_at: u64, of: Option<Number>, looked_up_to: Option<Place>) -> Found {
        let last = || self.jobs.last().map(|job| Place::of(job, self.search.order)).or(self.search.after);
        let next = if self.is_full { last() } else { looked_up_to };
        Found { jobs: self.jobs, next, looked_at, of }
    }
}

/// A page of jobs.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Found {
    /// Those that were found, in the order that was asked for.
    pub jobs: Vec<Job>,
    /// Where the next page begins; `None` if all jobs were looked at. A page may be full, and the next one empty.
    pub next: Option<Place>,
    /// How many jobs were looked at for this page.
    pub looked_at: u64,
    /// How many there are to look at in all; `None` if that is not known.
    pub of: Option<Number>,
}

impl Found {
    /// A page.
    #[must_use]
    pub fn new(jobs: Vec<Job>, next: Option<Place>, looked_at: u64, of: Option<Number>) -> Self {
        Self { jobs, next, looked_at, of }
    }
}

impl From<&JobFilter> for Search {
    fn from(filter: &JobFilter) -> Self {
        let exact = |name: &String| Pattern::Exact(name.clone());
        let mut query = Query::all();
        if let Some(state) = filter.state {
            query = query.and(Test::State(vec![state]));
        }
        if let Some(task) = &filter.task {
            query = query.and(Test::Task(vec![exact(task)]));
        }
        if let Some(queue) = &filter.queue {
            query = query.and(Test::Queue(exact(queue)));
        }
        if let Some(key) = &filter.key {
            query = query.and(Test::Key(exact(key)));
        }
        let mut search = Self::new(query).after(filter.after.map(Place::Id)).limit(filter.limit);
        search.payloads = filter.payloads;
        search.max_bytes = filter.max_bytes;
        search
    }
}
