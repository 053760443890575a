//! What is measured.

mod adding;
mod drain;
mod file;
mod idle;
mod latency;

use std::collections::{BTreeMap, HashMap};

use futures::future::BoxFuture;
use indicatif::{ProgressBar, ProgressStyle};

use crate::contestant::{Contestant, Library};
use crate::process::{Process, Role, Told};
use crate::report::{Report, Run};
use crate::server::Server;
use crate::{Options, Result};

/// What one turn gives: figures by who they are of (the floor has several kinds).
pub type Measured = Vec<(String, Figures)>;

/// The figures of one run, by name.
pub type Figures = BTreeMap<&'static str, f64>;

pub struct Case {
    pub name: &'static str,
    pub about: &'static str,
    /// The figure that decides.
    pub figure: &'static str,
    pub contestants: &'static [Contestant],
    /// Whether it takes so long that one round has to do.
    pub once: bool,
    pub measure: for<'a> fn(&'a mut Ground, Contestant) -> BoxFuture<'a, Result<Measured>>,
}

pub fn all() -> Vec<Case> {
    [drain::cases(), adding::cases(), latency::cases(), idle::cases(), file::cases()].into_iter().flatten().collect()
}

/// What cases share.
pub struct Ground {
    pub server: Server,
    pub jobs: usize,
    pub cap: u64,
    /// Databases that were filled once and are copied for each run.
    templates: HashMap<(Library, usize, usize, &'static [&'static str]), String>,
}

impl Ground {
    /// A database filled with jobs by the library's own client, then changed by statements; a copy for each caller.
    pub async fn filled(
        &mut self,
        library: Library,
        jobs: usize,
        queues: usize,
        sql: &'static [&'static str],
    ) -> Result<String> {
        let key = (library, jobs, queues, sql);
        if !self.templates.contains_key(&key) {
            let name = self.server.database(None).await?;
            self.fill(contestant(library), &name, jobs, queues).await?;
            let mut connection = self.server.open(&name).await?;
            for &statement in sql {
                sqlx::raw_sql(statement).execute(&mut connection).await?;
            }
            sqlx::Connection::close(connection).await?;
            self.templates.insert(key, name);
        }
        let template = self.templates[&key].clone();
        let copy = self.server.database(Some(&template)).await?;
        self.server.checkpoint().await?;
        Ok(copy)
    }

    /// Adds jobs in bulk, and tells how many seconds that took.
    pub async fn fill(&self, contestant: Contestant, database: &str, jobs: usize, queues: usize) -> Result<f64> {
        let mut child = Process::start(&self.told(contestant, database, Role::Fill { jobs, queues })).await?;
        child.go().await?;
        let seconds = child.line().await?.parse()?;
        child.end().await?;
        Ok(seconds)
    }

    pub fn told(&self, contestant: Contestant, database: &str, role: Role) -> Told {
        Told { contestant, best: contestant.is_best(), url: self.server.url(database), role }
    }

    /// Ends the templates that no later case needs.
    async fn forget_templates(&mut self) -> Result<()> {
        for (_, name) in self.templates.drain() {
            self.server.drop(&name).await?;
        }
        Ok(())
    }
}

/// The contestant with a library's default settings.
fn contestant(library: Library) -> Contestant {
    match library {
        Library::Ours => Contestant::Ours,
        Library::Node => Contestant::Node,
        Library::Gw => Contestant::Gw,
        Library::River => Contestant::River,
    }
}

pub async fn run(options: Options) -> Result<()> {
    let known = all();
    if let Some(unknown) = options.cases.iter().find(|name| !known.iter().any(|case| case.name == **name)) {
        return Err(format!("there is no case {unknown}; --list names them").into());
    }
    if let Some(unknown) = options.only.iter().find(|name| !Contestant::ALL.iter().any(|it| it.name() == **name)) {
        return Err(format!("there is no contestant {unknown}; see --help").into());
    }
    let cases: Vec<Case> = known
        .into_iter()
        .filter(|case| options.cases.is_empty() || options.cases.iter().any(|name| name == case.name))
        .collect();
    let takes_part =
        |contestant: Contestant| options.only.is_empty() || options.only.iter().any(|it| it == contestant.name());
    let rounds = |case: &Case| if case.once { 1 } else { options.rounds };
    let turns: usize =
        cases.iter().map(|case| rounds(case) * case.contestants.iter().filter(|it| takes_part(**it)).count()).sum();
    let progress = ProgressBar::new(turns as u64);
    progress.set_style(ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} (since {elapsed}, about {eta} left)")?);

    let mut server = Server::connect(&options.url, &options.data).await?;
    let mut report = Report::new(server.version().await?, options.jobs, options.rounds);
    let mut ground = Ground { server, jobs: options.jobs, cap: options.cap, templates: HashMap::new() };
    for case in &cases {
        for round in 1..=rounds(case) {
            for &contestant in case.contestants.iter().filter(|it| takes_part(**it)) {
                progress.set_message(format!("{}: {contestant}, round {round}", case.name));
                match (case.measure)(&mut ground, contestant).await {
                    Ok(measured) => {
                        for (who, figures) in measured {
                            report.add(Run { case: case.name, who, round, figures });
                        }
                    }
                    // One contestant that cannot do it does not end the others' race; it is told.
                    Err(error) => report.failed(case.name, contestant, &error.to_string()),
                }
                progress.inc(1);
            }
        }
        ground.forget_templates().await?;
        progress.suspend(|| report.print(case));
    }
    progress.finish_and_clear();
    if let Some(directory) = &options.out {
        report.write(directory, &cases)?;
    }
    Ok(())
}
