//! Tables that fit the terminal.
//!
//! On a terminal no line is longer than it is wide: columns in which nothing stands are left out, and then the longest of those that may be
//! cut are, with an ellipsis. Elsewhere nothing is cut. What others have named shows its control characters, and obeys none.

use backfill::storage::{Number, Precision};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::output::one_line;
use crate::screen::{Screen, Style};

/// Blanks between columns.
const GAP: usize = 2;
/// No column is cut to less.
const LEAST: usize = 6;

/// One cell.
#[derive(Clone, Debug, Default)]
pub struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    pub fn new(text: impl AsRef<str>, style: Style) -> Self {
        Self { text: one_line(text.as_ref()), style }
    }

    /// A number that is worth a look unless it is none, with a mark unless it is exact.
    pub fn number(number: Number, style: Style) -> Self {
        Self::new(number_text(number), if number == Number::exact(0) { Style::Dim } else { style })
    }
}

/// A number with how well it is known: `7`, `10000+`, `≈7000000`, `?`.
pub fn number_text(number: Number) -> String {
    match number.precision {
        Precision::Exact => number.value.to_string(),
        Precision::AtLeast => format!("{}+", number.value),
        Precision::Estimated => format!("≈{}", number.value),
        _ => "?".to_owned(),
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::new(text, Style::Plain)
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::new(text, Style::Plain)
    }
}

/// How a column is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    /// To the right, and never cut.
    Number,
    /// To the left, and never cut.
    Fixed,
    /// To the left, and cut where there is no room.
    Text,
}

pub struct Table {
    columns: Vec<(&'static str, Column)>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub fn new(columns: impl IntoIterator<Item = (&'static str, Column)>) -> Self {
        Self { columns: columns.into_iter().collect(), rows: Vec::new() }
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The heading and the rows, without blanks at the ends of lines.
    pub fn lines(&self, screen: &Screen) -> Vec<String> {
        let heading: Vec<Cell> = self.columns.iter().map(|(name, _)| Cell::new(name, Style::Bold)).collect();
        let all: Vec<&[Cell]> = std::iter::once(&heading[..]).chain(self.rows.iter().map(Vec::as_slice)).collect();
        let width_of = |column: usize, rows: &[&[Cell]]| {
            rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.text.width()).max().unwrap_or(0)
        };
        let mut widths: Vec<usize> = (0..self.columns.len()).map(|column| width_of(column, &all)).collect();
        if let Some(width) = screen.width().filter(|width| whole(&widths) > *width) {
            for (column, kept) in widths.iter_mut().enumerate() {
                if self.columns[column].1 == Column::Text && width_of(column, &all[1..]) == 0 {
                    *kept = 0;
                }
            }
            self.narrow(&mut widths, width);
        }
        all.into_iter().map(|row| self.line(row, &widths, screen)).collect()
    }

    /// Takes from the widest of the columns that may be cut, until all fit.
    fn narrow(&self, widths: &mut [usize], most: usize) {
        let mut excess = whole(widths).saturating_sub(most);
        while excess > 0 {
            let may = |(place, width): &(usize, usize)| self.columns[*place].1 == Column::Text && *width > LEAST;
            let widest = widths.iter().copied().enumerate().filter(may).max_by_key(|(_, width)| *width);
            let Some((place, _)) = widest else { return };
            widths[place] -= 1;
            excess -= 1;
        }
    }

    fn line(&self, row: &[Cell], widths: &[usize], screen: &Screen) -> String {
        let mut line = String::new();
        // Blanks that are due before the next text.
        let (mut blanks, mut begun) = (0, false);
        let mut left = screen.width().unwrap_or(usize::MAX);
        for (place, cell) in row.iter().enumerate() {
            if widths[place] == 0 {
                continue;
            }
            if begun {
                blanks += GAP;
            }
            begun = true;
            // Off a terminal nothing is cut, whatever its width.
            let cut = if screen.width().is_some() {
                cut(&cell.text, widths[place].min(left.saturating_sub(blanks)))
            } else {
                cell.text.clone()
            };
            let width = cut.width();
            let pad = widths[place].saturating_sub(width);
            if self.columns[place].1 == Column::Number {
                blanks += pad;
            }
            if width > 0 {
                if blanks + width > left {
                    break;
                }
                line.extend(std::iter::repeat_n(' ', blanks));
                line += &screen.paint(cell.style, &cut);
                left -= blanks + width;
                blanks = 0;
            }
            if self.columns[place].1 != Column::Number {
                blanks += pad;
            }
        }
        line
    }

    /// The same as one text.
    pub fn text(&self, screen: &Screen) -> String {
        self.lines(screen).join("\n")
    }
}

