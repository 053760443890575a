//! What a workflow or a step fails with.
//!
//! A [`Failure`] is for the code of workflows what a boxed error is elsewhere: any error becomes one by `?`. It is recorded as the portable
//! envelope of DBOS's clients (name, message, code, data), and is read from it after a restart. What was only in memory, the error that it
//! was made of, is there until then.

use std::any::TypeId;
use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::Error;

/// What a workflow or a step has failed with.
///
/// Any error becomes one by `?`; [`Failure::new`] makes one of a name and a message. For the sake of that it is no `std::error::Error` itself;
/// [`into_error`](Self::into_error) makes one of it.
pub struct Failure(Box<Inner>);

struct Inner {
    envelope: Envelope,
    cause: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// A failure as it is recorded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Envelope {
    /// What kind of failure it is.
    #[serde(default)]
    pub name: String,
    /// What happened, for people.
    #[serde(default)]
    pub message: String,
    /// A number or a word for programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Value>,
    /// More, for programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
}

/// What a workflow's function may fail with: [`Failure`], or an error of your own that is recorded as its serialized form and read from it.
///
/// It needs `From<Failure>`, because what a step fails with is a `Failure`, and so is what the engine has to say to those who wait for the result.
pub trait WorkflowError: fmt::Display + Serialize + DeserializeOwned + From<Failure> + Send + 'static {}

impl<E: fmt::Display + Serialize + DeserializeOwned + From<Failure> + Send + 'static> WorkflowError for E {}

impl Failure {
    /// A failure with a name for programs and a message for people.
    pub fn new(name: impl Into<String>, message: impl Into<String>) -> Self {
        Envelope { name: name.into(), message: message.into(), code: None, data: None }.into()
    }

    /// A failure with no other name than `Error`.
    pub fn message(message: impl Into<String>) -> Self {
        Self::new("Error", message)
    }

    /// With a code: a number or a word for programs.
    #[must_use]
    pub fn code(mut self, code: impl Into<Value>) -> Self {
        self.0.envelope.code = Some(code.into());
        self
    }

    /// With more for programs. What cannot be serialized is left out.
    #[must_use]
    pub fn data<T: Serialize + ?Sized>(mut self, data: &T) -> Self {
        self.0.envelope.data = serde_json::to_value(data).ok();
        self
    }

    /// What is recorded of it.
    #[must_use]
    pub fn envelope(&self) -> &Envelope {
        &self.0.envelope
    }

    /// What kind of failure it is.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.envelope.name
    }

    /// What the engine itself has to say, if it is that.
    #[must_use]
    pub fn engine(&self) -> Option<&Error> {
        self.downcast_ref()
    }

    /// The error that it was made of, as long as it has not been read from a record.
    #[must_use]
    pub fn downcast_ref<E: std::error::Error + 'static>(&self) -> Option<&E> {
        self.0.cause.as_deref().and_then(|cause| cause.downcast_ref::<E>())
    }

    /// It as an error of the standard library's kind.
    #[must_use]
    pub fn into_error(self) -> Box<dyn std::error::Error + Send + Sync> {
        Box::new(Standard(self))
    }

    /// What is recorded of a workflow's error.
    pub(crate) fn record<E: WorkflowError>(error: &E) -> Envelope {
        if let Some(failure) = (error as &dyn std::any::Any).downcast_ref::<Self>() {
            return failure.0.envelope.clone();
        }
        Envelope {
            name: short_name(std::any::type_name::<E>()),
            message: error.to_string(),
            code: None,
            data: serde_json::to_value(error).ok(),
        }
    }

    /// A workflow's error, from its record.
    pub(crate) fn replay<E: WorkflowError>(envelope: Envelope) -> E {
        if TypeId::of::<E>() != TypeId::of::<Self>()
            && let Some(data) = &envelope.data
            && let Ok(error) = E::deserialize(data)
        {
            return error;
        }
        E::from(envelope.into())
    }
}

/// The last part of a type's path, without what it is generic over.
fn short_name(path: &str) -> String {
    let path = path.split('<').next().unwrap_or(path);
    path.rsplit("::").next().unwrap_or(path).to_owned()
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        let engine = (&error as &dyn std::any::Any).downcast_ref::<Error>();
        let name = engine.map_or_else(|| short_name(std::any::type_name::<E>()), |engine| engine.name().to_owned());
        let data = match engine {
            // For programs that compare code with histories.
            Some(Error::UnexpectedStep { step, recorded, found, .. }) => {
                Some(serde_json::json!({ "step": step, "recorded": recorded, "found": found }))
            }
            _ => None,
        };
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            // Many errors tell their cause in their own message.
            if !message.contains(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
            source = cause.source();
        }
        let envelope = Envelope { name, message, code: None, data };
        Self(Box::new(Inner { envelope, cause: Some(Box::new(error)) }))
    }
}

impl From<Envelope> for Failure {
    fn from(envelope: Envelope) -> Self {
        Self(Box::new(Inner { envelope, cause: None }))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.envelope.message)
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.envelope.name, self.0.envelope.message)
    }
}

impl Clone for Failure {
    /// A clone has what is recorded. An error of the engine's stays one.
    fn clone(&self) -> Self {
        match self.engine() {
            Some(engine) => Self::from(engine.clone()),
            None => self.0.envelope.clone().into(),
        }
    }
}

impl Serialize for Failure {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.envelope.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Failure {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Envelope::deserialize(deserializer).map(Self::from)
    }
}

struct Standard(Failure);

impl fmt::Display for Standard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Standard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl std::error::Error for Standard {}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Serialize, Deserialize, PartialEq)]
    enum OrderError {
        NoStock { article: u32 },
        Other(String),
    }

    impl fmt::Display for OrderError {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{self:?}")
        }
    }

    impl From<Failure> for OrderError {
        fn from(failure: Failure) -> Self {
            Self::Other(failure.to_string())
        }
    }

    #[test]
    fn an_error_of_ones_own_is_read_as_it_was_recorded() {
        let envelope = Failure::record(&OrderError::NoStock { article: 7 });
        assert_eq!(envelope.name, "OrderError");
        assert_eq!(Failure::replay::<OrderError>(envelope), OrderError::NoStock { article: 7 });
        let foreign = Envelope { name: "ValueError".into(), message: "nope".into(), code: None, data: None };
        assert_eq!(Failure::replay::<OrderError>(foreign), OrderError::Other("nope".into()));
    }

    #[test]
    fn an_error_tells_its_causes_once() {
        let inner = std::io::Error::other("the disk is full");
        let failure = Failure::from(inner);
        assert_eq!(failure.to_string(), "the disk is full");
        assert_eq!(failure.name(), "Error");
        assert!(failure.downcast_ref::<std::io::Error>().is_some());
        assert!(Failure::from(Error::Closed).clone().engine().is_some(), "what the engine says is known after a clone");
    }
}
