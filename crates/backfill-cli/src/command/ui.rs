//! `backfill ui`.

use backfill_admin::Admin;
use serde_json::json;
use tokio::net::TcpListener;

use crate::args::{Global, UiArgs};
use crate::database;
use crate::failure::{Failure, failed};
use crate::output::Output;
use crate::terminal::Events;

pub async fn run(global: &Global, output: &Output, args: UiArgs) -> Result<(), Failure> {
    if !args.listen.ip().is_loopback() {
        return Err(Failure::Usage(format!(
            "{} can be reached from other machines, and nobody signs in here; listen on 127.0.0.1 or [::1], or mount the page in your \
             own program (the crate backfill-admin)",
            args.listen
        )));
    }
    if let Some(colour) = &args.colour
        && !(colour.len() == 7 && colour.starts_with('#') && colour[1..].bytes().all(|byte| byte.is_ascii_hexdigit()))
    {
        return Err(Failure::Usage(format!("the colour {colour:?} must look like #b00020")));
    }
    let client = database::client(global).await?;
    let mut admin = Admin::new(client).hosts(["localhost", "127.0.0.1", "[::1]"]);
    if let Some(name) = args.name {
        admin = admin.name(name);
    }
    if let Some(colour) = args.colour {
        admin = admin.colour(colour);
    }
    if args.read_only {
        admin = admin.read_only();
    }
    let mut events = Events::new(false)?;
    let listener = TcpListener::bind(args.listen).await.map_err(|error| {
        failed(format!("cannot listen on {}: {error}; name another address by --listen", args.listen))
    })?;
    let url = format!("http://{}/", listener.local_addr()?);
    let text = format!("the admin page is at {url} (Ctrl-C ends it)");
    output.either(&json!({ "url": url }), text)?;
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let router = admin.open_to_everybody_who_gets_here().router();
    let serving = backfill_admin::serve(listener, router, async move {
        // Whoever waits for it may be gone: then it ends as well.
        let _ = ended.await;
    });
    tokio::pin!(serving);
    tokio::select! {
        served = &mut serving => Ok(served?),
        how = events.end() => {
            let _ = end.send(());
            // A browser may keep its connection for long; what is under way has a second.
            let _ = tokio::time::timeout(std::time::Duration::from_secs(1), serving).await;
            how
        }
    }
}
