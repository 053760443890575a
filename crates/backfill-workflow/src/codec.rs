//! Values on the wire: the portable format of DBOS's clients.
//!
//! Outputs, messages, events and streams are JSON values. Inputs are an object of positional and named arguments; errors are an
//! [`Envelope`]. Whatever else a client has written (pickled objects, say) is an error that names the format.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::failure::Envelope;
use crate::store::Encoded;

/// The name of the format.
pub const PORTABLE: &str = "portable_json";
/// The last value of a stream, as it is written here, and by DBOS's clients in this format.
const CLOSED: &str = "\"__DBOS_STREAM_CLOSED__\"";
/// As older clients have written it.
const CLOSED_RAW: &str = "__DBOS_STREAM_CLOSED__";
/// Formats whose text is plain JSON, too.
const JSON_FORMATS: [&str; 2] = [PORTABLE, "rust_serde"];

/// The arguments of a workflow in another language, where it has several, or named ones.
///
/// ```
/// use backfill_workflow::{Args, Workflow};
///
/// // Of Python: def add(a, b, *, round=False)
/// const ADD: Workflow<Args, f64> = Workflow::named("add");
///
/// let input = Args::new().positional(&1).positional(&2).named("round", &true);
/// # let _ = (ADD, input);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Args {
    positional_args: Vec<Value>,
    named_args: Map<String, Value>,
}

impl Args {
    /// None.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// One more by its place. What cannot be serialized is null.
    #[must_use]
    pub fn positional<T: Serialize + ?Sized>(mut self, value: &T) -> Self {
        self.positional_args.push(serde_json::to_value(value).unwrap_or_default());
        self
    }

    /// One more by its name. What cannot be serialized is null.
    #[must_use]
    pub fn named<T: Serialize + ?Sized>(mut self, name: impl Into<String>, value: &T) -> Self {
        self.named_args.insert(name.into(), serde_json::to_value(value).unwrap_or_default());
        self
    }
}

/// Any value as text.
pub(crate) fn encode<T: Serialize + ?Sized>(what: &str, value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|error| Error::decode(what, error))
}

/// Any value with the name of its format.
pub(crate) fn portable<T: Serialize + ?Sized>(what: &str, value: &T) -> Result<Encoded> {
    Ok(Encoded { text: encode(what, value)?, format: Some(PORTABLE.to_owned()) })
}

/// The JSON in a text of this format.
pub(crate) fn json(what: &str, text: &str, format: Option<&str>) -> Result<Value> {
    known(what, format)?;
    serde_json::from_str(text).map_err(|error| Error::decode(what, error))
}

/// The value in a text of this format.
pub(crate) fn decode<T: DeserializeOwned>(what: &str, text: &str, format: Option<&str>) -> Result<T> {
    known(what, format)?;
    serde_json::from_str(text).map_err(|error| Error::decode(what, error))
}

fn known(what: &str, format: Option<&str>) -> Result<()> {
    match format {
        Some(format) if JSON_FORMATS.contains(&format) => Ok(()),
        Some(format) => Err(Error::decode(
            what,
            format!("it is in the format {format:?}; ask the program that wrote it for {PORTABLE:?}"),
        )),
        None => Err(Error::decode(what, format!("it is in a format without a name; ask its writer for {PORTABLE:?}"))),
    }
}

/// A workflow's input as it is stored: its one argument. One of `()` has none.
pub(crate) fn encode_input<T: Serialize + ?Sized>(input: &T) -> Result<String> {
    let value = serde_json::to_value(input).map_err(|error| Error::decode("the input", error))?;
    // [`Args`] stand for themselves.
    if let Value::Object(object) = &value
        && object.len() == 2
        && object.get("positionalArgs").is_some_and(Value::is_array)
        && object.get("namedArgs").is_some_and(Value::is_object)
    {
        return Ok(value.to_string());
    }
    let arguments = if value.is_null() { Vec::new() } else { vec![value] };
    Ok(serde_json::json!({ "positionalArgs": arguments, "namedArgs": {} }).to_string())
}

