//! `backfill messages`: a durable queue for shell scripts and programs in any language.

use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::time::{Duration, Instant};

use backfill::messages::{Message, MessageState, NewMessage, Purge, Queue};
use backfill::{Error, JobState};
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::inspect::style_of;
use crate::args::{
    AckArgs, ControlArgs, ControlCommand, EventsArgs, Global, HeartbeatArgs, MessagesArgs, MessagesCommand, NackArgs,
    RenewArgs, SendArgs, TakeArgs,
};
use crate::database;
use crate::failure::{Failure, failed};
use crate::output::{Output, count_of, one_line, rfc3339, visible};
use crate::screen::Style;
use crate::table::{Cell, Column, Table};
use crate::value::relative;

pub async fn run(global: &Global, output: &Output, args: MessagesArgs) -> Result<(), Failure> {
    // Who only looks, or names a message that must be there, creates nothing.
    let creates = matches!(
        args.command,
        MessagesCommand::Send(_)
            | MessagesCommand::Take(_)
            | MessagesCommand::Heartbeat(_)
            | MessagesCommand::Control(ControlArgs { command: Some(_) })
    );
    let retention = match &args.command {
        MessagesCommand::Ack(args) => Some(args.retention),
        MessagesCommand::Nack(args) => Some(args.retention),
        _ => None,
    };
    let queue = database::messages(global, args.namespace.as_deref(), retention, creates).await?;
    let done = match args.command {
        MessagesCommand::Send(args) => send(&queue, output, args).await,
        MessagesCommand::Take(args) => take(&queue, output, &args).await,
        MessagesCommand::Ack(args) => ack(&queue, output, &args).await,
        MessagesCommand::Nack(args) => nack(&queue, output, &args).await,
        MessagesCommand::Renew(args) => renew(&queue, output, &args).await,
        MessagesCommand::Show { ids } => show(&queue, output, &ids).await,
        MessagesCommand::Counts { queues } => counts(&queue, output, &queues).await,
        MessagesCommand::Events(args) => events(&queue, output, &args).await,
        MessagesCommand::Control(args) => control(&queue, output, args).await,
        MessagesCommand::Workers { queue: name } => workers(&queue, output, &name).await,
        MessagesCommand::Heartbeat(args) => heartbeat(&queue, output, args).await,
        MessagesCommand::Purge { queue: name, all } => {
            let purged = queue.purge(&name, if all { Purge::All } else { Purge::Ready }).await?;
            output.either(&json!({ "purged": purged }), format!("deleted {}", count_of(purged, "message")))
        }
        MessagesCommand::Drop { .. } => {
            queue.drop_namespace().await?;
            let text = format!("deleted everything of the namespace {:?}", queue.namespace());
            output.either(&json!({ "dropped": queue.namespace() }), text)
        }
    };
    queue.close().await;
    done
}

async fn send(queue: &Queue, output: &Output, args: SendArgs) -> Result<(), Failure> {
    let body = if args.body == "-" {
        let mut body = String::new();
        std::io::stdin().lock().read_to_string(&mut body)?;
        body
    } else {
        args.body
    };
    let mut message = if args.text {
        NewMessage::new(&body)
    } else {
        NewMessage::from_json(body.as_str())
            .map_err(|error| Failure::Usage(format!("{error}; for a text that is none, say --text")))?
    };
    if let Some(id) = args.id {
        message = message.id(id);
    }
    if let Some(group) = args.group {
        message = message.group(group);
    }
    if let Some(time) = args.run_at {
        message = message.run_at(time);
    }
    if let Some(delay) = args.delay {
        message = message.run_in(delay);
    }
    if let Some(priority) = args.priority {
        message = message.priority(priority);
    }
    if let Some(attempts) = args.max_attempts {
        message = message.max_attempts(attempts);
    }
    let ids = queue.enqueue_all(&args.queue, vec![message]).await?;
    output.either(&json!({ "id": ids[0] }), visible(&ids[0]))
}

