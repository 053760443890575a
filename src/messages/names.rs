//! How namespaces, queues and ids become names of lines, documents and streams that never meet.
//!
//! Each part is escaped so that it holds letters, digits, `-`, `_` and `%` only, and parts are joined by `:`. What is too long is cut, and ends with `~` and a
//! hash (SHA-256, 128 bits of it) of the whole: `~` occurs nowhere else.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

use super::DocumentKey;

/// So long may each part be. Lines have 128 characters, keys of jobs 512, streams 256.
const NAMESPACE: usize = 50;
const QUEUE: usize = 77;
const STREAM: usize = 200;
const PART: usize = 200;

/// The hash's length, with its mark.
const HASH: usize = 33;

#[derive(Clone, Debug)]
pub(super) struct Names {
    namespace: String,
    prefix: String,
}

impl Names {
    pub(super) fn new(namespace: &str) -> Self {
        Self { namespace: namespace.to_owned(), prefix: format!("{}:", part(namespace, NAMESPACE)) }
    }

    pub(super) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// What all names of this namespace begin with, and no others.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) fn owns(&self, line: &str) -> bool {
        line.starts_with(&self.prefix)
    }

    pub(super) fn line(&self, queue: &str) -> String {
        self.with(&[(queue, QUEUE)])
    }

    pub(super) fn stream(&self, stream: &str) -> String {
        self.with(&[(stream, STREAM)])
    }

    /// The key of the job that a message is: also that of its record, of whatever kind documents are.
    pub(super) fn key(&self, id: &str) -> String {
        self.with(&[(id, PART)])
    }

    /// The group of a queue: a serial queue, whose name has 128 characters.
    pub(super) fn group(&self, queue: &str, group: &str) -> String {
        self.with(&[(queue, 38), (group, 38)])
    }

    pub(super) fn document(&self, kind: &str, parts: &[&str]) -> DocumentKey {
        let parts: Vec<(&str, usize)> = parts.iter().map(|part| (*part, PART)).collect();
        DocumentKey::new(kind, self.with(&parts))
    }

    /// What the keys of documents begin with whose first parts these are.
    pub(super) fn beginning(&self, parts: &[&str]) -> String {
        let mut beginning = self.prefix.clone();
        for text in parts {
            beginning += &part(text, PART);
            beginning.push(':');
        }
        beginning
    }

    fn with(&self, parts: &[(&str, usize)]) -> String {
        let parts: Vec<String> = parts.iter().map(|(text, most)| part(text, *most)).collect();
        self.prefix.clone() + &parts.join(":")
    }
}

/// One part of a name.
fn part(text: &str, most: usize) -> String {
    let escaped = escape(text);
    if escaped.len() <= most {
        return escaped;
    }
    // Not in the middle of an escape, so that people can read it.
    let end = most - HASH;
    let end = escaped[..end].rfind('%').filter(|start| start + 3 > end).unwrap_or(end);
    let mut cut = escaped[..end].to_owned();
    cut.push('~');
    for byte in &Sha256::digest(text.as_bytes())[..16] {
        let _ = write!(cut, "{byte:02x}");
    }
    cut
}

/// Letters, digits, `-` and `_` as they are; every other byte as `%` and two digits.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') {
            escaped.push(char::from(byte));
        } else {
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}

/// The text that this was before it was escaped.
pub(super) fn unescape(escaped: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::with_capacity(escaped.len()), escaped.as_bytes());
    while let Some((first, more)) = rest.split_first() {
        rest = more;
        match first {
            b'%' => {
                let (digits, more) = rest.split_at_checked(2)?;
                bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
                rest = more;
            }
            byte => bytes.push(*byte),
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_text() -> impl Strategy<Value = String> {
        prop_oneof![".{0,40}", "[a:%~*_]{0,8}", "x{0,300}", "[ü€]{20,60}"]
    }

    proptest! {
        #[test]
        fn names_of_different_things_never_meet(a in (any_text(), any_text()), b in (any_text(), any_text())) {
            let (here, there) = (Names::new(&a.0), Names::new(&b.0));
            prop_assert_eq!(here.line(&a.1) == there.line(&b.1), a == b);
            prop_assert_eq!(here.key(&a.1) == there.key(&b.1), a == b);
            prop_assert_eq!(here.owns(&there.line(&b.1)), a.0 == b.0);
            prop_assert_eq!(here.document("k", &[&a.1]).key, here.key(&a.1));
            let key = here.document("k", &[&a.1, &b.0]).key;
            prop_assert!(key.starts_with(&here.beginning(&[&a.1])));
        }

        #[test]
        fn names_are_as_long_as_storages_keep_them(a in any_text(), b in any_text(), c in any_text()) {
            let names = Names::new(&a);
            prop_assert!(names.line(&b).len() <= 128 && names.group(&b, &c).len() <= 128);
            prop_assert!(names.key(&b).len() <= 512 && names.stream(&b).len() <= 256);
            let document = names.document("k", &[&b, &c, &a]);
            prop_assert!(document.check().is_ok());
        }

        #[test]
        fn what_was_escaped_comes_back(text in any_text()) {
            prop_assert_eq!(unescape(&escape(&text)), Some(text));
        }
    }

    #[test]
    fn what_two_separators_could_confuse_is_two_things() {
        assert_ne!(Names::new("a:q").line("x"), Names::new("a").line("q:x"));
        assert_ne!(Names::new("a").line("q"), Names::new("a%3Aq").line(""));
        assert_ne!(Names::new("a-b").line("q"), Names::new("a.b").line("q"));
    }
}
