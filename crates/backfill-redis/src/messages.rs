//! Lines, leases, units, documents and events.

mod unit;

use std::time::Duration;

use async_trait::async_trait;
use backfill_core::Result;
use backfill_core::job::limits::MAX_DELAY;
use backfill_core::job::{Job, JobId};
use backfill_core::storage::Storage;
use backfill_core::storage::messages::{
    Applied, Depth, Document, DocumentKey, Ended, Event, Holder, Lease, Messages, News, Purge, Receipt, Take, Taken,
    TakenJob, Unit, check_units,
};
use chrono::{DateTime, Utc};
use futures::stream::BoxStream;
use redis::Value;

use crate::answer;
use crate::codec;
use crate::commit::read_fields;
use crate::consumer::token;
use crate::errors::odd;
use crate::keys::Key;
use crate::link::Args;
use crate::scripts::{DEPTHS, DOCUMENTS, END_LEASES, INDEX_GROUPS, PEEK, PURGE, RENEW, SWEEP, TAKE, TRIM};
use crate::{RedisStorage, wakeups};

/// How much one part of something long does.
const PART: usize = 1_000;

#[async_trait]
impl Messages for RedisStorage {
    async fn take(&self, request: &Take<'_>) -> Result<Taken> {
        const ACTION: &str = "take messages";
        request.check()?;
        let mut answered = self.link.run(ACTION, &TAKE, take_args(request)).await?;
        while answered == Value::Int(0) {
            // The first take in line of this namespace makes the index of groups, in parts.
            while self.link.run(ACTION, &INDEX_GROUPS, Args::new()).await? == Value::Int(0) {}
            answered = self.link.run(ACTION, &TAKE, take_args(request)).await?;
        }
        let read = || {
            let [stopped, taken] = answer::parts(answered)?;
            if stopped != Value::Nil {
                return Some(Taken::stopped_by(codec::document_key(&answer::bytes(stopped)?)?));
            }
            let taken = jobs(taken)?.into_iter().map(|job| {
                let hold = request.hold(&job, token(job.locked_at?));
                Some(TakenJob::new(job, hold))
            });
            Some(Taken::jobs(taken.collect::<Option<_>>()?))
        };
        read().ok_or_else(|| odd(ACTION))
    }

    async fn renew(&self, leases: &[(Receipt, Duration)]) -> Result<Vec<JobId>> {
        const ACTION: &str = "renew leases";
        leases.iter().try_for_each(|(_, lasts)| Lease::check_time(*lasts))?;
        let mut args = Args::with_capacity(3 * leases.len());
        for (receipt, lasts) in leases {
            args.push(codec::id(receipt.id).to_vec());
            args.push(Lease::holder(receipt.tag, "").into_bytes());
            args.push(lasts.as_micros().to_string().into_bytes());
        }
        let answered = self.link.run(ACTION, &RENEW, args).await?;
        ids(answered).ok_or_else(|| odd(ACTION))
    }

    async fn end_leases(&self, of: Option<&[JobId]>) -> Result<Ended> {
        const ACTION: &str = "end leases";
        let mut ended: Vec<JobId> = Vec::new();
        loop {
            let args = match of {
                None => vec![b"all".to_vec(), PART.to_string().into_bytes()],
                Some(ids) => {
                    let ids = ids.iter().map(|id| codec::id(*id).to_vec());
                    [b"these".to_vec()].into_iter().chain(ids).collect()
                }
            };
            let answered = self.link.run(ACTION, &END_LEASES, args).await?;
            let read = || {
                let [these, next] = answer::parts(answered)?;
                let next = if next == Value::Nil { None } else { Some(answer::time(next)?) };
                Some((ids(these)?, next))
            };
            let (these, next) = read().ok_or_else(|| odd(ACTION))?;
            let is_all = of.is_some() || these.len() < PART;
            ended.extend(these);
            if is_all {
                return Ok(Ended::new(ended, next));
            }
        }
    }

    async fn apply(&self, units: &[Unit]) -> Result<Vec<Applied>> {
        check_units(units)?;
        self.apply_units(units).await
    }