async fn take(queue: &Queue, output: &Output, args: &TakeArgs) -> Result<(), Failure> {
    let worker = args.worker.clone().unwrap_or_else(|| format!("{}:{}", host(), std::process::id()));
    let host_name = args.host.clone().unwrap_or_else(host);
    let claim = async || {
        let mut claim = queue.claim(&args.queue, &worker).lease(args.lease).host(&host_name);
        if args.groups {
            claim = claim.in_groups();
        }
        claim.up_to(args.limit).await
    };
    let mut taken = claim().await?;
    if let Some(wait) = args.wait {
        let begun = Instant::now();
        let mut subscription = queue.subscribe(&[&args.queue]);
        while taken.is_empty() {
            let left = wait.saturating_sub(begun.elapsed());
            if left.is_zero() {
                break;
            }
            // A switch that is switched on is no message: so it looks now and then.
            subscription.wait(left.min(Duration::from_secs(5))).await;
            taken = claim().await?;
        }
    }
    if let Err(error) = print(output, &taken, args.text) {
        // Nobody has got them: they are ready again, for who can read.
        for message in &taken {
            let _ = queue.requeue(message, Duration::ZERO).await;
        }
        return Err(match error {
            Failure::ClosedPipe => failed("nobody reads the output any more; what was taken is given back"),
            error => error,
        });
    }
    Ok(())
}

/// A message as machines read it: the body is the very text that was sent.
#[derive(Serialize)]
struct TakenMessage<'a> {
    handle: String,
    id: &'a str,
    queue: &'a str,
    attempts: i16,
    until: String,
    body: &'a RawValue,
}

fn print(output: &Output, taken: &[Message], text: bool) -> Result<(), Failure> {
    if output.is_json() {
        let taken = taken.iter().map(|message| TakenMessage {
            handle: message.handle().to_string(),
            id: &message.id,
            queue: &message.queue,
            attempts: message.attempts,
            until: rfc3339(message.until),
            body: &message.body,
        });
        return output.json(&taken.collect::<Vec<_>>());
    }
    for message in taken {
        let body = match serde_json::from_str::<String>(message.body.get()) {
            Ok(body) if text => visible(&body.replace(['\n', '\r', '\t'], " ")),
            _ => json_line(message.body.get()),
        };
        output.line(format!("{}\t{body}", message.handle()))?;
    }
    Ok(())
}

/// The same JSON in one line, without anything that a terminal obeys.
fn json_line(json: &str) -> String {
    let (mut line, mut in_string, mut escaped) = (String::with_capacity(json.len()), false, false);
    for char in json.chars() {
        match char {
            ' ' | '\n' | '\r' | '\t' if !in_string => {
                // Between tokens it means nothing; a blank stays for people.
                if char == ' ' {
                    line.push(char);
                }
            }
            _ if visible(char.encode_utf8(&mut [0; 4])).len() > char.len_utf8() => {
                let mut units = [0; 2];
                for unit in char.encode_utf16(&mut units) {
                    let _ = write!(line, "\\u{unit:04x}");
                }
                escaped = false;
            }
            _ => {
                line.push(char);
                in_string ^= char == '"' && !escaped;
                escaped = in_string && char == '\\' && !escaped;
            }
        }
    }
    line
}

/// Tells of each handle what became of it; fails if one does not stand any more.
async fn each<F: Future<Output = Result<bool, Error>>>(
    output: &Output,
    handles: &[backfill::messages::Handle],
    what: &str,
    end: impl Fn(backfill::messages::Handle) -> F,
) -> Result<(), Failure> {
    let (mut done, mut lost) = (Vec::new(), Vec::new());
    for handle in handles {
        match end(handle.clone()).await {
            Ok(true) => done.push(handle.id()),
            Ok(false) | Err(Error::LeaseLost { .. }) => lost.push(handle.id()),
            Err(error) => return Err(error.into()),
        }
    }
    if output.is_json() {
        output.json(&json!({ "done": done, "lost": lost }))?;
    } else {
        for id in &done {
            output.line(format!("{what} {}", visible(id)))?;
        }
        let mut error = std::io::stderr().lock();
        for id in &lost {
            // If it cannot be said, the status has to do.
            let _ = writeln!(error, "left {} alone: the claim does not stand any more", visible(id));
        }
    }
    if lost.is_empty() { Ok(()) } else { Err(Failure::Lost) }
}

