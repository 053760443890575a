//! The admin page and the HTTP API of the job queue `backfill`: a router for a program of one's own, or served by `backfill ui`.
//!
//! ```no_run
//! use backfill_admin::{Admin, Permissions, Principal};
//!
//! # fn session(parts: &axum::http::request::Parts) -> Option<String> { None }
//! # async fn example() -> backfill::Result<()> {
//! let client = backfill::connect("postgres://localhost/app").await?;
//! let admin = Admin::new(client)
//!     .name("shop, production")
//!     .principal(|parts| Some(Principal::new(session(parts)?, Permissions::operator())));
//! let app: axum::Router = axum::Router::new().nest_service("/ops/queue", admin.router());
//! # Ok(())
//! # }
//! ```
//!
//! A page that was mounted by mistake for everybody does not compile:
//!
//! ```compile_fail
//! # async fn example(client: backfill::BackfillClient) {
//! let router = backfill_admin::Admin::new(client).router();
//! # }
//! ```
//!
//! # The map
//!
//! Each view is one ordinary page, which works without scripts, and one resource of the API; both read the storage through the same functions.
//!
//! | file | what it does |
//! | --- | --- |
//! | `gate` | what every request must pass: the host, its origin, who asks; and the headers of every answer |
//! | `principal` | who asks, and what they may do |
//! | `redact` | values in payloads that nobody is shown |
//! | `looks` | what the storage is asked, and what of it is kept for a moment |
//! | `acts` | what is changed |
//! | `api` | JSON under `api/v1` |
//! | `pages` | HTML |
//! | `show` | how numbers, times and foreign text look |
//! | `problem` | why something was not done |
//! | `assets` | style and scripts |

mod acts;
mod api;
mod assets;
mod gate;
mod looks;
mod pages;
mod principal;
mod problem;
mod redact;
#[cfg(feature = "serve")]
mod serve;
mod show;

use std::fmt;
use std::sync::Arc;

use axum::Router;
use axum::http::request::Parts;
use axum::middleware::from_fn_with_state;
use axum::routing::get;
use backfill::BackfillClient;

pub use principal::{Permission, Permissions, Principal};
pub use redact::Redaction;
#[cfg(feature = "serve")]
pub use serve::serve;

use looks::Looks;

/// Who may ask is not said yet.
#[derive(Clone, Copy, Debug)]
pub struct NobodyYet;

type Who = Arc<dyn Fn(&Parts) -> Option<Principal> + Send + Sync>;

/// It is said who may ask.
#[derive(Clone)]
pub struct KnowsWhoAsks(Who);

impl fmt::Debug for KnowsWhoAsks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KnowsWhoAsks")
    }
}

/// The admin page of one queue, which becomes a [`Router`].
#[derive(Clone, Debug)]
#[must_use]
pub struct Admin<W = NobodyYet> {
    settings: Settings,
    who: W,
}

/// What can be said of a page.
#[derive(Clone, Debug)]
struct Settings {
    client: BackfillClient,
    name: Option<String>,
    colour: Option<String>,
    redaction: Redaction,
    read_only: bool,
    hosts: Option<Vec<String>>,
}

impl Admin {
    /// The page of this client's queue.
    pub fn new(client: BackfillClient) -> Self {
        let redaction = Redaction::defaults();
        let settings = Settings { client, name: None, colour: None, redaction, read_only: false, hosts: None };
        Self { settings, who: NobodyYet }
    }

    /// Says who asks, by the request's head (a session's cookie, a proxy's header). `None` is answered by 401.
    pub fn principal(self, who: impl Fn(&Parts) -> Option<Principal> + Send + Sync + 'static) -> Admin<KnowsWhoAsks> {
        Admin { settings: self.settings, who: KnowsWhoAsks(Arc::new(who)) }
    }

    /// Lets everybody who gets here do everything: where something in front of it decides who that is.
    pub fn open_to_everybody_who_gets_here(self) -> Admin<KnowsWhoAsks> {
        self.principal(|_| Some(Principal::new("everybody", Permissions::admin())))
    }
}

impl<W> Admin<W> {
    /// What this queue is called on the page, such as `shop, production`. Default: the storage's name.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.settings.name = Some(name.into());
        self
    }

    /// The colour of the band over each page, as `#rrggbb`: against taking one queue for another. Anything else is ignored.
    pub fn colour(mut self, colour: impl Into<String>) -> Self {
        let colour = colour.into();
        let is_colour =
            colour.len() == 7 && colour.starts_with('#') && colour[1..].bytes().all(|byte| byte.is_ascii_hexdigit());
        self.settings.colour = is_colour.then_some(colour);
        self
    }

    /// Which values in payloads nobody is shown. Default: [`Redaction::defaults`].
    pub fn redact(mut self, redaction: Redaction) -> Self {
        self.settings.redaction = redaction;
        self
    }

    /// Changes nothing, whoever asks.
    pub fn read_only(mut self) -> Self {
        self.settings.read_only = true;
        self
    }

    /// Answers only requests for these hosts (names without a port), and others by 421. Default: any host, since a program of one's own
    /// decides that itself. A page on this machine alone needs it: any web page may have its own name lead here.
    pub fn hosts<S: Into<String>>(mut self, hosts: impl IntoIterator<Item = S>) -> Self {
        self.settings.hosts = Some(hosts.into_iter().map(Into::into).collect());
        self
    }
}

impl Admin<KnowsWhoAsks> {
    /// The router: at the root of a program, or under any prefix by [`Router::nest_service`]
    /// (or by [`Router::nest`], which does not answer the prefix with a slash at its end). All its links are relative, so it need not be told.
    pub fn router(self) -> Router {
        let shared = Arc::new(Shared {
            looks: Looks::new(self.settings.client.clone()),
            settings: self.settings,
            who: self.who,
        });
        Router::new()
            .nest("/api/v1", api::router())
            .route("/api/v1/", get(api::root))
            .merge(pages::router())
            .route("/assets/{name}", get(assets::get))
            .route("/robots.txt", get(|| async { "User-agent: *\nDisallow: /\n" }))
            .fallback(pages::nothing_here)
            .layer(from_fn_with_state(shared.clone(), gate::pass))
            .with_state(shared)
    }
}

/// What every request is answered with.
struct Shared {
    settings: Settings,
    who: KnowsWhoAsks,
    looks: Looks,
}

impl Shared {
    fn client(&self) -> &BackfillClient {
        &self.settings.client
    }

    fn name(&self) -> String {
        self.settings.name.clone().unwrap_or_else(|| self.client().storage().name())
    }
}
