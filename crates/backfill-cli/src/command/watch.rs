//! `backfill stats --watch`.

use std::time::{Duration, Instant};

use backfill::storage::Effort;
use backfill::{BackfillClient, Error};

use super::inspect::tasks_table;
use super::stats::Look;
use crate::failure::Failure;
use crate::output::{Output, seconds, visible, wrapped};
use crate::screen::{Screen, Style};
use crate::table::{Column, Table, cut};
use crate::terminal::{Event, Events, FullScreen};
use crate::value::length;

/// After so long without an answer that is said.
const LATE: Duration = Duration::from_secs(3);
/// How often it is drawn anew meanwhile.
const REDRAW: Duration = Duration::from_secs(1);

/// Looks again and again, until somebody ends it.
pub async fn run(client: &BackfillClient, output: &Output, every: Duration, effort: Effort) -> Result<(), Failure> {
    if !output.is_json() && output.screen().can_move() {
        on_screen(client, output, every, effort).await
    } else {
        on_lines(client, output, every, effort).await
    }
}

/// One document or block after the other.
async fn on_lines(client: &BackfillClient, output: &Output, every: Duration, effort: Effort) -> Result<(), Failure> {
    let mut events = Events::new(false)?;
    let mut ticks = tokio::time::interval(every);
    let mut last: Option<Look> = None;
    loop {
        let look = async {
            ticks.tick().await;
            Look::take(client, effort).await
        };
        let look = tokio::select! {
            look = look => look?,
            event = events.end() => return event,
        };
        if output.is_json() {
            look.json(output)?;
        } else {
            let text = look.text_since(last.as_ref(), &output.screen());
            output.line(format!("{} UTC\n{text}\n", seconds(look.at)))?;
        }
        last = Some(look);
    }
}

/// In place, on a terminal. What was seen last stays there in the end.
async fn on_screen(client: &BackfillClient, output: &Output, every: Duration, effort: Effort) -> Result<(), Failure> {
    let mut watched = Watched {
        place: client.storage().name(),
        every,
        effort,
        looks: Vec::new(),
        trouble: None,
        asked: Instant::now(),
    };
    // The first failure is told as by any command.
    watched.looks.push(Look::take(client, effort).await?);
    let mut events = Events::new(true)?;
    let screen = FullScreen::enter()?;
    let ended = watched.show(client, output, &screen, &mut events).await;
    drop(screen);
    if let (Ok(()), Some(look)) = (&ended, watched.looks.last()) {
        output.line(format!("{} UTC\n{}", seconds(look.at), look.text(&output.screen())))?;
    }
    ended
}

struct Watched {
    place: String,
    every: Duration,
    effort: Effort,
    /// The last one or two.
    looks: Vec<Look>,
    /// Why the last look failed.
    trouble: Option<Error>,
    /// When it was last looked, or begun to.
    asked: Instant,
}

