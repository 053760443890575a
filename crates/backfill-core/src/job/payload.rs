//! A job's payload: JSON text, kept byte for byte.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::error::{Error, Result};

/// The JSON text of a job.
///
/// It is kept as text, because any producer may have written it: numbers beyond 2^53, repeated keys, `\u0000`
/// and odd white space all survive until a task decodes them into a type of its own.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Payload {
    text: Box<str>,
    is_damaged: bool,
}

impl Payload {
    /// The payload of a job that has none: an empty object, as Graphile stores it.
    #[must_use]
    pub fn empty() -> Self {
        Self::from_trusted("{}".to_owned())
    }

    /// Serialises a value. JSON `null` (which `()` and `None` become) is stored as `{}`, as Node does.
    ///
    /// # Errors
    /// [`Error::PayloadNotSerializable`] when `serde_json` cannot write the value.
    pub fn new<T: Serialize + ?Sized>(task: &str, value: &T) -> Result<Self> {
        let text = serde_json::to_string(value)
            .map_err(|source| Error::PayloadNotSerializable { task: task.to_owned(), source })?;
        Ok(if text == "null" { Self::empty() } else { Self::from_trusted(text) })
    }

    /// Takes JSON text as it is, after checking that it is JSON.
    ///
    /// # Errors
    /// The parser's message when it is not.
    pub fn from_json(text: impl Into<String>) -> Result<Self, serde_json::Error> {
        let text = text.into();
        serde_json::from_str::<&RawValue>(&text)?;
        Ok(Self::from_trusted(text))
    }

    /// For text that a `json` column returned or `serde_json` wrote.
    #[must_use]
    pub fn from_trusted(text: String) -> Self {
        Self { text: text.into(), is_damaged: false }
    }

    /// For bytes that a storage returned and that are no UTF-8: the text with replacement characters, to be shown. It is not what
    /// was stored, so it never decodes, and no task is started with it.
    #[must_use]
    pub fn from_damaged(text: String) -> Self {
        Self { text: text.into(), is_damaged: true }
    }

    /// Whether this is not what was stored, because that is no text; see [`from_damaged`](Self::from_damaged).
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        self.is_damaged
    }

    /// The JSON text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Two arrays become one, the items of this one first; `None` if either is something else. What replacing a job by its key
    /// does.
    #[must_use]
    pub fn joined(&self, more: &Self) -> Option<Self> {
        if self.is_damaged || more.is_damaged {
            return None;
        }
        let mut items: Vec<&RawValue> = serde_json::from_str(&self.text).ok()?;
        let more: Vec<&RawValue> = serde_json::from_str(&more.text).ok()?;
        items.extend(more);
        serde_json::to_string(&items).ok().map(Self::from_trusted)
    }

    /// Decodes into a type.
    ///
    /// A job without data may have been written as `{}` (by us, and by Node) or as `null` (by SQL): a type
    /// that accepts either accepts both.
    ///
    /// # Errors
    /// The decoder's message, with line and column.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        if self.is_damaged {
            return Err(serde::de::Error::custom("the payload is not valid UTF-8"));
        }
        serde_json::from_str(&self.text).or_else(|error| match self.text.trim() {
            "{}" => serde_json::from_str("null").map_err(|_| error),
            "null" => serde_json::from_str("{}").map_err(|_| error),
            _ => Err(error),
        })
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Payloads may hold personal data, so `Debug` tells their size only.
impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes)", self.text.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_option_and_defaulted_struct_decode_from_both_forms_of_nothing() {
        #[derive(serde::Deserialize, PartialEq, Debug, Default)]
        #[serde(default)]
        struct Options {
            n: u8,
        }
        for text in ["{}", "null"] {
            let payload = Payload::from_json(text).unwrap();
            payload.decode::<()>().unwrap();
            assert_eq!(payload.decode::<Options>().unwrap(), Options::default());
        }
        assert_eq!(Payload::empty().decode::<Option<String>>().unwrap(), None);
    }

    #[test]
    fn text_is_kept_byte_for_byte() {
        let odd = "{ \"b\":1,\"a\" : 9007199254740993, \"b\":\"\\u0000\" }";
        assert_eq!(Payload::from_json(odd).unwrap().as_str(), odd);
    }

    #[test]
    fn debug_does_not_show_the_data() {
        let payload = Payload::new("t", &"secret").unwrap();
        assert!(!format!("{payload:?}").contains("secret"));
    }

    #[test]
    fn deep_nesting_is_an_error_not_a_crash() {
        let deep = "[".repeat(10_000) + &"]".repeat(10_000);
        let payload = Payload::from_trusted(deep);
        assert!(payload.decode::<serde_json::Value>().is_err());
    }
}
