//! The commands that change jobs.

use backfill::{BackfillClient, Error, Job, JobId, Payload, Reschedule};
use serde_json::json;

use super::jobs;
use crate::args::{DiscardArgs, Global, IdsArgs, RemoveArgs, RescheduleArgs, UnlockArgs};
use crate::database;
use crate::failure::{Failure, failed};
use crate::nearest::unknown;
use crate::output::{Output, count_of};

pub async fn complete(global: &Global, output: &Output, args: &IdsArgs) -> Result<(), Failure> {
    let client = database::client(global).await?;
    let changed = in_chunks(output, &args.ids, |ids| client.complete(ids)).await?;
    tell(&client, output, "completed", &args.ids, &changed).await
}

pub async fn discard(global: &Global, output: &Output, args: &DiscardArgs) -> Result<(), Failure> {
    let client = database::client(global).await?;
    // An empty one would say nothing; Node says the same.
    let reason = if args.reason.is_empty() { "Manually marked as failed" } else { &args.reason };
    let changed = in_chunks(output, &args.ids.ids, |ids| client.discard(ids, reason)).await?;
    tell(&client, output, "discarded", &args.ids.ids, &changed).await
}

pub async fn reschedule(global: &Global, output: &Output, args: &RescheduleArgs) -> Result<(), Failure> {
    let client = database::client(global).await?;
    let mut change = Reschedule::new();
    if let Some(time) = args.run_at {
        change = change.run_at(time);
    }
    if let Some(delay) = args.delay {
        change = change.run_in(delay);
    }
    if let Some(priority) = args.priority {
        change = change.priority(priority);
    }
    if let Some(attempts) = args.attempts {
        change = change.attempts(attempts);
    }
    if let Some(attempts) = args.max_attempts {
        change = change.max_attempts(attempts);
    }
    let changed = in_chunks(output, &args.ids.ids, |ids| client.reschedule(ids, &change)).await?;
    tell(&client, output, "rescheduled", &args.ids.ids, &changed).await
}

pub async fn run_now(global: &Global, output: &Output, args: &IdsArgs) -> Result<(), Failure> {
    let client = database::client(global).await?;
    let changed = in_chunks(output, &args.ids, |ids| client.run_now(ids)).await?;
    tell(&client, output, "rescheduled", &args.ids, &changed).await
}

/// Changes jobs, not too many at once: each comes back whole. Payloads that are not going to be printed are let go.
async fn in_chunks<'i, F>(
    output: &Output,
    ids: &'i [JobId],
    change: impl Fn(&'i [JobId]) -> F,
) -> Result<Vec<Job>, Failure>
where
    F: Future<Output = Result<Vec<Job>, Error>>,
{
    const CHUNK: usize = 4;
    let mut changed = Vec::new();
    for chunk in ids.chunks(CHUNK) {
        let mut jobs = change(chunk).await?;
        if !output.is_json() {
            for job in &mut jobs {
                job.payload = Payload::empty();
            }
        }
        changed.extend(jobs);
    }
    Ok(changed)
}

/// Says what was changed, and of what was not, why.
async fn tell(
    client: &BackfillClient,
    output: &Output,
    done: &str,
    asked: &[JobId],
    changed: &[Job],
) -> Result<(), Failure> {
    let mut left = Vec::new();
    for id in asked.iter().filter(|id| !changed.iter().any(|job| job.id == **id)) {
        let why = match client.job(*id).await? {
            None => "there is no such job",
            Some(job) if job.locked_at.is_some() => "a worker holds it",
            Some(_) => "it changed meanwhile",
        };
        left.push((*id, why));
    }
    let now = database::now(client).await;
    if output.is_json() {
        let jobs: Vec<_> = changed.iter().map(|job| job.with_state_at(now)).collect();
        let left: Vec<_> = left.iter().map(|(id, why)| json!({ "id": id, "why": why })).collect();
        output.json(&json!({ "changed": jobs, "unchanged": left }))?;
    } else {
        if !changed.is_empty() {
            let ids: Vec<String> = changed.iter().map(|job| job.id.to_string()).collect();
            output.line(format!("{done} {}", ids.join(", ")))?;
        }
        for (id, why) in &left {
            output.line(format!("left {id} alone: {why}"))?;
        }
    }
    if left.is_empty() { Ok(()) } else { Err(Failure::Told) }
}

pub async fn remove(global: &Global, output: &Output, args: &RemoveArgs) -> Result<(), Failure> {
    let client = database::client(global).await?;
    let Some(job) = client.remove(&args.key).await? else {
        let problem = format!("no job has the key {:?}", args.key);
        return Err(failed(match jobs::similar_key(&client, &args.key).await? {
            Some(other) => format!("{problem}; did you mean {other:?}?"),
            None => problem,
        }));
    };
    // A running job loses its key; one that is gone is answered as it was.
    let text = if job.key.is_none() {
        format!("job {} is running; it keeps running, without its key and without further attempts", job.id)
    } else {
        format!("removed job {}", job.id)
    };
    output.either(&job.with_state_at(database::now(&client).await), text)
}

pub async fn unlock(global: &Global, output: &Output, args: UnlockArgs) -> Result<(), Failure> {
    let client = database::client(global).await?;
    let known = client.workers().await?;
    for worker in &args.workers {
        if !known.iter().any(|known| known.id == *worker) {
            return Err(failed(unknown("worker", worker, known.iter().map(|known| known.id.as_str()))));
        }
    }
    let jobs = client.unlock(args.workers).await?;
    output.either(&json!({ "jobs": jobs }), format!("released {}", count_of(jobs, "job")))
}