    async fn documents(&self, kind: &str, prefix: &str, after: Option<&str>, limit: u32) -> Result<Vec<Document>> {
        const ACTION: &str = "read documents";
        let field = |key: &str| codec::field(&DocumentKey::new(kind, key));
        // What stands before the prefix does not begin with it.
        let mut after = after.filter(|after| *after >= prefix).map(field).unwrap_or_default();
        let mut documents = Vec::new();
        loop {
            let rest = limit as usize - documents.len();
            let args = vec![field(prefix), after, rest.to_string().into_bytes()];
            let answered = self.link.run(ACTION, &DOCUMENTS, args).await?;
            let read = || {
                let mut found = answer::list(answered)?.into_iter();
                let next = match found.next()? {
                    Value::Nil => None,
                    field => Some(answer::bytes(field)?),
                };
                let found = found.map(answer::bytes).collect::<Option<Vec<_>>>()?;
                let these = found.chunks_exact(2).map(|pair| codec::document(&pair[0], &pair[1]));
                Some((next, these.collect::<Option<Vec<Document>>>()?))
            };
            let (next, these) = read().ok_or_else(|| odd(ACTION))?;
            documents.extend(these);
            match next {
                Some(next) if documents.len() < limit as usize => after = next,
                _ => return Ok(documents),
            }
        }
    }

    async fn document(&self, key: &DocumentKey) -> Result<Option<Document>> {
        const ACTION: &str = "read a document";
        let field = codec::field(key);
        let kept = read_fields(ACTION, &self.link, Key::Docs, std::slice::from_ref(&field)).await?.pop().flatten();
        let Some(kept) = kept else { return Ok(None) };
        let document = codec::document(&field, &kept).ok_or_else(|| odd(ACTION))?;
        // Only what has an end needs to be asked whether that has come.
        let is_there = document.until.is_none() || document.is_there(self.now().await?);
        Ok(is_there.then_some(document))
    }

    async fn events(&self, stream: &str, since: u64, limit: u32) -> Result<Vec<Event>> {
        const ACTION: &str = "read events";
        if since == u64::MAX || limit == 0 {
            return Ok(Vec::new());
        }
        let mut command = redis::cmd("XRANGE");
        command.arg(self.link.keys().stream(stream)).arg(since + 1).arg("+").arg("COUNT").arg(limit);
        let answered: Value = self.link.read(ACTION, &command).await?;
        let read = || {
            let events = answer::list(answered)?.into_iter().map(|entry| event(stream, entry));
            events.collect()
        };
        let events: Option<Vec<Event>> = read();
        events.ok_or_else(|| odd(ACTION))
    }

    async fn trim_events(&self, stream: &str, upto: u64) -> Result<u64> {
        const ACTION: &str = "forget events";
        let args = vec![stream.into(), upto.saturating_add(1).to_string().into_bytes()];
        let answered = self.link.run_with(ACTION, &TRIM, &[self.link.keys().stream(stream)], args).await?;
        count(&answered).ok_or_else(|| odd(ACTION))
    }

    async fn streams(&self, prefix: &str) -> Result<Vec<String>> {
        const PAGE: usize = 1_000;
        let mut streams: Vec<String> = Vec::new();
        let mut from = format!("[{prefix}");
        loop {
            let mut command = redis::cmd("ZRANGEBYLEX");
            command.arg(self.link.keys().get(Key::Streams)).arg(&from).arg("+").arg("LIMIT").arg(0).arg(PAGE);
            let page: Vec<String> = self.link.read("read the streams", &command).await?;
            let Some(last) = page.last() else { return Ok(streams) };
            from = format!("({last}");
            let count = page.len();
            let before = streams.len();
            streams.extend(page.into_iter().take_while(|stream| stream.starts_with(prefix)));
            if streams.len() - before < count || count < PAGE {
                return Ok(streams);
            }
        }
    }

    async fn depths(&self, lines: &[String], cap: u32) -> Result<Vec<Depth>> {
        const ACTION: &str = "count messages";
        let args = lines.iter().map(|line| line.clone().into_bytes()).collect();
        let answered = self.link.run(ACTION, &DEPTHS, args).await?;
        let read = || {
            let counts = answer::list(answered)?;
            let depths = lines.iter().zip(counts).map(|(line, counts)| {
                let [ready, delayed, held] = answer::parts(counts)?.map(|number| count(&number));
                Some(Depth::new(line, [ready?, delayed?, held?], cap))
            });
            depths.collect()
        };
        let depths: Option<Vec<Depth>> = read();
        depths.ok_or_else(|| odd(ACTION))
    }

