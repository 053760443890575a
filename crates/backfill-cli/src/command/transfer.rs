//! `backfill move`: what the library's [`Move`] does, for people.

use std::io::{self, Write};

use backfill::Error;
use backfill::moving::{Move, Moved};
use indicatif::{ProgressBar, ProgressStyle};

use crate::args::{Global, MoveArgs};
use crate::database;
use crate::failure::{Failure, failed};
use crate::output::{Output, count_of};

pub async fn run(global: &Global, output: &Output, args: &MoveArgs) -> Result<(), Failure> {
    let (here, there) =
        (database::identity(global, args.from.as_deref())?, database::identity(global, Some(&args.to))?);
    if here == there {
        return Err(Failure::Usage(SAME.to_owned()));
    }
    if there.starts_with("memory") {
        return Err(Failure::Usage(
            "--to is memory:, which ends with this program; name a database or a file".to_owned(),
        ));
    }
    let have_schemas =
        [database::has_schemas(global, args.from.as_deref())?, database::has_schemas(global, Some(&args.to))?];
    // Where only one of them has schemas, the name is meant for that one.
    let [of_here, of_there] = have_schemas.map(|has_schemas| {
        let mut global = global.clone();
        global.schema = global.schema.filter(|_| has_schemas || have_schemas == [false, false]);
        global
    });
    let from = database::reached_at(&of_here, args.from.as_deref()).await?;
    let to = database::reached_at(&of_there, Some(&args.to)).await?;
    database::check(&from).await?;
    let names = (from.name(), to.name());
    let moving = Move::new(from, &here, to.clone(), &there);
    // Fails here if it may not be looked at, before anything is made there.
    let others = moving.others().await?;
    to.migrate().await?;
    for other in others {
        let jobs = count_of(other.jobs, "job");
        // If it cannot be said, they stay where they are all the same.
        let _ =
            writeln!(io::stderr(), "note: {jobs} are held by {}, which was interrupted; run that move again", other.id);
    }
    let moved = run_with_progress(moving).await?;
    if moved.interrupted {
        return Err(failed(format!(
            "interrupted; {} were moved; run it again for the rest",
            count_of(moved.moved, "job")
        )));
    }
    tell(output, &moved, &names)
}

const SAME: &str = "--from and --to are the same place";

/// Shows how far it has come, and ends it by Ctrl-C.
async fn run_with_progress(moving: Move) -> Result<Moved, Failure> {
    let progress = ProgressBar::new(0);
    let style = ProgressStyle::with_template("{bar:30} {pos} of {len} jobs, {eta} left");
    progress.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let (interrupt, id) = (moving.interrupt(), moving.id().to_owned());
    let signal = async {
        if tokio::signal::ctrl_c().await.is_ok() {
            interrupt.interrupt();
        }
        std::future::pending().await
    };
    let show = progress.clone();
    let moved = tokio::select! {
        moved = moving.run(move |at| {
            show.set_length(at.of);
            show.set_position(at.done);
        }) => moved,
        never = signal => never,
    };
    progress.finish_and_clear();
    moved.map_err(|error| match error {
        Error::SamePlace => Failure::Usage(SAME.to_owned()),
        Error::MoveUnderWay { .. } => error.into(),
        error => explained(error.into(), &id),
    })
}

/// Says what to do about what is on its way.
fn explained(failure: Failure, id: &str) -> Failure {
    let note = format!(
        "\nwhat was on its way is out of reach, under the name {id}; run this again when that is mended (do not unlock it: some \
         may have arrived)"
    );
    match failure {
        Failure::Failed(message) => Failure::Failed(message + &note),
        Failure::Usage(message) => Failure::Usage(message + &note),
        other => other,
    }
}

fn tell(output: &Output, moved: &Moved, (from, to): &(String, String)) -> Result<(), Failure> {
    if output.is_json() {
        return output.json(moved);
    }
    let Moved { moved, key_taken, left_running, left_dead, .. } = moved;
    output.line(format!("moved {} from {from} to {to}", count_of(*moved, "job")))?;
    if !key_taken.is_empty() {
        let ids: Vec<String> = key_taken.iter().take(20).map(ToString::to_string).collect();
        let more = if key_taken.len() > ids.len() { ", …" } else { "" };
        output.line(format!(
            "{} stay, because a job there has their key: {}{more}",
            key_taken.len(),
            ids.join(", ")
        ))?;
    }
    if left_running + left_dead > 0 {
        output.line(format!("{left_running} running and {left_dead} dead jobs stay; only waiting ones are moved"))?;
    }
    Ok(())
}
