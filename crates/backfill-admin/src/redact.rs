//! Values in payloads that nobody is shown.
//!
//! A value is hidden by the name of the member that it is in, wherever that stands, or by its path. It is hidden everywhere that a payload
//! goes; and since a search that tells whether a value is so would give it away bit by bit, a search on such a path is refused.

use std::borrow::Cow;

use backfill::search::{Query, Test};
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// What stands in place of a hidden value.
const HIDDEN: &str = "\"●●●●\"";

/// Names that are hidden by default, in lower case and without `_` and `-`.
const NAMES: [&str; 17] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "clientsecret",
    "token",
    "accesstoken",
    "refreshtoken",
    "idtoken",
    "apikey",
    "authorization",
    "cookie",
    "setcookie",
    "privatekey",
    "cardnumber",
    "cvv",
    "ssn",
];

/// Which values in payloads nobody is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Redaction {
    names: Vec<String>,
    paths: Vec<Vec<String>>,
}

impl Redaction {
    /// Nothing is hidden.
    pub fn none() -> Self {
        Self::default()
    }

    /// Members with well-known names, such as `password`, `api_key`, `accessToken`, `Authorization` or `card_number`.
    pub fn defaults() -> Self {
        Self { names: NAMES.map(str::to_owned).to_vec(), paths: Vec::new() }
    }

    /// Also members with this name, wherever they are. Case, `_` and `-` make no difference.
    pub fn name(mut self, name: &str) -> Self {
        self.names.push(plain(name));
        self
    }

    /// Also the value at this path, such as `customer.card.number`. A number is a place in a list, and `*` any member or place.
    pub fn path(mut self, path: &str) -> Self {
        self.paths.push(path.trim_start_matches("$.").split('.').map(str::to_owned).collect());
        self
    }

    /// Whether the value that this path leads to, or one that contains it, is hidden.
    fn hides(&self, path: &[Cow<'_, str>]) -> bool {
        let by_name = path.iter().any(|name| self.names.contains(&plain(name)));
        by_name || self.paths.iter().any(|hidden| path.len() >= hidden.len() && is_at(hidden, &path[..hidden.len()]))
    }

    /// Why this search may not be made, if so.
    pub(crate) fn refuses(&self, query: &Query) -> Option<String> {
        query.terms().iter().find_map(|term| {
            let Test::Payload { path, .. } = &term.test else { return None };
            let names: Vec<Cow<'_, str>> = path.iter().map(|name| Cow::Borrowed(name.as_str())).collect();
            self.hides(&names)
                .then(|| format!("payload.{} is hidden here, so it cannot be searched either", path.join(".")))
        })
    }

    /// The JSON text without hidden values, and whether there were any. Everything else stays byte for byte. What is no JSON is hidden whole.
    pub(crate) fn apply(&self, json: &str) -> (String, bool) {
        let Ok(root) = serde_json::from_str::<&RawValue>(json) else { return (HIDDEN.to_owned(), true) };
        let mut out = String::with_capacity(json.len());
        let mut path = Vec::new();
        let is_hidden = self.write(root, &mut path, &mut out);
        // Blanks between members are not kept where something was hidden; elsewhere the text is as it was.
        if is_hidden { (out, true) } else { (json.to_owned(), false) }
    }

    fn write<'a>(&self, value: &'a RawValue, path: &mut Vec<Cow<'a, str>>, out: &mut String) -> bool {
        if !path.is_empty() && self.hides(path) {
            out.push_str(HIDDEN);
            return true;
        }
        let text = value.get();
        let mut is_hidden = false;
        match text.bytes().next() {
            Some(b'{') => {
                let members = serde_json::from_str::<Members<'_>>(text).map(|members| members.0).unwrap_or_default();
                out.push('{');
                for (place, (name, value)) in members.into_iter().enumerate() {
                    out.push_str(if place > 0 { "," } else { "" });
                    out.push_str(&serde_json::Value::from(name.as_ref()).to_string());
                    out.push(':');
                    path.push(name);
                    is_hidden |= self.write(value, path, out);
                    path.pop();
                }
                out.push('}');
            }
            Some(b'[') => {
                let items = serde_json::from_str::<Items<'_>>(text).map(|items| items.0).unwrap_or_default();
                out.push('[');
                for (place, value) in items.into_iter().enumerate() {
                    out.push_str(if place > 0 { "," } else { "" });
                    path.push(Cow::Owned(place.to_string()));
                    is_hidden |= self.write(value, path, out);
                    path.pop();
                }
                out.push(']');
            }
            _ => out.push_str(text),
        }
        is_hidden
    }
}

fn plain(name: &str) -> String {
    name.chars().filter(|char| !matches!(char, '_' | '-')).flat_map(char::to_lowercase).collect()
}

fn is_at(hidden: &[String], path: &[Cow<'_, str>]) -> bool {
    hidden.iter().zip(path).all(|(hidden, name)| hidden == "*" || hidden == name)
}

/// An object's members in their order, also those with the same name.
#[derive(Default)]
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, &'de RawValue>()? {
                    members.push((Cow::Owned(name), value));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// A list's items.
#[derive(Default)]
struct Items<'a>(Vec<&'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for Items<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Items<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element::<&'de RawValue>()? {
                    items.push(item);
                }
                Ok(Items(items))
            }
        }
        deserializer.deserialize_seq(Collect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn well_known_names_are_hidden_wherever_they_stand_and_the_rest_stays_as_it_is() {
        let redaction = Redaction::defaults().path("$.card.number").path("items.*.price").name("pin");
        let json = r#"{"id":12345678901234567890,"id":1.0,"Access_Token":{"a":1},"card":{"number":"4","kind":"x"},"items":[{"price":3,"n":"\u00e9"}],"a":{"PIN":1}}"#;
        let (text, is_hidden) = redaction.apply(json);
        assert_eq!(
            text,
            r#"{"id":12345678901234567890,"id":1.0,"Access_Token":"●●●●","card":{"number":"●●●●","kind":"x"},"items":[{"price":"●●●●","n":"\u00e9"}],"a":{"PIN":"●●●●"}}"#
        );
        assert!(is_hidden);
        let untouched = "{ \"a\" : [1, 2] }";
        assert_eq!(redaction.apply(untouched), (untouched.to_owned(), false));
        assert_eq!(redaction.apply("\u{fffd}"), (HIDDEN.to_owned(), true), "what cannot be read is not shown");
    }

    #[test]
    fn a_search_on_a_hidden_path_is_refused_and_on_others_it_is_not() {
        let redaction = Redaction::defaults().path("card.number");
        for (text, refused) in [
            ("payload.password:x", true),
            ("-payload.user.pass_word:x", true),
            ("payload.token.inner:*", true),
            ("payload.card.number:4*", true),
            ("payload.card.kind:x", false),
            ("payload.user:x state:dead", false),
            ("password", false),
        ] {
            assert_eq!(redaction.refuses(&text.parse().expect(text)).is_some(), refused, "{text}");
        }
    }
}
