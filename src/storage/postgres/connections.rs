//! The connections that statements use.
//!
//! A client's are the user's pool. A worker's are a pool of its own, which can be *renewed*: when calls are not answered, or
//! the server is no longer the one that may be written to, the old pool is let go with whatever is stuck in it, and the next
//! call opens a new connection.

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection, PgPool};
use tokio::sync::watch;

/// The connections of a worker, besides the ones that listen and show its sign of life: two to claim, and one each to settle, to
/// rescue, for the crontab, and to test the ear. They are opened when needed.
const WORKER_CONNECTIONS: u32 = 6;
/// How long a worker waits for one of them. Its own calls never wait for each other, so this is the time to connect.
const WORKER_ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

/// For this long after its last use a connection is not tested before the next.
const TRUSTED_FOR: Duration = Duration::from_secs(1);
/// For this long after a connection was lost, every connection is tested.
const SHAKEN_FOR: Duration = Duration::from_secs(10);

/// Whether connections may be used without asking them first, which would double the way of every call: for those that were in
/// use a moment ago, unless one was lost lately. Of pools that this crate makes itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trust(Arc<Mutex<Option<Instant>>>);

impl Trust {
    /// Lets a pool test its connections only when there is reason to.
    pub(crate) fn watch(&self, pool: PgPoolOptions) -> PgPoolOptions {
        let trust = self.clone();
        pool.test_before_acquire(false).before_acquire(move |connection, use_of| {
            let doubtful = use_of.idle_for > TRUSTED_FOR || trust.is_shaken();
            Box::pin(async move {
                if doubtful {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
    }

    pub(super) fn shake(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn is_shaken(&self) -> bool {
        let lost = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lost.is_some_and(|lost| lost.elapsed() < SHAKEN_FOR)
    }
}

#[derive(Clone, Debug)]
pub(super) enum Connections {
    Shared(PgPool),
    Own(Arc<Own>),
}

#[derive(Debug)]
pub(super) struct Own {
    current: RwLock<PgPool>,
    renewed: watch::Sender<()>,
}

impl Connections {
    /// Connections of a worker's own, to where this pool's go. The user's pool options are kept, because they may carry hooks
    /// that set a role.
    pub(super) fn like(pool: &PgPool) -> Self {
        Self::Own(Arc::new(Own {
            current: RwLock::new(apart(pool, WORKER_CONNECTIONS, |options| options)),
            renewed: watch::Sender::new(()),
        }))
    }

    pub(super) fn pool(&self) -> PgPool {
        match self {
            Self::Shared(pool) => pool.clone(),
            Self::Own(own) => own.current.read().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    /// Lets a worker's connections go; the next call opens new ones. Calls in flight keep theirs. A user's pool stays as it is.
    pub(super) fn renew(&self) {
        let Self::Own(own) = self else { return };
        let old = {
            let mut current = own.current.write().unwrap_or_else(PoisonError::into_inner);
            let new = apart(&current, WORKER_CONNECTIONS, |options| options);
            std::mem::replace(&mut *current, new)
        };
        drop(old);
        own.renewed.send_replace(());
    }

    /// Answers after the next renewal.
    pub(super) fn renewals(&self) -> Option<watch::Receiver<()>> {
        match self {
            Self::Shared(_) => None,
            Self::Own(own) => Some(own.renewed.subscribe()),
        }
    }
}

/// A pool to the same place, with no connection yet.
pub(super) fn apart(pool: &PgPool, connections: u32, set: impl FnOnce(PgPoolOptions) -> PgPoolOptions) -> PgPool {
    let options = pool.options().clone().min_connections(0).max_connections(connections);
    set(options.acquire_timeout(WORKER_ACQUIRE_TIMEOUT)).connect_lazy_with((*pool.connect_options()).clone())
}
