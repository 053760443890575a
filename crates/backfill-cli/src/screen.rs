//! Whether a terminal is there, how large it is, and colours.

use std::env;
use std::ffi::OsString;
use std::io::{IsTerminal, stderr, stdout};

use clap::{ColorChoice, ValueEnum};
use terminal_size::{Height, Width, terminal_size_of};

use crate::variables::variable;

/// What is written to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Screen {
    /// Columns and lines, of a terminal. Off a terminal nothing is ever cut.
    pub size: Option<(usize, usize)>,
    pub colours: bool,
}

impl Screen {
    /// Standard output, as it is now.
    pub fn out(color: ColorChoice) -> Self {
        let terminal = stdout().is_terminal();
        let size = terminal_size_of(stdout()).filter(|_| terminal);
        Self {
            size: size.map(|(Width(columns), Height(lines))| (usize::from(columns), usize::from(lines))),
            colours: colours(color, terminal),
        }
    }

    /// Standard error, as it is now.
    pub fn err(color: ColorChoice) -> Self {
        let terminal = stderr().is_terminal();
        let size = terminal_size_of(stderr()).filter(|_| terminal);
        Self {
            size: size.map(|(Width(columns), Height(lines))| (usize::from(columns), usize::from(lines))),
            colours: colours(color, terminal),
        }
    }

    pub fn width(&self) -> Option<usize> {
        self.size.map(|(columns, _)| columns).filter(|columns| *columns > 0)
    }

    /// Whether it can be drawn in place.
    pub fn can_move(&self) -> bool {
        self.width().is_some() && env::var_os("TERM").is_none_or(|term| term != "dumb")
    }

    /// The text in this style, if there are colours.
    pub fn paint(&self, style: Style, text: &str) -> String {
        if self.colours && style != Style::Plain && !text.is_empty() {
            format!("\x1b[{}m{text}\x1b[0m", style.code())
        } else {
            text.to_owned()
        }
    }
}

/// How something looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Style {
    #[default]
    Plain,
    Bold,
    /// What says little.
    Dim,
    /// What goes well.
    Good,
    /// What waits for its time.
    Waiting,
    /// What may need somebody.
    Warning,
    /// What needs somebody.
    Bad,
}

impl Style {
    fn code(self) -> &'static str {
        match self {
            Self::Plain => "0",
            Self::Bold => "1",
            Self::Dim => "2",
            Self::Good => "32",
            Self::Waiting => "36",
            Self::Warning => "33",
            Self::Bad => "1;31",
        }
    }
}

/// Whether there are colours: as the option says, or else the environment, or else on a terminal.
fn colours(color: ColorChoice, terminal: bool) -> bool {
    match color {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto if variable("NO_COLOR").is_some() => false,
        ColorChoice::Auto if variable("CLICOLOR_FORCE").is_some_and(|value| value != "0") => true,
        ColorChoice::Auto if env::var("CLICOLOR").is_ok_and(|value| value == "0") => false,
        ColorChoice::Auto => terminal && (cfg!(windows) || env::var("TERM").is_ok_and(|value| value != "dumb")),
    }
}

/// What the arguments say of colours, before anything else is known of them: help and errors have colours too.
pub fn color_of_arguments(arguments: impl Iterator<Item = OsString>) -> ColorChoice {
    let mut color = ColorChoice::Auto;
    let mut after = false;
    for argument in arguments {
        let Some(argument) = argument.to_str() else { continue };
        if argument == "--" {
            break;
        }
        let value = argument.strip_prefix("--color=").or_else(|| after.then_some(argument));
        color = value.and_then(|value| ColorChoice::from_str(value, false).ok()).unwrap_or(color);
        after = argument == "--color";
    }
    color
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_say_when_there_are_colours() {
        let of = |arguments: &[&str]| color_of_arguments(arguments.iter().map(|argument| (*argument).into()));
        assert_eq!(of(&["jobs"]), ColorChoice::Auto);
        assert_eq!(of(&["jobs", "--color", "never"]), ColorChoice::Never);
        assert_eq!(of(&["--color=always", "jobs"]), ColorChoice::Always);
        assert_eq!(of(&["add", "t", "--", "--color=always"]), ColorChoice::Auto);
        assert_eq!(of(&["--color=sometimes", "never"]), ColorChoice::Auto, "it is refused later");
        assert!(colours(ColorChoice::Always, false) && !colours(ColorChoice::Never, true));
    }

    #[test]
    fn text_is_painted_only_where_there_are_colours() {
        let screen = Screen { size: None, colours: true };
        assert_eq!(screen.paint(Style::Bad, "dead"), "\x1b[1;31mdead\x1b[0m");
        assert_eq!(screen.paint(Style::Plain, "ready"), "ready");
        assert_eq!(Screen::default().paint(Style::Bad, "dead"), "dead");
    }
}
