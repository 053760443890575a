//! The connections of a worker's own: as many as it can use, and as few as there are.
//!
//! A role, a server or a pooler may have few connections to spare, or none. So a call never insists on a new one while the worker
//! has one: it takes its *turn* on the first that is free, and another one is opened beside it, which may fail. After a failure
//! the worker makes do with what it has for a while. Connections that are not needed are closed after seconds, so that others
//! can have them, but for the first, by which the worker lives.
//!
//! The driver's pools keep the reason to themselves for which they get no connection: they try until their time is over. So each
//! connection has a pool of its own (whose hooks are the user's), and when one takes long to open, the server is asked why.

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use sqlx::{ConnectOptions, Connection, PgPool};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::connections::apart;

/// Two to claim, and one each to settle, to rescue, for the crontab, and to test the listener.
const CONNECTIONS: usize = 6;
/// How long a call waits for its turn on a connection, and how long the first connection may take to open.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(8);
/// After this long it is asked what keeps a connection from being opened.
const ASK_WHY_AFTER: Duration = Duration::from_millis(500);
/// How often the first connection is asked of a server that has none, before that is told, and the pause between.
const TRIES: u32 = 3;
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(250);
/// How long another connection may take to open: in the queue of a pooler it stands in others' way.
const OPENING_TIMEOUT: Duration = Duration::from_secs(5);
/// For how long nothing is opened after that failed.
const MAKE_DO_FOR: Duration = Duration::from_secs(15);
/// For how long a connection that is not needed is kept, but for the first.
const KEPT_FOR: Duration = Duration::from_secs(5);

/// A worker's connections, which can be renewed.
#[derive(Debug)]
pub(in crate::postgres) struct Own {
    /// The user's pool, whose idle connections are closed when there is none for the worker.
    users: PgPool,
    current: RwLock<Arc<Set>>,
    renewed: watch::Sender<()>,
}

#[derive(Debug)]
struct Set {
    users: PgPool,
    /// Each holds one connection at the most. The first is preferred to the second, and so on.
    pools: Vec<PgPool>,
    state: Mutex<State>,
    /// A connection became free, or could not be opened.
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    taken: [bool; CONNECTIONS],
    /// One of those that are taken is being opened.
    opening: bool,
    /// Until when nothing more is opened.
    making_do_until: Option<Instant>,
    /// Why.
    why: Option<String>,
    /// Why there is not even one.
    failed: Option<sqlx::Error>,
    /// One was opened already.
    was_open: bool,
}

/// The right to use one of the connections, until it is dropped.
#[derive(Debug)]
pub(in crate::postgres) struct Turn {
    set: Arc<Set>,
    index: usize,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.set.state().taken[self.index] = false;
        self.set.changed.notify_waiters();
    }
}

impl Own {
    pub(in crate::postgres) fn like(users: &PgPool) -> Self {
        Self { users: users.clone(), current: RwLock::new(Arc::new(Set::like(users))), renewed: watch::Sender::new(()) }
    }

    /// Lets the connections go; the next call opens new ones. Calls in flight keep theirs. The first one of all that is still being
    /// opened is new, and who waits for it may be in a hurry.
    pub(in crate::postgres) fn renew(&self) {
        let is_new = {
            let current = self.current();
            let state = current.state();
            state.opening && !state.was_open
        };
        if is_new {
            self.renewed.send_replace(());
            return;
        }
        let new = Arc::new(Set::like(&self.users));
        let old = std::mem::replace(&mut *self.current.write().unwrap_or_else(PoisonError::into_inner), new);
        drop(old);
        self.renewed.send_replace(());
    }

    pub(in crate::postgres) fn renewals(&self) -> watch::Receiver<()> {
        self.renewed.subscribe()
    }

    fn current(&self) -> Arc<Set> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Gets something from a connection whose turn it is: the connection itself, or a transaction on it.
    pub(in crate::postgres) async fn get<T, F>(&self, get: impl FnOnce(PgPool) -> F) -> sqlx::Result<(T, Turn)>
    where
        F: Future<Output = sqlx::Result<T>>,
    {
        let turn = self.turn().await?;
        let pool = &turn.set.pools[turn.index];
        let got = or_why(pool, get(pool.clone())).await?;
        Ok((got, turn))
    }

    async fn turn(&self) -> sqlx::Result<Turn> {
        let deadline = Instant::now() + ACQUIRE_TIMEOUT;
        let mut renewals = self.renewals();
        let (mut waited, mut tries) = (false, 0);
        loop {
            let set = self.current();
            let changed = set.changed.notified();
            tokio::pin!(changed);
            // From now on nothing is missed.
            changed.as_mut().enable();
            if let Some(turn) = set.free() {
                return Ok(turn);
            }
            let failed = if waited { set.state().failed.take() } else { None };
            match failed {
                // What was closed a moment ago may be gone only now.
                Some(error) if has_none(&error) && tries < TRIES => {
                    tries += 1;
                    sleep(TRY_AGAIN_AFTER).await;
                }
                Some(error) => return Err(error),
                None => {}
            }
            set.open_another();
            waited = true;
            tokio::select! {
                () = changed => {}
                _ = renewals.changed() => {}
                () = sleep_until(deadline) => return Err(set.all_in_use()),
            }
        }
    }
}

