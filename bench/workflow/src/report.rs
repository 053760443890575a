//! The tables.

use std::collections::BTreeMap;

use comfy_table::{CellAlignment, Table, presets};

use crate::cases::Case;

pub type Figures = BTreeMap<String, f64>;

/// The figures of one contestant, turn by turn.
#[derive(Default)]
pub struct Turns {
    /// In order of appearance.
    who: Vec<String>,
    turns: Vec<(String, usize, Figures)>,
    failures: Vec<String>,
}

/// The median, the least and the most.
fn spread(mut figures: Vec<f64>) -> Option<[f64; 3]> {
    figures.sort_by(f64::total_cmp);
    Some([*figures.get(figures.len() / 2)?, *figures.first()?, *figures.last()?])
}

fn short(figure: f64) -> String {
    match figure.abs() {
        0.0..10.0 => format!("{figure:.2}"),
        10.0..1000.0 => format!("{figure:.1}"),
        _ => format!("{figure:.0}"),
    }
}

impl Turns {
    pub fn add(&mut self, who: &str, round: usize, figures: Figures) {
        if !self.who.iter().any(|known| known == who) {
            self.who.push(who.to_owned());
        }
        self.turns.push((who.to_owned(), round, figures));
    }

    pub fn failed(&mut self, who: &str, round: usize, why: &str) {
        self.failures.push(format!("{who} failed in round {round}: {why}"));
    }

    fn figures(&self, who: &str, figure: &str) -> BTreeMap<usize, f64> {
        let turns = self.turns.iter().filter(|(it, ..)| it == who);
        turns.filter_map(|(_, round, figures)| Some((*round, *figures.get(figure)?))).collect()
    }

    /// Ours divided by theirs, round by round.
    fn ratios(&self, who: &str, figure: &str) -> Vec<f64> {
        let ours = self.figures("backfill", figure);
        self.figures(who, figure).into_iter().filter_map(|(round, theirs)| Some(ours.get(&round)? / theirs)).collect()
    }

    pub fn print(&self, case: &Case) {
        println!("\n### {}\n\n{}\n", case.name, case.about);
        let mut others: Vec<&str> = Vec::new();
        for name in self.turns.iter().flat_map(|(.., figures)| figures.keys()).filter(|name| **name != case.figure) {
            if !others.contains(&name.as_str()) {
                others.push(name);
            }
        }
        let mut table = Table::new();
        table.load_preset(presets::ASCII_MARKDOWN);
        table.set_header(["", case.figure, "min", "max", "ours : it"].into_iter().chain(others.iter().copied()));
        for who in &self.who {
            let values = |figure: &str| self.figures(who, figure).into_values().collect();
            let mut row = vec![who.clone()];
            row.extend(spread(values(case.figure)).into_iter().flatten().map(short));
            row.push(spread(self.ratios(who, case.figure)).map(|[median, ..]| short(median)).unwrap_or_default());
            row.extend(others.iter().map(|it| spread(values(it)).map(|[median, ..]| short(median)).unwrap_or_default()));
            table.add_row(row);
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        println!("{table}");
        for failure in &self.failures {
            println!("{failure}");
        }
    }
}
