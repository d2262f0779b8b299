//! `cargo xtask report`: what a run of `cargo xtask load` says, for people, and two of them side by side.
//!
//! Everything is made from the raw data in the run's folder, so a report can be made again at any time: `run.json`, and
//! for each scenario `<id>.json` (what its script said), `<id>.load.csv` (moment by moment) and `<id>.host.csv` (second by second).
//! Contract: a comparison exits 0 only if the run in question keeps every limit that it is held to.

mod compare;
pub(crate) mod figures;
mod html;
mod limits;
mod markdown;
mod plot;
mod run;
mod sections;
pub(crate) mod series;
mod words;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::ui;
use crate::workspace::Workspace;

pub(crate) use run::{Baseline, Run};

/// What the command is told.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Folders of runs, or files with figures: one to make its report again, two to compare
    #[arg(required = true, num_args = 1..=2)]
    paths: Vec<PathBuf>,
    /// Compare two: each a run's folder, or benchmarks/baseline.json
    #[arg(long)]
    compare: bool,
}

/// Makes a report again, or compares two.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let baseline = Baseline::read(&workspace.root)?;
    match (options.paths.as_slice(), options.compare) {
        ([folder], false) => write(folder, &baseline).map(|_| ()),
        ([a, b], true) => {
            let comparison = compare::Comparison::read(a, b, &baseline)?;
            println!("{}", comparison.table());
            let broken = comparison.broken();
            ensure!(broken.is_empty(), "{} broken: {}", plural(broken.len(), "limit is"), broken.join("; "));
            Ok(())
        }
        (_, true) => bail!("--compare takes two: folders of runs, or benchmarks/baseline.json"),
        (_, false) => bail!("two runs are compared with --compare"),
    }
}

/// Writes `results.json`, `report.md` and `report.html` into a run's folder; gives what is broken in it.
pub(crate) fn write(folder: &Path, baseline: &Baseline) -> Result<Vec<String>> {
    let run = Run::read(folder)?;
    let sections = sections::all(&run, baseline)?;
    let results = serde_json::to_string_pretty(&run.results(baseline)?).context("the results are not JSON")?;
    for (name, text) in [
        ("results.json", results),
        ("report.md", markdown::page(&run, &sections, &baseline.machine())),
        ("report.html", html::page(&run, &sections, &baseline.machine())),
    ] {
        let path = folder.join(name);
        std::fs::write(&path, text).with_context(|| format!("could not write {}", path.display()))?;
    }
    ui::say(&format!("the report is {}", folder.join("report.html").display()));
    Ok(sections.iter().flat_map(sections::Section::broken).collect())
}

/// `1 limit is`, `2 limits are`.
pub(crate) fn plural(count: usize, one: &str) -> String {
    let (noun, verb) = one.split_once(' ').unwrap_or((one, ""));
    match (count, verb) {
        (1, _) => format!("1 {one}"),
        (_, "is") => format!("{count} {noun}s are"),
        _ => format!("{count} {noun}s {verb}").trim_end().to_owned(),
    }
}
