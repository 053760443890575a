//! Who takes part, and in which settings.

use std::fmt;

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Contestant {
    /// backfill with its default settings.
    Ours,
    /// graphile-worker on Node with its default settings.
    Node,
    /// The same with a local queue of 500 and completions written in batches.
    NodeBest,
    /// The crate graphile_worker with its default settings.
    Gw,
    /// The same with two local queues of 2 000 jobs, and batches and polls every millisecond.
    GwBest,
    /// The crate riverqueue with its default settings.
    River,
    /// The same, fetching up to 2 000 jobs every millisecond.
    RiverBest,
    /// The bare statements: claim, then delete.
    Floor,
    /// The bare statements where one commit has to do: the insert stores the job as claimed, and the worker reads it.
    FloorOne,
    /// backfill with its default settings, in an SQLite file.
    File,
    /// The bare statements in an SQLite file.
    FileFloor,
}

/// Whose tables and client a contestant uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Library {
    Ours,
    Node,
    Gw,
    River,
}

impl Contestant {
    pub const ALL: [Self; 11] = [
        Self::Ours,
        Self::Node,
        Self::NodeBest,
        Self::Gw,
        Self::GwBest,
        Self::River,
        Self::RiverBest,
        Self::Floor,
        Self::FloorOne,
        Self::File,
        Self::FileFloor,
    ];

    pub fn library(self) -> Library {
        match self {
            Self::Ours | Self::Floor | Self::FloorOne | Self::File | Self::FileFloor => Library::Ours,
            Self::Node | Self::NodeBest => Library::Node,
            Self::Gw | Self::GwBest => Library::Gw,
            Self::River | Self::RiverBest => Library::River,
        }
    }

    pub fn is_best(self) -> bool {
        matches!(self, Self::NodeBest | Self::GwBest | Self::RiverBest)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Node => "node",
            Self::NodeBest => "node-best",
            Self::Gw => "gw",
            Self::GwBest => "gw-best",
            Self::River => "river",
            Self::RiverBest => "river-best",
            Self::Floor => "floor",
            Self::FloorOne => "floor-one",
            Self::File => "sqlite",
            Self::FileFloor => "sqlite-floor",
        }
    }
}

impl fmt::Display for Contestant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Library {
    /// A query that is true when no job is left.
    pub fn is_drained(self) -> &'static str {
        match self {
            // By the primary key, from its lower end: index entries of deleted jobs are skipped from the second look on.
            Self::Ours | Self::Node | Self::Gw => {
                "select not exists (select from (select id from graphile_worker._private_jobs order by id limit 1) as job)"
            }
            Self::River => {
                "select not exists (select from river_job where state = 'available' and queue = 'default')
                 and not exists (select from river_job where state = 'running' and queue = 'default')"
            }
        }
    }

    /// A query for the number of jobs that are not done.
    pub fn count_left(self) -> &'static str {
        match self {
            Self::Ours | Self::Node | Self::Gw => "select count(*) from graphile_worker._private_jobs",
            Self::River => "select count(*) from river_job where state <> 'completed'",
        }
    }

    /// A query for the number of jobs.
    pub fn count(self) -> &'static str {
        match self {
            Self::Ours | Self::Node | Self::Gw => "select count(*) from graphile_worker._private_jobs",
            Self::River => "select count(*) from river_job",
        }
    }
}
