//! Why something was not done: a status, and words with a remedy.

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use backfill::Error;
use serde_json::json;

use crate::principal::Permission;

/// As RFC 9457 has it.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    pub status: StatusCode,
    pub detail: String,
}

pub(crate) type Answer<T> = Result<T, Problem>;

impl Problem {
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into() }
    }

    pub fn bad(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    pub fn missing(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    pub fn forbidden(permission: Permission) -> Self {
        let name = permission.as_str();
        Self::new(StatusCode::FORBIDDEN, format!("this takes the permission {name:?}, which you do not have here"))
    }

    pub fn title(&self) -> &'static str {
        self.status.canonical_reason().unwrap_or("Problem")
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let status = match &error {
            Error::InvalidSearch { .. } | Error::InvalidJob { .. } => StatusCode::BAD_REQUEST,
            Error::MissingPrivilege { .. } | Error::ReadOnly { .. } | Error::HiddenRows { .. } => StatusCode::FORBIDDEN,
            Error::Unsupported { .. } => StatusCode::NOT_IMPLEMENTED,
            Error::NotReady { .. } | Error::StorageGone { .. } => StatusCode::SERVICE_UNAVAILABLE,
            error if error.is_away() => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = json!({ "type": "about:blank", "title": self.title(), "status": self.status.as_u16(), "detail": self.detail });
        (self.status, [(header::CONTENT_TYPE, "application/problem+json")], Json(body)).into_response()
    }
}
