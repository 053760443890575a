//! The scripts. Each begins with `lua/lib.lua`.

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
    ($($(#[$doc:meta])* $name:ident = $file:literal;)*) => {
        $($(#[$doc])* pub(crate) static $name: Script =
            Script { text: concat!(include_str!("../lua/lib.lua"), include_str!($file)), sha: OnceLock::new() };)*
    };
}

scripts! {
    ADD = "../lua/add.lua";
    BEAT = "../lua/beat.lua";
    CLAIM = "../lua/claim.lua";
    CLEANUP = "../lua/cleanup.lua";
    COMMIT = "../lua/commit.lua";
    COMPLETE = "../lua/complete.lua";
    DEPTHS = "../lua/depths.lua";
    DOCUMENTS = "../lua/documents.lua";
    DUE = "../lua/due.lua";
    END_LEASES = "../lua/end_leases.lua";
    IMPORT = "../lua/import.lua";
    PEEK = "../lua/peek.lua";
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