impl Watched {
    async fn show(
        &mut self,
        client: &BackfillClient,
        output: &Output,
        screen: &FullScreen,
        events: &mut Events,
    ) -> Result<(), Failure> {
        loop {
            screen.draw(&self.lines(&output.screen()))?;
            self.asked = Instant::now();
            let (every, effort) = (self.every, self.effort);
            let mut next = Box::pin(async move {
                tokio::time::sleep(every).await;
                Look::take(client, effort).await
            });
            let look = loop {
                tokio::select! {
                    look = &mut next => break look,
                    () = tokio::time::sleep(REDRAW) => if self.is_late() { screen.draw(&self.lines(&output.screen()))? },
                    event = events.next() => match event {
                        Event::Ended(how) => return how,
                        Event::Stopped => {
                            screen.stop()?;
                            screen.draw(&self.lines(&output.screen()))?;
                        }
                        Event::Resized => screen.draw(&self.lines(&output.screen()))?,
                    },
                }
            };
            match look {
                Ok(look) => {
                    self.trouble = None;
                    if self.looks.len() > 1 {
                        self.looks.remove(0);
                    }
                    self.looks.push(look);
                }
                // A server that restarts is waited for.
                Err(error) if error.is_transient() => self.trouble = Some(error),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn is_late(&self) -> bool {
        self.asked.elapsed() > self.every + LATE
    }

    /// No more lines than the screen has, none of them wider.
    fn lines(&self, screen: &Screen) -> Vec<String> {
        let (width, height) = screen.size.unwrap_or((80, 24));
        let [.., look] = &self.looks[..] else { return Vec::new() };
        let last = self.looks.len().checked_sub(2).and_then(|place| self.looks.get(place));
        let how = format!("{} UTC, every {}; q ends", seconds(look.at), humantime::format_duration(self.every));
        let mut top =
            vec![screen.paint(Style::Dim, &cut(&format!("{how}; {}", visible(&self.place)), width)), String::new()];
        top.extend(look.totals_since(last).lines(screen));
        top.push(String::new());
        let rates = last.and_then(|last| look.rates_since(last)).map(|rates| format!("; {rates}"));
        top.push(cut(&(look.workers_line() + &rates.unwrap_or_default()), width));
        let used = look.used();
        let mut warnings = Vec::new();
        if let Some(trouble) = &self.trouble {
            warnings.push(format!("could not look: {trouble}"));
        } else if self.is_late() {
            warnings.push(format!("no answer for {}", length(Duration::from_secs(self.asked.elapsed().as_secs()))));
        }
        warnings.extend(look.problems(&used));
        let room = height.saturating_sub(top.len());
        let bottom = warnings.iter().flat_map(|warning| {
            let text = wrapped(&visible(warning), Some(width), 0);
            text.lines().map(|line| cut(line, width)).collect::<Vec<_>>()
        });
        let bottom = first_of(bottom.collect(), (room / 3).max(1));
        // Workers get a third of the rest, if they need it, and tasks what is left.
        let room = room.saturating_sub(bottom.len() + usize::from(!bottom.is_empty()));
        let workers = workers_table(look).lines(screen);
        let workers =
            if look.workers.is_empty() { Vec::new() } else { fitting(workers, (room / 3).saturating_sub(1), "worker") };
        let room = room.saturating_sub(workers.len() + usize::from(!workers.is_empty()));
        let tasks = tasks_table(&used, &look.serving, look.at).lines(screen);
        let tasks = if used.is_empty() { Vec::new() } else { fitting(tasks, room.saturating_sub(1), "task") };
        let bottom: Vec<String> = bottom.iter().map(|line| screen.paint(Style::Warning, &cut(line, width))).collect();
        for section in [tasks, workers, bottom] {
            if !section.is_empty() {
                top.push(String::new());
                top.extend(section);
            }
        }
        top.truncate(height);
        top
    }
}

/// As many of these rows, behind their heading, as there is room for, and how many more there are; or nothing, where that alone would be said.
fn fitting(mut lines: Vec<String>, room: usize, what: &str) -> Vec<String> {
    if lines.len() <= room {
        return lines;
    }
    if room < 3 {
        return Vec::new();
    }
    let more = lines.len() - (room - 1);
    lines.truncate(room - 1);
    lines.push(format!("… and {more} more {what}{}", if more == 1 { "" } else { "s" }));
    lines
}

/// The first of these lines, with an ellipsis if there are more.
fn first_of(mut lines: Vec<String>, room: usize) -> Vec<String> {
    if lines.len() > room {
        lines.truncate(room);
        if let Some(last) = lines.last_mut() {
            *last = format!("{} …", last.trim_end_matches(['.', ' ']));
        }
    }
    lines
}

fn workers_table(look: &Look) -> Table {
    let columns =
        [("WORKER", Column::Text), ("JOBS", Column::Number), ("LAST SEEN", Column::Fixed), ("TASKS", Column::Text)];
    let mut table = Table::new(columns);
    let mut workers: Vec<_> = look.workers.iter().collect();
    workers.sort_by_key(|worker| std::cmp::Reverse(worker.jobs));
    for worker in workers {
        let seen = worker.last_seen_ago.map(|ago| format!("{} ago", length(Duration::from_secs(ago.as_secs()))));
        table.row([
            worker.id.as_str().into(),
            worker.jobs.to_string().into(),
            seen.unwrap_or_default().into(),
            worker.tasks.clone().unwrap_or_default().join(" ").into(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_without_room_are_counted() {
        let lines = || (0..5).map(|n| n.to_string()).collect::<Vec<_>>();
        assert_eq!(fitting(lines(), 5, "task"), lines());
        assert_eq!(fitting(lines(), 4, "task"), ["0", "1", "2", "… and 2 more tasks"]);
        assert!(fitting(lines(), 2, "task").is_empty());
        assert_eq!(first_of(lines(), 2), ["0", "1 …"]);
        assert_eq!(first_of(lines(), 5), lines());
    }

    #[tokio::test]
    async fn a_picture_is_never_larger_than_the_screen() {
        let client = BackfillClient::in_memory();
        for n in 0..40 {
            let task = format!("a_task_with_a_long_name_{n}");
            client.add(backfill::JobSpec::new(task, n)).await.expect("add");
        }
        let mut watched = Watched {
            effort: Effort::Exact,
            place: "memory".to_owned(),
            every: Duration::from_secs(2),
            looks: vec![
                Look::take(&client, Effort::Exact).await.expect("look"),
                Look::take(&client, Effort::Exact).await.expect("look"),
            ],
            trouble: None,
            asked: Instant::now(),
        };
        for _ in 0..2 {
            for (width, height) in [(80, 24), (40, 10), (200, 60), (20, 5), (1, 1), (80, 60)] {
                let lines = watched.lines(&Screen { size: Some((width, height)), colours: false });
                assert!(lines.len() <= height, "{width}x{height}: {lines:#?}");
                let widest = lines.iter().map(|line| unicode_width::UnicodeWidthStr::width(line.as_str())).max();
                assert!(widest <= Some(width), "{width}x{height}: {lines:#?}");
            }
            watched.trouble = Some(Error::Internal("the server has gone\nfor reasons".to_owned()));
        }
        let lines = watched.lines(&Screen { size: Some((80, 24)), colours: false });
        assert!(lines.iter().any(|line| line.ends_with(" more tasks")), "{lines:#?}");
        assert!(lines.iter().any(|line| line.contains("the server has gone")), "{lines:#?}");
    }
}
