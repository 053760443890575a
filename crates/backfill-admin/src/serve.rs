//! Serving the router without a program of one's own.

use std::io;

use axum::Router;
use tokio::net::TcpListener;

/// Answers requests on this listener until `ended`, and then those that are under way.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    ended: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    axum::serve(listener, router).with_graceful_shutdown(ended).await
}
