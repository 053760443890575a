//! The keys of a namespace.

/// The most characters that a namespace may have.
const MAX_NAMESPACE_CHARS: usize = 128;

/// The names of the keys, in the order in which every script gets them (`lua/lib.lua` calls them the same).
const NAMES: [&str; 38] = [
    "jobs",
    "payloads",
    "ids",
    "keyed",
    "lines",
    "queued",
    "heads",
    "qlines",
    "qheads",
    "queues",
    "qheld",
    "held",
    "heldn",
    "dead",
    "leases",
    "workers",
    "seen",
    "serves",
    "status",
    "tasks",
    "crontabs",
    "imports",
    "counters",
    "wake",
    "glines",
    "gheld",
    "gheads",
    "groups",
    "turns",
    "docs",
    "dockeys",
    "docends",
    "docowners",
    "streams",
    "offers",
    "flagged",
    "flaglines",
    "gdue",
];

/// One key of every namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    Jobs = 0,
    Payloads = 1,
    Ids = 2,
    Keyed = 3,
    Queues = 9,
    QHeld = 10,
    Held = 11,
    Dead = 13,
    Workers = 15,
    Seen = 16,
    Serves = 17,
    Status = 18,
    Tasks = 19,
    Crontabs = 20,
    Imports = 21,
    Counters = 22,
    Wake = 23,
    Docs = 29,
    Streams = 33,
}

/// All keys of one namespace. They have one hash tag, so they are in one slot of a cluster.
#[derive(Debug)]
pub(crate) struct Keys {
    namespace: String,
    all: Vec<Vec<u8>>,
}

impl Keys {
    /// Those of this namespace; `None` if none may be called so.
    pub(crate) fn of(namespace: &str) -> Option<Self> {
        // A brace would end the tag early, and then two namespaces could meet.
        let is_name = !namespace.is_empty()
            && namespace.chars().count() <= MAX_NAMESPACE_CHARS
            && !namespace.contains(['{', '}', '\0']);
        let all = NAMES.iter().map(|name| format!("{{backfill:{namespace}}}:{name}").into_bytes()).collect();
        is_name.then(|| Self { namespace: namespace.to_owned(), all })
    }

    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    pub(crate) fn all(&self) -> &[Vec<u8>] {
        &self.all
    }

    pub(crate) fn get(&self, key: Key) -> &[u8] {
        &self.all[key as usize]
    }

    /// A channel of one listener's own.
    pub(crate) fn channel(&self, name: u64) -> String {
        format!("{{backfill:{}}}:handoff:{name:016x}", self.namespace)
    }

    /// The key of a stream of events.
    pub(crate) fn stream(&self, stream: &str) -> Vec<u8> {
        format!("{{backfill:{}}}:stream:{stream}", self.namespace).into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rust_and_lua_call_the_keys_the_same_in_the_same_order() {
        let lua = include_str!("../lua/lib.lua");
        let list =
            lua.split("\nlocal JOBS").nth(1).and_then(|rest| rest.split(" = unpack(KEYS)").next()).expect("the list");
        let names: Vec<String> = format!("JOBS{list}").split(',').map(|name| name.trim().to_lowercase()).collect();
        assert_eq!(names, NAMES);
        for key in [Key::Jobs, Key::Queues, Key::Dead, Key::Counters, Key::Wake, Key::Streams] {
            assert_eq!(format!("{key:?}").to_lowercase(), NAMES[key as usize]);
        }
    }

    #[test]
    fn no_namespace_ends_its_tag_early() {
        for name in ["", "a}b", "{", "a\0", &"n".repeat(129)] {
            assert!(Keys::of(name).is_none(), "{name:?}");
        }
        let keys = Keys::of("a:b é").expect("a name");
        assert_eq!(keys.get(Key::Wake), "{backfill:a:b é}:wake".as_bytes());
    }
}
