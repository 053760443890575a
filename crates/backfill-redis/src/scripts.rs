//! The scripts. Each begins with `lua/lib.lua`.
//!
//! When the server's memory is full, it refuses what makes new jobs before that has begun. Everything else goes on, or workers could not even
//! write their results, which is what gives memory back.

use std::sync::OnceLock;

/// A script, and the digest by which the server knows it.
#[derive(Debug)]
pub(crate) struct Script {
    text: &'static str,
    sha: OnceLock<String>,
}

impl Script {
    pub(crate) fn text(&self) -> &str {
        self.text
    }

    pub(crate) fn sha(&self) -> &str {
        self.sha.get_or_init(|| redis::Script::new(self.text).get_hash().to_owned())
    }
}

macro_rules! scripts {
    ($($first:literal { $($name:ident = $file:literal;)* })*) => {
        $($(pub(crate) static $name: Script = Script {
            text: concat!($first, "\n", include_str!("../lua/lib.lua"), include_str!($file)),
            sha: OnceLock::new(),
        };)*)*
    };
}

scripts! {
    "#!lua" {
        ADD = "../lua/add.lua";
        COMMIT_NEW = "../lua/commit.lua";
        DUE = "../lua/due.lua";
        IMPORT = "../lua/import.lua";
    }
    "#!lua flags=allow-oom" {
        BEAT = "../lua/beat.lua";
        CLAIM = "../lua/claim.lua";
        CLEANUP = "../lua/cleanup.lua";
        COMMIT = "../lua/commit.lua";
        COMPLETE = "../lua/complete.lua";
        END_LEASES = "../lua/end_leases.lua";
        INDEX_GROUPS = "../lua/index_groups.lua";
        KNOW_CRONTABS = "../lua/know_crontabs.lua";
        OFFER = "../lua/offer.lua";
        PRESENT = "../lua/present.lua";
        PURGE = "../lua/purge.lua";
        REGISTER = "../lua/register.lua";
        RELEASE = "../lua/release.lua";
        RENEW = "../lua/renew.lua";
        SERVE = "../lua/serve.lua";
        SWEEP = "../lua/sweep.lua";
        TAKE = "../lua/take.lua";
        TRIM = "../lua/trim.lua";
    }
    "#!lua flags=no-writes" {
        DEPTHS = "../lua/depths.lua";
        DOCUMENTS = "../lua/documents.lua";
        PEEK = "../lua/peek.lua";
    }
}
