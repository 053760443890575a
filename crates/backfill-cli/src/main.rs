//! `backfill`: the queue's command line.
//!
//! | file | what it does |
//! | --- | --- |
//! | `args` | what can be said on the command line |
//! | `database` | which storage is meant, and how secrets stay secret |
//! | `variables` | what the environment says of the database |
//! | `first` | what falls to the first process of a container |
//! | `failure` | what ends the program early, and its exit status |
//! | `logging` | the log, on standard error; short lines on a terminal |
//! | `output` | what is printed, for people and for machines |
//! | `screen` | whether a terminal is there, how large it is, and colours |
//! | `table` | tables that fit it |
//! | `terminal` | drawing in place, keys and signals, for what is watched |
//! | `nearest` | the known name that was probably meant |
//! | `serving` | which tasks live workers run, and which jobs wait for nobody |
//! | `value` | durations, times and the like, as people write them |
//! | `command` | one file for each command |
//! | `executable` | tasks that are programs in a directory |

mod args;
mod command;
mod database;
mod executable;
mod failure;
mod first;
mod logging;
mod nearest;
mod output;
mod screen;
mod serving;
mod table;
mod terminal;
mod value;
mod variables;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

use args::{Args, Command};
use failure::Failure;
use output::Output;

fn main() -> ExitCode {
    let color = screen::color_of_arguments(std::env::args_os().skip(1));
    if let Err(failure) = database::hide_password_of_arguments() {
        return failure.report(false, color);
    }
    let args = match parse(color) {
        Ok(args) => args,
        Err(error) => {
            if error.use_stderr() && std::env::args_os().any(|argument| argument == "--json") {
                let text = error.render().to_string();
                return Failure::Usage(text.trim().trim_start_matches("error: ").to_owned()).report(true, color);
            }
            // Help and version are no errors. A closed pipe is nobody's fault.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(failure::USAGE));
        }
    };
    let (json, color) = (args.global.json, args.global.color);
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(json, color),
    }
}

fn parse(color: clap::ColorChoice) -> Result<Args, clap::Error> {
    let mut command = Args::command().color(color);
    let matches = command.try_get_matches_from_mut(std::env::args_os())?;
    Args::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

fn run(args: Args) -> Result<(), Failure> {
    let Args { global, command } = args;
    logging::start(&global, &command);
    let output = Output::new(global.json, global.color);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    // It names two places.
    let moves = matches!(command, Command::Move(_));
    let handles_signals = matches!(command, Command::Worker(_));
    let work = async {
        let done = match command {
            Command::Migrate(args) => command::migrate::run(&global, &output, &args).await,
            Command::Worker(args) => command::worker::run(&global, &output, args).await,
            Command::Add(args) => command::add::run(&global, &output, args).await,
            Command::Jobs(args) => command::jobs::list(&global, &output, args).await,
            Command::Job(args) => command::jobs::show(&global, &output, &args).await,
            Command::Complete(args) => command::manage::complete(&global, &output, &args).await,
            Command::Discard(args) => command::manage::discard(&global, &output, &args).await,
            Command::Reschedule(args) => command::manage::reschedule(&global, &output, &args).await,
            Command::RunNow(args) => command::manage::run_now(&global, &output, &args).await,
            Command::Remove(args) => command::manage::remove(&global, &output, &args).await,
            Command::Unlock(args) => command::manage::unlock(&global, &output, args).await,
            Command::Queues(args) => command::inspect::queues(&global, &output, args).await,
            Command::Tasks(args) => command::inspect::tasks(&global, &output, args).await,
            Command::Workers(args) => command::inspect::workers(&global, &output, args).await,
            Command::Crontabs => command::inspect::crontabs(&global, &output).await,
            Command::Stats(args) => command::stats::run(&global, &output, args).await,
            Command::Cleanup(args) => command::cleanup::run(&global, &output, args).await,
            Command::Crontab(args) => command::crontab::run(&output, &args.command),
            Command::Move(args) => command::transfer::run(&global, &output, &args).await,
            Command::Messages(args) => command::messages::run(&global, &output, *args).await,
            Command::Workflow(args) => command::workflow::run(&global, &output, *args).await,
            #[cfg(feature = "ui")]
            Command::Ui(args) => command::ui::run(&global, &output, args).await,
            Command::Doctor(args) => command::doctor::run(&global, &output, args).await,
            Command::Completions(args) => command::completions::run(&output, &args),
            Command::Man(args) => command::man::run(&output, &args),
        };
        match done {
            Err(Failure::NoQueue { storage, .. }) if !moves => {
                let elsewhere = database::elsewhere(&database::storage(&global).await?).await;
                Err(Failure::NoQueue { storage, elsewhere })
            }
            done => done,
        }
    };
    let done = runtime
        .block_on(async { if handles_signals { work.await } else { Box::pin(first::unless_ended(work)).await } });
    // What still runs in the background, such as a connection that is being closed, must not keep the program alive.
    runtime.shutdown_background();
    done
}
