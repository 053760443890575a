//! What can be said to `backfill messages`.

use std::str::FromStr;
use std::time::Duration;

use backfill::messages::Handle;
use chrono::{DateTime, Utc};
use clap::Subcommand;

use crate::value;

#[derive(clap::Args, Debug)]
#[command(after_help = "\
A message that is taken is held until its lease ends; then it is ready again. Whoever has its handle renews the lease, or ends the message. \
In PostgreSQL, messages are in the schema backfill_messages, unless --schema or BACKFILL_SCHEMA names another; what is missing is created.

A consumer in a shell:
  tab=$(printf '\\t')
  while true; do
    backfill messages take emails --text --wait 1h | while IFS=$tab read -r handle body; do
      if printf '%s' \"$body\" | ./send; then backfill messages ack \"$handle\" --event sent=true
      else backfill messages nack \"$handle\" --after 30s; fi
    done
  done

Exit status of `send`: 3 when the id was given before. Of `ack`, `nack` and `renew`: 4 when a claim does not stand any more. Of `take`: 0 also \
when nothing was ready; then it prints nothing.")]
pub struct MessagesArgs {
    /// The namespace: what one application sees; any string [default: BACKFILL_NAMESPACE, or the empty one]
    #[arg(short = 'n', long, global = true, value_name = "NAME")]
    pub namespace: Option<String>,
    #[command(subcommand)]
    pub command: MessagesCommand,
}

#[derive(Subcommand, Debug)]
pub enum MessagesCommand {
    /// Add a message, and print its id
    Send(SendArgs),
    /// Claim messages, and print the handle and the body of each
    Take(TakeArgs),
    /// A message is done
    Ack(AckArgs),
    /// Give a message back, or say that it has failed for good
    Nack(NackArgs),
    /// Let a lease last longer, from now on
    Renew(RenewArgs),
    /// Show what is known of messages, also after their end
    Show {
        /// The ids
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
    },
    /// Count the messages of queues
    Counts {
        /// The queues
        #[arg(required = true, value_name = "QUEUE")]
        queues: Vec<String>,
    },
    /// Print the events of a stream
    Events(EventsArgs),
    /// Switch hosts off and on for queues, or list what is off
    Control(ControlArgs),
    /// List the workers of a queue that are alive
    Workers {
        /// The queue
        queue: String,
    },
    /// Show that a worker is alive; print on or off, as its host is switched
    Heartbeat(HeartbeatArgs),
    /// Delete the messages of a queue that wait, or all of them
    Purge {
        /// The queue
        queue: String,
        /// Also those that are held, delayed or dead
        #[arg(long)]
        all: bool,
    },
    /// Delete everything of the namespace, also other programs' jobs whose task begins with it and ':'
    Drop {
        /// Yes, delete it
        #[arg(long, required = true)]
        yes: bool,
    },
}

#[derive(clap::Args, Debug)]
pub struct SendArgs {
    /// The queue
    pub queue: String,
    /// The body, as JSON; - reads it from standard input
    pub body: String,
    /// The body is text, not JSON
    #[arg(long)]
    pub text: bool,
    /// Its id; one that was given before is an error
    #[arg(long, value_name = "ID")]
    pub id: Option<String>,
    /// Its group: those that take in groups get these in order
    #[arg(long, value_name = "NAME")]
    pub group: Option<String>,
    /// Not before this time (RFC 3339; UTC if it has no zone)
    #[arg(long, value_name = "TIME", value_parser = value::time, conflicts_with = "delay")]
    pub run_at: Option<DateTime<Utc>>,
    /// Not before this much time has passed
    #[arg(long = "in", id = "delay", value_name = "DURATION", value_parser = value::duration)]
    pub delay: Option<Duration>,
    /// Smaller comes first [default: 0]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub priority: Option<i16>,
    /// How often it may be claimed [default: 25]
    #[arg(long, value_name = "N")]
    pub max_attempts: Option<u32>,
}