impl Set {
    fn like(users: &PgPool) -> Self {
        let pool = |index| match index {
            0 => apart(users, 1, |options| options.max_lifetime(None).idle_timeout(None)),
            _ => apart(users, 1, |options| options.idle_timeout(KEPT_FOR)),
        };
        let pools = (0..CONNECTIONS).map(pool).collect();
        Self { users: users.clone(), pools, state: Mutex::default(), changed: Notify::new() }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A turn on a connection that is open and free.
    fn free(self: &Arc<Self>) -> Option<Turn> {
        let mut state = self.state();
        let is_free = |index: &usize| !state.taken[*index];
        // One that was used a moment ago is on its way back, and is waited for rather than that another one is opened.
        let idle = (0..CONNECTIONS).filter(is_free).find(|index| self.pools[*index].num_idle() > 0);
        let open = || (0..CONNECTIONS).filter(is_free).find(|index| self.pools[*index].size() > 0);
        let index = idle.or_else(open)?;
        state.taken[index] = true;
        Some(Turn { set: Arc::clone(self), index })
    }

    fn all_in_use(&self) -> sqlx::Error {
        let why = self.state().why.clone();
        why.map_or(sqlx::Error::PoolTimedOut, |why| {
            let text = format!(
                "the connections of this worker were in use for {ACQUIRE_TIMEOUT:?}, and there was no further one: {why}"
            );
            sqlx::Error::AnyDriverError(text.into())
        })
    }

    /// Begins to open a connection more, unless that is under way or was in vain.
    fn open_another(self: &Arc<Self>) {
        let (turn, first) = {
            let mut state = self.state();
            let first = state.taken.iter().all(|taken| !taken);
            let makes_do = !first && state.making_do_until.is_some_and(|until| Instant::now() < until);
            let closed = (0..CONNECTIONS).find(|index| !state.taken[*index]);
            let (false, false, Some(index)) = (state.opening, makes_do, closed) else { return };
            state.taken[index] = true;
            state.opening = true;
            state.failed = None;
            (Turn { set: Arc::clone(self), index }, first)
        };
        // Not by the caller, who takes whatever is free first, and may be in a hurry.
        tokio::spawn(Opening { turn, first, opened: Err(sqlx::Error::WorkerCrashed) }.open());
    }
}

/// A connection that is being opened. However that ends, another one may be opened after it.
struct Opening {
    turn: Turn,
    /// There is no other.
    first: bool,
    opened: sqlx::Result<()>,
}

impl Opening {
    async fn open(mut self) {
        let (set, first) = (Arc::clone(&self.turn.set), self.first);
        let pool = &set.pools[self.turn.index];
        let open = or_why(pool, async {
            let mut connection = pool.acquire().await?;
            // A pooler says hello before it has a connection for us. If it is the first, whoever needs it has to wait anyway.
            if !first {
                sqlx::raw_sql("select 1").execute(&mut *connection).await?;
            }
            Ok(())
        });
        let limit = if first { ACQUIRE_TIMEOUT } else { OPENING_TIMEOUT };
        self.opened = timeout(limit, open).await.unwrap_or(Err(sqlx::Error::PoolTimedOut));
        if let Err(error) = &self.opened
            && has_none(error)
        {
            close_idle(&set.users).await;
        }
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        let set = &self.turn.set;
        let connections = set.pools.iter().filter(|pool| pool.size() > 0).count();
        let mut state = set.state();
        state.opening = false;
        let Err(error) = std::mem::replace(&mut self.opened, Ok(())) else {
            (state.was_open, state.making_do_until, state.why) = (true, None, None);
            return;
        };
        state.making_do_until = Some(Instant::now() + MAKE_DO_FOR.mul_f64(0.75 + fastrand::f64() / 2.0));
        let told = state.why.replace(error.to_string()).is_some();
        if self.first {
            state.failed = Some(error);
        } else if !told {
            tracing::info!(%error, connections, "there is no further connection for this worker; it makes do with what it has");
        }
    }
}

/// Waits for something from a pool, and, if that takes long, for the reason why there is no connection.
pub(in crate::postgres) async fn or_why<T>(
    pool: &PgPool,
    get: impl Future<Output = sqlx::Result<T>>,
) -> sqlx::Result<T> {
    tokio::pin!(get);
    let why = async {
        sleep(ASK_WHY_AFTER).await;
        loop {
            match pool.connect_options().connect().await {
                Ok(connection) => drop(connection.close().await),
                Err(error) if has_none(&error) => return error,
                // It is tried again, or told, by whoever asks for the connection.
                Err(_) => {}
            }
            sleep(ASK_WHY_AFTER * 4).await;
        }
    };
    tokio::select! {
        biased;
        got = &mut get => got,
        // Something that waits for an answer, on a connection that is there, waits for something else.
        error = why, if pool.size() == 0 => Err(error),
    }
}

/// Whether the server has no connection to spare, for this role, this database or at all: too_many_connections.
pub(in crate::postgres) fn has_none(error: &sqlx::Error) -> bool {
    super::errors::code(error).as_deref() == Some("53300")
}

/// Closes what nobody uses, so that it can be opened elsewhere, but for what the pool's owner wants to keep.
pub(in crate::postgres) async fn close_idle(pool: &PgPool) {
    while pool.size() > pool.options().get_min_connections() {
        let Some(connection) = pool.try_acquire() else { return };
        let _ = timeout(ACQUIRE_TIMEOUT, connection.close()).await;
    }
}