async fn ack(queue: &Queue, output: &Output, args: &AckArgs) -> Result<(), Failure> {
    each(output, &args.handles, "completed", |handle| async move {
        match &args.event {
            Some(event) => queue.complete_with_event(&handle, &event.stream, &event.payload).await,
            None => queue.complete(&handle).await,
        }
        .map(|()| true)
    })
    .await
}

async fn nack(queue: &Queue, output: &Output, args: &NackArgs) -> Result<(), Failure> {
    let what = if args.fail.is_some() { "failed" } else { "gave back" };
    each(output, &args.handles, what, |handle| async move {
        match (&args.fail, &args.event) {
            (Some(error), Some(event)) => queue.fail_with_event(&handle, error, &event.stream, &event.payload).await,
            (Some(error), None) => queue.fail(&handle, error).await,
            _ => queue.requeue(&handle, args.after.unwrap_or_default()).await,
        }
        .map(|()| true)
    })
    .await
}

async fn renew(queue: &Queue, output: &Output, args: &RenewArgs) -> Result<(), Failure> {
    each(output, &args.handles, "renewed", |handle| async move { queue.renew(&handle, args.lease).await }).await
}

async fn show(queue: &Queue, output: &Output, ids: &[String]) -> Result<(), Failure> {
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for id in ids {
        match queue.get(id).await? {
            Some(info) => found.push(info),
            None => missing.push(id),
        }
    }
    if output.is_json() {
        output.json(&found)?;
    } else if !found.is_empty() {
        let now = queue.storage().now().await?;
        let mut table = Table::new([
            ("ID", Column::Text),
            ("QUEUE", Column::Text),
            ("STATE", Column::Fixed),
            ("ATTEMPTS", Column::Number),
            ("WHEN", Column::Fixed),
            ("ERROR", Column::Text),
        ]);
        for info in found {
            let (state, style) = match info.state {
                MessageState::Queued => ("queued", style_of(JobState::Ready)),
                MessageState::Running => ("running", style_of(JobState::Running)),
                MessageState::Completed => ("completed", Style::Plain),
                _ => ("failed", style_of(JobState::Dead)),
            };
            let when = info.ended_at.or(info.until).or(info.run_at);
            table.row([
                visible(&info.id).into(),
                visible(&info.queue).into(),
                Cell::new(state, style),
                info.attempts.to_string().into(),
                when.map(|when| relative(when, now)).unwrap_or_default().into(),
                info.error.map(|error| one_line(&error)).unwrap_or_default().into(),
            ]);
        }
        output.line(table.text(&output.screen()))?;
    }
    match missing[..] {
        [] => Ok(()),
        [id] => Err(failed(format!("no message has the id {id:?}"))),
        _ => Err(failed(format!("no messages have the ids {missing:?}"))),
    }
}

async fn counts(queue: &Queue, output: &Output, names: &[String]) -> Result<(), Failure> {
    let mut all = Vec::new();
    for name in names {
        all.push(queue.counts(name).await?);
    }
    if output.is_json() {
        let json = |depth: &backfill::messages::Depth| {
            json!({
                "queue": depth.line, "ready": depth.ready, "delayed": depth.delayed, "held": depth.held, "exact": depth.exact
            })
        };
        return output.json(&all.iter().map(json).collect::<Vec<_>>());
    }
    let columns = [("READY", Column::Number), ("DELAYED", Column::Number), ("HELD", Column::Number)];
    let mut table = Table::new([("QUEUE", Column::Text)].into_iter().chain(columns));
    for depth in all {
        let or_more = |count: u64| format!("{count}{}", if depth.exact { "" } else { "+" });
        table.row([
            visible(&depth.line).into(),
            or_more(depth.ready).into(),
            or_more(depth.delayed).into(),
            or_more(depth.held).into(),
        ]);
    }
    output.line(table.text(&output.screen()))
}