    async fn purge(&self, line: &str, what: Purge) -> Result<u64> {
        let now = self.now().await?;
        let (what, moment, places): (&str, DateTime<Utc>, &[&str]) = match what {
            Purge::ReadyBefore(time) => ("ready", time.min(now), &["lines", "flagged", "queued"]),
            // What came after the call began stays, or it might never end.
            Purge::All => ("all", now, &["lines", "flagged", "queued", "dead", "held"]),
            _ => ("ready", now, &["lines", "flagged", "queued"]),
        };
        let mut gone = 0;
        for place in places {
            gone += self.purge_place(place, line, what, moment).await?;
        }
        Ok(gone)
    }

    async fn peek(&self, line: &str, limit: u32) -> Result<Vec<Job>> {
        const ACTION: &str = "look at messages";
        let args = vec![line.into(), limit.to_string().into_bytes()];
        let answered = self.link.run(ACTION, &PEEK, args).await?;
        jobs(answered).ok_or_else(|| odd(ACTION))
    }

    async fn sweep_documents(&self, limit: u32) -> Result<u64> {
        const ACTION: &str = "forget documents";
        let answered = self.link.run(ACTION, &SWEEP, vec![limit.to_string().into_bytes()]).await?;
        count(&answered).ok_or_else(|| odd(ACTION))
    }

    fn news(&self) -> BoxStream<'static, News> {
        wakeups::of_messages(self.link.again())
    }
}

impl RedisStorage {
    async fn purge_place(&self, place: &str, line: &str, what: &str, moment: DateTime<Utc>) -> Result<u64> {
        const ACTION: &str = "purge a line";
        let (mut gone, mut come) = (0, Vec::new());
        loop {
            let part = PART.to_string().into_bytes();
            let args = vec![place.into(), line.into(), come, part, what.into(), codec::moment(moment).to_vec()];
            let answered = self.link.run(ACTION, &PURGE, args).await?;
            let read = || {
                let [gone, next] = answer::parts(answered)?;
                let next = if next == Value::Nil { None } else { Some(answer::bytes(next)?) };
                Some((count(&gone)?, next))
            };
            let (these, next) = read().ok_or_else(|| odd(ACTION))?;
            gone += these;
            match next {
                None => return Ok(gone),
                Some(next) => come = next,
            }
        }
    }
}

fn take_args(request: &Take<'_>) -> Args {
    let number = |number: usize| number.to_string().into_bytes();
    let flag = |flag: bool| if flag { b"1".to_vec() } else { b"0".to_vec() };
    let (is_lease, lasts) = match request.holder {
        Holder::Worker(_) => (false, Duration::ZERO),
        Holder::Lease { lasts, .. } => (true, lasts.min(MAX_DELAY)),
    };
    let mut args: Args = vec![
        request.holder_name().into_bytes(),
        flag(is_lease),
        lasts.as_micros().to_string().into_bytes(),
        number(request.max_bytes),
        request.ready_by.map(|time| codec::moment(time).to_vec()).unwrap_or_default(),
        flag(request.in_line),
        number(request.unless.len()),
    ];
    args.extend(request.unless.iter().map(codec::field));
    args.push(number(request.lines.len()));
    for (line, limit) in request.lines {
        args.push(line.clone().into_bytes());
        args.push(number(*limit));
    }
    args
}

/// Id, what is kept, and payload, one after the other.
fn jobs(value: Value) -> Option<Vec<Job>> {
    let mut parts = answer::list(value)?.into_iter();
    let mut jobs = Vec::with_capacity(parts.len() / 3);
    while let (Some(id), Some(kept), Some(payload)) = (parts.next(), parts.next(), parts.next()) {
        jobs.push(codec::job(&answer::bytes(id)?, &answer::bytes(kept)?, codec::payload(answer::bytes(payload)?))?);
    }
    Some(jobs)
}

fn ids(value: Value) -> Option<Vec<JobId>> {
    answer::list(value)?.into_iter().map(|id| codec::job_id(&answer::bytes(id)?)).collect()
}

fn count(value: &Value) -> Option<u64> {
    answer::number(value)?.try_into().ok()
}

/// An entry of a stream: its position, when it was appended, its payload.
fn event(stream: &str, entry: Value) -> Option<Event> {
    let [id, fields] = answer::parts(entry)?;
    let id = String::from_utf8(answer::bytes(id)?).ok()?;
    let position = id.split('-').next()?.parse().ok()?;
    let [_, at, _, payload] = answer::parts(fields)?.map(answer::bytes);
    let at: i64 = String::from_utf8(at?).ok()?.parse().ok()?;
    Some(Event::new(position, stream.to_owned(), DateTime::from_timestamp_micros(at)?, codec::payload(payload?)))
}