/// How wide a line of columns so wide is. One without width is left out.
fn whole(widths: &[usize]) -> usize {
    let shown = widths.iter().filter(|width| **width > 0);
    shown.clone().sum::<usize>() + GAP * shown.count().saturating_sub(1)
}

/// As much of a text as this many columns have room for, with an ellipsis at the end if it is not all.
pub fn cut(text: &str, most: usize) -> String {
    if text.width() <= most {
        return text.to_owned();
    }
    let mut width = 0;
    let room = most.saturating_sub(1);
    let begin = text.chars().take_while(|char| {
        width += char.width().unwrap_or(0);
        width <= room
    });
    let mut cut: String = begin.collect();
    if most > 0 {
        cut.push('…');
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new([
            ("ID", Column::Number),
            ("TASK", Column::Text),
            ("STATE", Column::Fixed),
            ("ERROR", Column::Text),
        ]);
        table.row(["1".into(), "mail".into(), Cell::new("ready", Style::Good), "".into()]);
        table.row([
            "12".into(),
            "a_task_with_a_long_name".into(),
            "dead".into(),
            "it\x1b[2J failed for reasons that are long".into(),
        ]);
        table
    }

    fn terminal(columns: usize) -> Screen {
        Screen { size: Some((columns, 24)), colours: false }
    }

    #[test]
    fn off_a_terminal_nothing_is_cut() {
        let lines = table().lines(&Screen::default());
        assert_eq!(lines[0], "ID  TASK                     STATE  ERROR");
        assert_eq!(lines[1], " 1  mail                     ready");
        assert_eq!(lines[2], "12  a_task_with_a_long_name  dead   it\\u{1b}[2J failed for reasons that are long");
    }

    #[test]
    fn on_a_terminal_no_line_is_longer_than_it() {
        for columns in 1..120 {
            for line in table().lines(&terminal(columns)) {
                assert!(line.width() <= columns, "{columns}: {line:?}");
            }
        }
        let lines = table().lines(&terminal(40));
        assert_eq!(lines[2], "12  a_task_with_a…  dead   it\\u{1b}[2J …");
    }

    #[test]
    fn a_column_without_text_is_left_out_where_there_is_no_room_for_it() {
        let mut table = Table::new([("TASK", Column::Text), ("QUEUE", Column::Text), ("ID", Column::Number)]);
        table.row(["a_name_of_20_letters".into(), "".into(), "1".into()]);
        assert_eq!(table.lines(&terminal(80))[0], "TASK                  QUEUE  ID");
        assert_eq!(table.lines(&terminal(24)), ["TASK                  ID", "a_name_of_20_letters   1"]);
        assert_eq!(table.lines(&terminal(20)), ["TASK              ID", "a_name_of_20_le…   1"]);
    }

    #[test]
    fn wide_characters_count_as_two() {
        assert_eq!(cut("名前名前", 8), "名前名前");
        assert_eq!(cut("名前名前", 7), "名前名…");
        assert_eq!(cut("名前名前", 6), "名前…");
        assert_eq!(cut("abc", 0), "");
    }

    #[test]
    fn colours_take_no_room() {
        let screen = Screen { size: Some((40, 24)), colours: true };
        let (plain, painted) = (table().lines(&terminal(40)), table().lines(&screen));
        assert!(painted[1].contains("\x1b[32mready\x1b[0m"), "{painted:?}");
        let without = painted[1].replace("\x1b[32m", "").replace("\x1b[0m", "");
        assert_eq!(without, plain[1]);
    }
}
