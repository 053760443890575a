//! `backfill man`.

use clap::{Command, CommandFactory};
use clap_mangen::Man;

use crate::args::{Args, ManArgs};
use crate::failure::{Failure, failed};
use crate::nearest::unknown;
use crate::output::Output;

pub fn run(output: &Output, args: &ManArgs) -> Result<(), Failure> {
    let program = whole(Args::command());
    if let Some(directory) = &args.all {
        return clap_mangen::generate_to(program, directory)
            .map_err(|error| failed(format!("could not write to {}: {error}", directory.display())));
    }
    // Without the command `help`, of which nobody looks for a page.
    let mut program = program.disable_help_subcommand(true);
    program.build();
    let page = match &args.command {
        None => program,
        Some(name) => {
            let known = program.get_subcommands().map(Command::get_name);
            let wrong = || Failure::Usage(unknown("command", name, known));
            program.find_subcommand(name).cloned().ok_or_else(wrong)?
        }
    };
    let mut text = Vec::new();
    Man::new(page).render(&mut text)?;
    output.line(String::from_utf8_lossy(&text).trim_end())
}

/// With everything that the short help leaves out.
fn whole(command: Command) -> Command {
    let names: Vec<String> = command.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    let command = command.mut_args(|option| option.hide_short_help(false));
    names.into_iter().fold(command, |command, name| command.mut_subcommand(name, whole))
}
