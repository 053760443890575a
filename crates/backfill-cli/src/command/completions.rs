//! `backfill completions`.

use clap::CommandFactory;

use crate::args::{Args, CompletionsArgs};
use crate::failure::Failure;
use crate::output::Output;

pub fn run(output: &Output, args: &CompletionsArgs) -> Result<(), Failure> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Args::command(), "backfill", &mut text);
    output.line(String::from_utf8_lossy(&text).trim_end())
}