/// A workflow's input: its one argument; several as a list, for a tuple; named ones as an object, for a struct, along with the fields of
/// one positional object; none as null.
pub(crate) fn decode_input<T: DeserializeOwned>(text: Option<&str>, format: Option<&str>) -> Result<T> {
    const WHAT: &str = "the workflow's input";
    let Some(text) = text else { return from_value(WHAT, Value::Null) };
    let value = json(WHAT, text, format)?;
    let Value::Object(mut object) = value else { return from_value(WHAT, value) };
    if !object.contains_key("positionalArgs") && !object.contains_key("namedArgs") {
        return from_value(WHAT, Value::Object(object));
    }
    let mut positional = match object.remove("positionalArgs") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(list)) => list,
        Some(_) => return Err(Error::decode(WHAT, "positionalArgs is no list")),
    };
    let named = match object.remove("namedArgs") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(named)) => named,
        Some(_) => return Err(Error::decode(WHAT, "namedArgs is no object")),
    };
    let value = match (positional.len(), named.is_empty()) {
        (0, true) => return from_value(WHAT, Value::Null).or_else(|_| from_value(WHAT, Value::Array(Vec::new()))),
        (0, false) => Value::Object(named),
        (1, true) => positional.remove(0),
        (1, false) => match positional.remove(0) {
            Value::Object(mut fields) => {
                fields.extend(named);
                Value::Object(fields)
            }
            first => Value::Array(vec![first, Value::Object(named)]),
        },
        (_, true) => Value::Array(positional),
        (_, false) => {
            positional.push(Value::Object(named));
            Value::Array(positional)
        }
    };
    from_value(WHAT, value)
}

fn from_value<T: DeserializeOwned>(what: &str, value: Value) -> Result<T> {
    serde_json::from_value(value).map_err(|error| Error::decode(what, error))
}

/// An error as it is stored.
pub(crate) fn encode_error(envelope: &Envelope) -> String {
    // Nothing in an envelope can fail to be written.
    serde_json::to_string(envelope)
        .unwrap_or_else(|error| format!("{{\"name\":\"Error\",\"message\":{:?}}}", error.to_string()))
}

/// An error from its record. One in another format says so, and shows the text.
pub(crate) fn decode_error(text: &str, format: Option<&str>) -> Envelope {
    json("the error", text, format).and_then(|value| from_value("the error", value)).unwrap_or_else(|error| Envelope {
        name: "Undecodable".to_owned(),
        message: format!("{error}: {}", text.chars().take(200).collect::<String>()),
        code: None,
        data: None,
    })
}

/// The last value of a stream.
pub(crate) fn closed() -> Encoded {
    Encoded { text: CLOSED.to_owned(), format: Some(PORTABLE.to_owned()) }
}

/// Whether a stream's value says that it is closed, in either spelling.
pub(crate) fn is_closed(text: &str) -> bool {
    text == CLOSED || text == CLOSED_RAW
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize, Serialize, PartialEq)]
    struct Order {
        id: u32,
        #[serde(default)]
        express: bool,
    }

    fn read<T: DeserializeOwned>(text: &str) -> Result<T> {
        decode_input(Some(text), Some(PORTABLE))
    }

    #[test]
    fn inputs_of_every_shape_are_read() {
        let stored: Value = serde_json::from_str(&encode_input(&Order { id: 7, express: true }).unwrap()).unwrap();
        assert_eq!(stored, serde_json::json!({ "positionalArgs": [{ "id": 7, "express": true }], "namedArgs": {} }));
        let order = Order { id: 7, express: false };
        assert_eq!(read::<Order>(r#"{"positionalArgs":[{"id":7}],"namedArgs":{}}"#).unwrap(), order);
        assert_eq!(read::<Order>(r#"{"namedArgs":{"id":7},"positionalArgs":[]}"#).unwrap(), order);
        assert_eq!(read::<Order>(r#"{"namedArgs":{"id":7}}"#).unwrap(), order);
        let express = Order { id: 7, express: true };
        assert_eq!(read::<Order>(r#"{"positionalArgs":[{"id":7}],"namedArgs":{"express":true}}"#).unwrap(), express);
        assert_eq!(read::<(u32, String)>(r#"{"positionalArgs":[1,"a"]}"#).unwrap(), (1, "a".into()));
        read::<()>(r#"{"positionalArgs":[],"namedArgs":{}}"#).unwrap();
        read::<()>(&encode_input(&()).unwrap()).unwrap();
        assert_eq!(read::<Vec<u32>>(r#"{"positionalArgs":[[1,2]]}"#).unwrap(), [1, 2]);
        decode_input::<()>(None, None).unwrap();
    }

    #[test]
    fn other_formats_are_named() {
        let error = decode_input::<u32>(Some("gASVBQ=="), Some("py_pickle")).unwrap_err();
        assert!(error.to_string().contains("py_pickle"), "{error}");
        assert!(decode_error("gASVBQ==", Some("py_pickle")).message.contains("py_pickle"));
    }
}
