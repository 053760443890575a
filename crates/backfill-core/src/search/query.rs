//! What a query says.

use std::fmt;
use std::str::FromStr;

use super::parse;
use super::path::ValueTest;
use super::pattern::{Pattern, write_quoted};
use super::range::{Range, TimeRange};
use crate::error::{Error, Result};
use crate::job::JobState;

/// How many bytes a query may have as text.
pub const MAX_BYTES: usize = 2_048;
/// How many terms a query may have.
pub const MAX_TERMS: usize = 20;

/// Which jobs are wanted: those for which each term holds. The [module](crate::search) has the grammar. An empty one wants all.
///
/// ```
/// # use backfill_core::search::Query;
/// let query: Query = "state:dead task:send_* payload.order:17".parse()?;
/// assert_eq!(query.terms().len(), 3);
/// assert!("stat:dead".parse::<Query>().is_err());
/// # Ok::<(), backfill_core::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[must_use]
pub struct Query {
    pub(super) terms: Vec<Term>,
}

/// One condition.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Term {
    /// Whether it must not hold.
    pub negated: bool,
    /// What must hold.
    pub test: Test,
}

/// What a term looks at.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Test {
    /// `state:`, one of them.
    State(Vec<JobState>),
    /// `task:`, one of them.
    Task(Vec<Pattern>),
    /// `queue:`.
    Queue(Pattern),
    /// `key:`.
    Key(Pattern),
    /// `worker:`, which holds it.
    Worker(Pattern),
    /// `error:`, a part of it, without regard to case.
    Error(String),
    /// `flag:`.
    Flag(String),
    /// `id:`.
    Id(Range),
    /// `priority:`.
    Priority(Range),
    /// `attempts:`.
    Attempts(Range),
    /// `created:`.
    Created(TimeRange),
    /// `due:`.
    Due(TimeRange),
    /// `payload.a.b:`.
    Payload {
        /// Names of members, or places in lists.
        path: Vec<String>,
        /// What the value there must be.
        test: ValueTest,
    },
    /// A word alone: the task, or the key.
    Name(Pattern),
}

impl Query {
    /// All jobs.
    pub fn all() -> Self {
        Self::default()
    }

    /// Only those of them for which this holds too.
    pub fn and(mut self, test: Test) -> Self {
        self.terms.push(Term { negated: false, test });
        self
    }

    /// Its terms.
    #[must_use]
    pub fn terms(&self) -> &[Term] {
        &self.terms
    }

    /// Whether payloads must be read to tell.
    #[must_use]
    pub fn reads_payloads(&self) -> bool {
        self.terms.iter().any(|term| matches!(term.test, Test::Payload { .. }))
    }

    /// The ids that a job must be among.
    #[must_use]
    pub fn ids(&self) -> Range {
        self.wanted()
            .filter_map(|test| if let Test::Id(range) = test { Some(*range) } else { None })
            .fold(Range::default(), Range::and)
    }

    /// The states that a job must be in one of.
    #[must_use]
    pub fn states(&self) -> Vec<JobState> {
        let mut states = JobState::ALL.to_vec();
        for term in &self.terms {
            if let Test::State(named) = &term.test {
                states.retain(|state| named.contains(state) != term.negated);
            }
        }
        states
    }

    /// The one key that a job must have, if it is named.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        self.wanted().find_map(|test| if let Test::Key(key) = test { key.exact() } else { None })
    }

    /// The one queue that a job must be in, if it is named.
    #[must_use]
    pub fn queue(&self) -> Option<&str> {
        self.wanted().find_map(|test| if let Test::Queue(queue) = test { queue.exact() } else { None })
    }

    /// The one task that a job must have, if it is named.
    #[must_use]
    pub fn task(&self) -> Option<&str> {
        self.wanted().find_map(|test| match test {
            Test::Task(tasks) if tasks.len() == 1 => tasks[0].exact(),
            _ => None,
        })
    }

    /// Terms that must hold.
    fn wanted(&self) -> impl Iterator<Item = &Test> {
        self.terms.iter().filter(|term| !term.negated).map(|term| &term.test)
    }
}

impl FromIterator<Term> for Query {
    fn from_iter<I: IntoIterator<Item = Term>>(terms: I) -> Self {
        Self { terms: terms.into_iter().collect() }
    }
}

impl FromStr for Query {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        parse::query(text)
    }
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, term) in self.terms.iter().enumerate() {
            if place > 0 {
                f.write_str(" ")?;
            }
            term.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.negated {
            f.write_str("-")?;
        }
        match &self.test {
            Test::State(states) => {
                let names: Vec<&str> = states.iter().map(|state| state.as_str()).collect();
                write!(f, "state:{}", names.join(","))
            }
            Test::Task(tasks) => {
                f.write_str("task:")?;
                for (place, task) in tasks.iter().enumerate() {
                    write!(f, "{}{task}", if place > 0 { "," } else { "" })?;
                }
                Ok(())
            }
            Test::Queue(queue) => write!(f, "queue:{queue}"),
            Test::Key(key) => write!(f, "key:{key}"),
            Test::Worker(worker) => write!(f, "worker:{worker}"),
            Test::Error(error) => {
                f.write_str("error:")?;
                write_quoted(f, error, |_| false)
            }
            Test::Flag(flag) => {
                f.write_str("flag:")?;
                write_quoted(f, flag, |_| false)
            }
            Test::Id(range) => write!(f, "id:{range}"),
            Test::Priority(range) => write!(f, "priority:{range}"),
            Test::Attempts(range) => write!(f, "attempts:{range}"),
            Test::Created(range) => {
                f.write_str("created:")?;
                range.write(f, true)
            }
            Test::Due(range) => {
                f.write_str("due:")?;
                range.write(f, false)
            }
            Test::Payload { path, test } => {
                f.write_str("payload")?;
                for name in path {
                    f.write_str(".")?;
                    write_quoted(f, name, |char| char == '.')?;
                }
                write!(f, ":{test}")
            }
            // A word that looks like something else is written in quotes.
            Test::Name(Pattern::Exact(name)) if name.parse::<i64>().is_ok() => write!(f, "\"{name}\""),
            Test::Name(name) => name.fmt(f),
        }
    }
}
