//! Tables, JSON and the plot.

use std::collections::BTreeMap;
use std::path::Path;

use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Value, json};

use crate::Result;
use crate::cases::{Case, Figures};
use crate::contestant::Contestant;
use crate::plot;

pub struct Run {
    pub case: &'static str,
    pub who: String,
    pub round: usize,
    pub figures: Figures,
}

pub struct Report {
    server: String,
    jobs: usize,
    rounds: usize,
    runs: Vec<Run>,
    failures: Vec<(&'static str, Contestant, String)>,
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

impl Report {
    pub fn new(server: String, jobs: usize, rounds: usize) -> Self {
        Self { server, jobs, rounds, runs: Vec::new(), failures: Vec::new() }
    }

    pub fn add(&mut self, run: Run) {
        self.runs.push(run);
    }

    pub fn failed(&mut self, case: &'static str, contestant: Contestant, why: &str) {
        self.failures.push((case, contestant, why.to_owned()));
    }

    /// Who has figures of this case, in order of appearance.
    fn who(&self, case: &Case) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for run in self.runs.iter().filter(|run| run.case == case.name) {
            if !names.contains(&run.who.as_str()) {
                names.push(&run.who);
            }
        }
        names
    }

    fn figures(&self, case: &Case, who: &str, figure: &str) -> Vec<(usize, f64)> {
        let runs = self.runs.iter().filter(|run| run.case == case.name && run.who == who);
        runs.filter_map(|run| Some((run.round, *run.figures.get(figure)?))).collect()
    }

    /// Ours, who is the first, divided by theirs, round by round.
    fn ratios(&self, case: &Case, who: &str) -> Vec<f64> {
        let first = case.contestants.first().map_or("ours", |first| first.name());
        let ours: BTreeMap<usize, f64> = self.figures(case, first, case.figure).into_iter().collect();
        let theirs = self.figures(case, who, case.figure);
        theirs.into_iter().filter_map(|(round, theirs)| Some(ours.get(&round)? / theirs)).collect()
    }

    pub fn print(&self, case: &Case) {
        println!("\n{}: {}", case.name, case.about);
        let mut others: Vec<&str> = Vec::new();
        for run in self.runs.iter().filter(|run| run.case == case.name) {
            for name in run.figures.keys().filter(|name| **name != case.figure) {
                if !others.contains(name) {
                    others.push(name);
                }
            }
        }
        let mut table = Table::new();
        table.load_preset(presets::ASCII_MARKDOWN);
        let head = ["", case.figure, "min", "max", "ours : it"].into_iter();
        table.set_header(head.chain(others.iter().copied()));
        for who in self.who(case) {
            let values = |figure| self.figures(case, who, figure).into_iter().map(|(_, value)| value).collect();
            let mut row = vec![who.to_owned()];
            row.extend(spread(values(case.figure)).into_iter().flatten().map(short));
            row.push(spread(self.ratios(case, who)).map(|[median, ..]| short(median)).unwrap_or_default());
            row.extend(
                others
                    .iter()
                    .map(|figure| spread(values(figure)).map(|[median, ..]| short(median)).unwrap_or_default()),
            );
            table.add_row(row);
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        println!("{table}");
        for (_, who, why) in self.failures.iter().filter(|(name, ..)| *name == case.name) {
            println!("{who} failed: {why}");
        }
    }

    fn json(&self, cases: &[Case]) -> Value {
        let case = |case: &Case| {
            let who = self.who(case).into_iter().map(|who| {
                let runs = self.runs.iter().filter(|run| run.case == case.name && run.who == who);
                let spread_of = spread(self.figures(case, who, case.figure).into_iter().map(|it| it.1).collect());
                let ratio = spread(self.ratios(case, who));
                json!({
                    "who": who,
                    "median": spread_of.map(|it| it[0]), "min": spread_of.map(|it| it[1]), "max": spread_of.map(|it| it[2]),
                    "ours_to_it": ratio.map(|it| it[0]),
                    "runs": runs.map(|run| json!({ "round": run.round, "figures": run.figures })).collect::<Vec<_>>(),
                })
            });
            json!({ "case": case.name, "about": case.about, "server": self.server, "jobs": self.jobs, "rounds": self.rounds, "figure": case.figure, "contestants": who.collect::<Vec<_>>() })
        };
        let failures =
            self.failures.iter().map(|(case, who, why)| json!({ "case": case, "who": who.name(), "why": why }));
        json!({
            "processors": std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
            "cases": cases.iter().map(case).collect::<Vec<_>>(),
            "failures": failures.collect::<Vec<_>>(),
        })
    }

    pub fn write(&self, directory: &Path, cases: &[Case]) -> Result<()> {
        std::fs::create_dir_all(directory)?;
        let mut report = self.json(cases);
        // Cases of an earlier run stay, unless they were measured anew.
        if let Ok(text) = std::fs::read_to_string(directory.join("results.json")) {
            let earlier: Value = serde_json::from_str(&text)?;
            let is_new = |case: &Value| cases.iter().any(|new| case["case"] == new.name);
            let kept = earlier["cases"].as_array().into_iter().flatten().filter(|case| !is_new(case)).cloned();
            if let Some(all) = report["cases"].as_array_mut() {
                all.extend(kept);
            }
        }
        let text = serde_json::to_string_pretty(&report)?;
        std::fs::write(directory.join("results.json"), text + "\n")?;
        if let Some(drain) = cases.iter().find(|case| case.name == "drain") {
            self.plot(drain, &directory.join("drain.svg"))?;
        }
        Ok(())
    }

    fn plot(&self, case: &Case, path: &Path) -> Result<()> {
        let bars: Vec<(&str, [f64; 3])> = self
            .who(case)
            .into_iter()
            .filter_map(|who| {
                Some((who, spread(self.figures(case, who, case.figure).into_iter().map(|it| it.1).collect())?))
            })
            .collect();
        plot::bars(&format!("{} ({})", case.about, case.figure), &bars, path)?;
        Ok(())
    }
}