#[derive(clap::Args, Debug)]
pub struct TakeArgs {
    /// The queue
    pub queue: String,
    /// How long the lease lasts
    #[arg(long, value_name = "DURATION", value_parser = value::duration, default_value = "30s")]
    pub lease: Duration,
    /// How many, at the most
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value::up_to(10_000))]
    pub limit: usize,
    /// How long to wait until one is ready [default: not at all]
    #[arg(long, value_name = "DURATION", value_parser = value::duration)]
    pub wait: Option<Duration>,
    /// Who takes it, for lists [default: the host's name and the process]
    #[arg(long, value_name = "NAME")]
    pub worker: Option<String>,
    /// Of this host, whose switch must be on [default: this one's name]
    #[arg(long, value_name = "NAME")]
    pub host: Option<String>,
    /// Print bodies that are JSON texts without quotes and escapes; line breaks and tabs in them become blanks
    #[arg(long)]
    pub text: bool,
    /// Several of a group, in order, but none behind one that is held
    #[arg(long)]
    pub groups: bool,
}

#[derive(clap::Args, Debug)]
pub struct AckArgs {
    /// What `take` has printed
    #[arg(required = true, value_name = "HANDLE")]
    pub handles: Vec<Handle>,
    /// Append this event with each: both or neither
    #[arg(long, value_name = "STREAM=JSON")]
    pub event: Option<EventArg>,
    /// For how long its end is remembered: it can be shown, and its id is not given again
    #[arg(long, value_name = "DURATION", value_parser = value::duration, default_value = "24h")]
    pub retention: Duration,
}

#[derive(clap::Args, Debug)]
pub struct NackArgs {
    /// What `take` has printed
    #[arg(required = true, value_name = "HANDLE")]
    pub handles: Vec<Handle>,
    /// Ready again only after this much time [default: at once, where it stood]
    #[arg(long, value_name = "DURATION", value_parser = value::duration)]
    pub after: Option<Duration>,
    /// It has failed for good, because of this
    #[arg(long, value_name = "ERROR", conflicts_with = "after")]
    pub fail: Option<String>,
    /// Append this event with the failure: both or neither
    #[arg(long, value_name = "STREAM=JSON", requires = "fail")]
    pub event: Option<EventArg>,
    /// For how long a failure is remembered: it can be shown, and its id is not given again
    #[arg(long, value_name = "DURATION", value_parser = value::duration, default_value = "24h")]
    pub retention: Duration,
}

#[derive(clap::Args, Debug)]
pub struct RenewArgs {
    /// What `take` has printed
    #[arg(required = true, value_name = "HANDLE")]
    pub handles: Vec<Handle>,
    /// How long the lease lasts from now; 0s ends it
    #[arg(long, value_name = "DURATION", value_parser = value::duration, default_value = "30s")]
    pub lease: Duration,
}

#[derive(clap::Args, Debug)]
pub struct EventsArgs {
    /// The stream
    pub stream: String,
    /// After this position
    #[arg(long, value_name = "POSITION", default_value_t = 0)]
    pub since: u64,
    /// How many, at the most
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub limit: u32,
}

#[derive(clap::Args, Debug)]
pub struct ControlArgs {
    #[command(subcommand)]
    pub command: Option<ControlCommand>,
}

#[derive(Subcommand, Debug)]
pub enum ControlCommand {
    /// Let the host take nothing; it holds when this returns
    Off {
        /// The host; * is all
        host: String,
        /// The queue; * is all
        #[arg(default_value = "*")]
        queue: String,
        /// Who says so [default: the user]
        #[arg(long, value_name = "NAME")]
        by: Option<String>,
    },
    /// Let it be taken again
    On {
        /// The host; * is all
        host: String,
        /// The queue; * is all
        #[arg(default_value = "*")]
        queue: String,
    },
}

#[derive(clap::Args, Debug)]
pub struct HeartbeatArgs {
    /// The worker
    pub worker: String,
    /// The queue that it serves
    pub queue: String,
    /// Its host [default: this one's name]
    #[arg(long, value_name = "NAME")]
    pub host: Option<String>,
    /// What it says of itself
    #[arg(long, value_name = "TEXT")]
    pub info: Option<String>,
    /// For how long it counts as alive
    #[arg(long, value_name = "DURATION", value_parser = value::duration, default_value = "30s")]
    pub stale_after: Duration,
}

/// An event, as `STREAM=JSON`.
#[derive(Clone, Debug)]
pub struct EventArg {
    pub stream: String,
    pub payload: Box<serde_json::value::RawValue>,
}

impl FromStr for EventArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (stream, json) = text.split_once('=').ok_or("it looks like sent='{\"order\": 17}'")?;
        let payload = serde_json::from_str(json).map_err(|problem| format!("{json:?} is no JSON: {problem}"))?;
        Ok(Self { stream: stream.to_owned(), payload })
    }
}