/// An event as machines read it.
#[derive(Serialize)]
struct ToldEvent<'a> {
    position: u64,
    at: String,
    payload: &'a RawValue,
}

async fn events(queue: &Queue, output: &Output, args: &EventsArgs) -> Result<(), Failure> {
    let events = queue.events(&args.stream, args.since, args.limit).await?;
    if output.is_json() {
        let mut list = output.json_list()?;
        for event in events {
            let payload = serde_json::from_str(event.payload.as_str())?;
            list.item(&ToldEvent { position: event.position, at: rfc3339(event.at), payload })?;
        }
        return list.end();
    }
    for event in events {
        output.line(format!("{}\t{}\t{}", event.position, rfc3339(event.at), json_line(event.payload.as_str())))?;
    }
    Ok(())
}

async fn control(queue: &Queue, output: &Output, args: ControlArgs) -> Result<(), Failure> {
    match args.command {
        Some(ControlCommand::Off { host, queue: name, by }) => {
            let by = by.or_else(|| crate::variables::variable("USER")).unwrap_or_else(|| "an operator".to_owned());
            queue.switch_off(&host, &name, &by).await?;
            output.either(
                &json!({ "host": host, "queue": name, "on": false }),
                format!("{host} takes nothing from {name}"),
            )
        }
        Some(ControlCommand::On { host, queue: name }) => {
            queue.switch_on(&host, &name).await?;
            output.either(
                &json!({ "host": host, "queue": name, "on": true }),
                format!("the switch of {host} for {name} is on"),
            )
        }
        None => {
            let switches = queue.switches().await?;
            if output.is_json() {
                return output.json(&switches);
            }
            if switches.is_empty() {
                return output.line("nothing is switched off");
            }
            let now = queue.storage().now().await?;
            let columns =
                [("HOST", Column::Text), ("QUEUE", Column::Text), ("OFF", Column::Fixed), ("BY", Column::Text)];
            let mut table = Table::new(columns);
            for switch in switches {
                table.row([
                    visible(&switch.host).into(),
                    visible(&switch.queue).into(),
                    relative(switch.since, now).into(),
                    visible(&switch.by).into(),
                ]);
            }
            output.line(table.text(&output.screen()))
        }
    }
}

async fn workers(queue: &Queue, output: &Output, name: &str) -> Result<(), Failure> {
    let workers = queue.workers(name).await?;
    if output.is_json() {
        return output.json(&workers);
    }
    if workers.is_empty() {
        return output.line("no workers");
    }
    let now = queue.storage().now().await?;
    let columns =
        [("WORKER", Column::Text), ("HOST", Column::Text), ("COUNTS AS DEAD", Column::Fixed), ("INFO", Column::Text)];
    let mut table = Table::new(columns);
    for worker in workers {
        table.row([
            visible(&worker.worker).into(),
            visible(&worker.host).into(),
            worker.until.map(|until| relative(until, now)).unwrap_or_default().into(),
            one_line(&worker.info.unwrap_or_default()).into(),
        ]);
    }
    output.line(table.text(&output.screen()))
}

async fn heartbeat(queue: &Queue, output: &Output, args: HeartbeatArgs) -> Result<(), Failure> {
    let host = args.host.unwrap_or_else(host);
    let on = queue.heartbeat(&args.worker, &host, &args.queue, args.info.as_deref(), args.stale_after).await?;
    output.either(&json!({ "on": on }), if on { "on" } else { "off" })
}

/// This machine's name.
fn host() -> String {
    #[cfg(unix)]
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    #[cfg(not(unix))]
    let name = crate::variables::variable("COMPUTERNAME").unwrap_or_else(|| "host".to_owned());
    name
}
