//! What every request must pass, and what every answer says to the browser.
//!
//! - **Host**: a page on this machine can be reached by the name of any web page that leads its own name here. So only known names are
//!   answered.
//! - **Origin**: a browser sends what it is signed in with along with any page's forms. So a request that changes something must come from
//!   the page itself: by `Sec-Fetch-Site`, or by an `Origin` that is the host; or it must carry an `Authorization` that the browser does not
//!   send by itself.
//! - **Who**: [`Principal`]. What they may do is checked where it is done.

use std::sync::Arc;

use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::Shared;
use crate::pages;
use crate::principal::{Permission, Principal};
use crate::problem::Problem;

const HEADERS: [(HeaderName, &str); 8] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; \
         base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types backfill",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("permissions-policy"), "camera=(), geolocation=(), microphone=()"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::CACHE_CONTROL, "no-store"),
];

/// Whoever asks. Every handler has one, or needs none.
#[derive(Clone)]
pub(crate) struct Caller(pub Principal);

impl Caller {
    pub fn may(&self, permission: Permission) -> bool {
        self.0.permissions.has(permission)
    }

    pub fn need(&self, permission: Permission) -> Result<(), Problem> {
        if self.may(permission) { Ok(()) } else { Err(Problem::forbidden(permission)) }
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        // The gate lets nobody through without one.
        parts
            .extensions
            .get::<Self>()
            .cloned()
            .ok_or_else(|| Problem::new(StatusCode::UNAUTHORIZED, "nobody is known to ask"))
    }
}

pub(crate) async fn pass(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let wants_json = parts.uri.path().starts_with("/api/");
    let mut response = match admit(&shared, &parts) {
        Ok(caller) => {
            parts.extensions.insert(caller);
            next.run(Request::from_parts(parts, body)).await
        }
        Err(problem) if wants_json => problem.into_response(),
        Err(problem) => pages::plain(&problem),
    };
    for (name, value) in HEADERS {
        let is_kept = name == header::CACHE_CONTROL && response.headers().contains_key(&name);
        if !is_kept {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
    }
    response
}

fn admit(shared: &Shared, parts: &Parts) -> Result<Caller, Problem> {
    let host = host_of(parts);
    if let Some(hosts) = &shared.settings.hosts {
        let name = host.map(without_port);
        if !name.is_some_and(|name| hosts.iter().any(|known| known.eq_ignore_ascii_case(name))) {
            let detail = format!("this page is not served under the name {:?}", name.unwrap_or_default());
            return Err(Problem::new(StatusCode::MISDIRECTED_REQUEST, detail));
        }
    }
    if !matches!(parts.method, Method::GET | Method::HEAD) {
        check_origin(&parts.headers, host)?;
        if shared.settings.read_only {
            return Err(Problem::new(StatusCode::FORBIDDEN, "this page is read-only: it was started so"));
        }
    }
    match (shared.who.0)(parts) {
        Some(principal) => Ok(Caller(principal)),
        None => Err(Problem::new(StatusCode::UNAUTHORIZED, "sign in first")),
    }
}

fn host_of(parts: &Parts) -> Option<&str> {
    parts.headers.get(header::HOST).and_then(|host| host.to_str().ok()).or_else(|| parts.uri.host())
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        // Not the last part of an address such as [::1].
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

fn check_origin(headers: &HeaderMap, host: Option<&str>) -> Result<(), Problem> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let is_own = match (text("sec-fetch-site"), text("origin")) {
        (Some(site), _) => matches!(site, "same-origin" | "none"),
        (None, Some(origin)) => origin.split_once("://").map(|(_, authority)| authority) == host,
        // What a browser sends by itself is Basic or Negotiate.
        (None, None) => text("authorization").is_some_and(|value| value.to_ascii_lowercase().starts_with("bearer ")),
    };
    if is_own {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::FORBIDDEN,
        "this request does not come from the page itself, and has no bearer token: nothing was changed",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_no_part_of_a_name() {
        for (host, name) in [("localhost:80", "localhost"), ("[::1]:80", "[::1]"), ("[::1]", "[::1]"), ("a.b", "a.b")] {
            assert_eq!(without_port(host), name);
        }
    }
}
