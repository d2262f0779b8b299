//! `cargo xtask load`: the reference load (benchmarks/baseline.json) against a real host on real servers, and its report.
//!
//! Contract: starts everything, stops everything, and writes `benchmarks/results/<time>/` with the raw data and the report
//! made of it. Exits 0 only if every limit that the run can be held to is kept, every answer said what it should, every
//! accepted task ended, and the host drained and exited 0.

mod k6;
mod machine;
mod processes;
mod prometheus;
mod recording;
mod sampler;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use crate::client::Client;
use crate::host::Host;
use crate::report::{self, Baseline};
use crate::services::Plan;
use crate::workspace::Workspace;
use crate::{agents, process, ui};

use k6::{K6, Size};
use sampler::Sampler;

/// A scenario: the name of its script in `k6/`, its id in benchmarks/baseline.json, and at how many moments it is looked at, one
/// a second at most.
struct Scenario {
    script: &'static str,
    id: &'static str,
    moments: f64,
}

/// As many as a plot shows.
const MOMENTS: f64 = 100.0;
/// By the second: how long the recovery takes is told in seconds.
const EACH_SECOND: f64 = f64::INFINITY;

/// All of them, in the order of the reference report.
const SCENARIOS: [Scenario; 7] = [
    Scenario { script: "load", id: "load", moments: MOMENTS },
    Scenario { script: "spike", id: "spike", moments: EACH_SECOND },
    Scenario { script: "soak", id: "soak", moments: MOMENTS },
    Scenario { script: "task-distribution", id: "a-task-distribution", moments: MOMENTS },
    Scenario { script: "voting-consensus", id: "b-voting-consensus", moments: MOMENTS },
    Scenario { script: "database-crud", id: "c-crud", moments: MOMENTS },
    Scenario { script: "cache", id: "d-cache", moments: MOMENTS },
];

/// The agents that the scenarios need.
const AGENTS: [&str; 4] = ["task-worker", "voter", "crud", "cache-reader"];

/// How large a run is.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Profile {
    /// A fiftieth of the time and a tenth of the load, with the host that `cargo build` makes: does it work?
    Smoke,
    /// A tenth of the time and the whole load, with an optimised host: some ten minutes for all scenarios
    Reference,
    /// The time and load of the reference: some seventy minutes for all scenarios
    Full,
}

impl Profile {
    fn name(self) -> &'static str {
        match self {
            Self::Smoke => "smoke",
            Self::Reference => "reference",
            Self::Full => "full",
        }
    }

    /// Durations and load, as parts of the reference's.
    fn scales(self) -> (f64, f64) {
        match self {
            Self::Smoke => (0.02, 0.1),
            Self::Reference => (0.1, 1.0),
            Self::Full => (1.0, 1.0),
        }
    }

    fn is_optimised(self) -> bool {
        !matches!(self, Self::Smoke)
    }
}

/// What the command is told.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How large the run is
    #[arg(long, value_enum, default_value = "smoke")]
    profile: Profile,
    /// Durations as a part of the reference's, instead of the profile's
    #[arg(long, value_parser = part)]
    time_scale: Option<f64>,
    /// Users, rates and numbers of tasks as a part of the reference's, instead of the profile's
    #[arg(long, value_parser = part)]
    load_scale: Option<f64>,
    /// Tasks a second in the scenario `load`, in the place of users: an open model, for what latency is at that rate
    #[arg(long)]
    rate: Option<u32>,
    /// A built `agent-host` to measure, instead of building this one
    #[arg(long)]
    host: Option<PathBuf>,
    /// Scripts in k6/ by their names, such as `spike`; all when none is given. Not `smoke`, which is run beside a host by itself
    scenarios: Vec<String>,
}

fn part(text: &str) -> Result<f64, String> {
    let part: f64 = text.parse().map_err(|_| "expected a number such as 0.1".to_owned())?;
    if part > 0.0 && part.is_finite() { Ok(part) } else { Err("expected a number above 0".to_owned()) }
}

/// Runs it.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let scenarios = chosen(&options.scenarios)?;
    // Before anything is built, which takes minutes.
    ui::step("checking what the load test needs: servers, k6");
    let services = Plan::make()?;
    let k6 = K6::find(workspace)?;
    agents::build(workspace, &AGENTS.map(str::to_owned))?;
    let program = host_program(workspace, options)?;

    ui::step("starting RabbitMQ, PostgreSQL and Redis");
    let services = services.start(workspace)?;
    ui::step("starting the host");
    let mut host = Host::on(workspace, &program, &services)?;
    let client = Client::new(host.address());
    host.await_ready(&client)?;

    let (time, load) = options.profile.scales();
    let size =
        Size { time: options.time_scale.unwrap_or(time), load: options.load_scale.unwrap_or(load), rate: options.rate };
    let started = machine::now_utc()?;
    let folder = workspace.root.join("benchmarks/results").join(started.replace(':', "-"));
    std::fs::create_dir_all(&folder).with_context(|| format!("could not make {}", folder.display()))?;
    let about = json!({
        "started": started,
        "profile": options.profile.name(),
        "time_scale": size.time,
        "load_scale": size.load,
        "rate_per_s": size.rate,
        "host_build": if options.profile.is_optimised() { "release" } else { "development" },
        "commit": machine::commit(workspace),
        "scenarios": scenarios.iter().map(|one| one.id).collect::<Vec<_>>(),
        "machine": machine::describe(&k6),
    });
    let text = serde_json::to_string_pretty(&about).context("the description is not JSON")?;
    write(&folder.join("run.json"), &text)?;

    for scenario in &scenarios {
        let mut sampler = Sampler::new(&client, host.pid(), &services.processes());
        run_one(workspace, &k6, scenario, &size, &mut host, &mut sampler, &folder)?;
    }

    ui::step("stopping the host and the servers");
    host.stop()?;
    drop(services);
    ui::step("writing the report");
    let broken = report::write(&folder, &Baseline::read(&workspace.root)?)?;
    broken.iter().for_each(|line| ui::warn(line));
    ensure!(broken.is_empty(), "{} not kept; see above", report::plural(broken.len(), "limit is"));
    Ok(())
}

/// The scenarios that were named, or all.
fn chosen(names: &[String]) -> Result<Vec<&'static Scenario>> {
    let known = || SCENARIOS.map(|scenario| scenario.script).join(", ");
    if let Some(unknown) = names.iter().find(|name| !SCENARIOS.iter().any(|one| one.script == **name)) {
        bail!("no scenario is called `{unknown}`; there are: {}", known());
    }
    let is_chosen = |one: &&Scenario| names.is_empty() || names.iter().any(|name| name == one.script);
    Ok(SCENARIOS.iter().filter(is_chosen).collect())
}

/// The host to measure.
fn host_program(workspace: &Workspace, options: &Options) -> Result<PathBuf> {
    if let Some(program) = &options.host {
        return std::path::absolute(program).with_context(|| format!("no such file: {}", program.display()));
    }
    let mut command = workspace.cargo();
    // The whole workspace's features, as the tests and the benchmarks build with: dependencies are not built twice.
    command.args(["build", "--workspace", "--bin", "agent-host"]);
    let folder = if options.profile.is_optimised() {
        ui::step("building the host with optimisation; the first time this takes a while");
        command.arg("--release");
        "release"
    } else {
        ui::step("building the host");
        "debug"
    };
    process::run("cargo build", &mut command)?;
    Ok(workspace.target.join(folder).join("agent-host"))
}

/// Runs a script to its end while the host and its servers are sampled, and leaves the raw data.
fn run_one(
    workspace: &Workspace,
    k6: &K6,
    scenario: &Scenario,
    size: &Size,
    host: &mut Host,
    sampler: &mut Sampler<'_>,
    folder: &Path,
) -> Result<()> {
    let Scenario { script, id, moments } = scenario;
    let script = workspace.root.join(format!("k6/{script}.js"));
    let results = folder.join(format!("{id}.json"));
    let scratch = workspace.own_folder()?;
    let mut running = k6.start(&script, *moments, &scratch, &results, host.address(), size)?;
    ui::step(&format!("{}: {}", scenario.script, running.duration_text()));
    sampler.begin(running.pid())?;
    let mut live = ui::Live::default();
    while !running.has_ended()? {
        if let Some(line) = sampler.tend()? {
            let line = format!("          {line}");
            if ui::is_terminal() {
                live.draw(&[line]);
            } else if sampler.is_time_for_a_line() {
                eprintln!("{line}");
            }
        }
        host.check_alive()?;
        process::pause(sampler::TURN)?;
    }
    let over_all = sampler.end()?;
    println!("{}", running.finish()?);

    let text = std::fs::read_to_string(&results).with_context(|| format!("{script:?} left no results"))?;
    let mut said: serde_json::Value = serde_json::from_str(&text).context("the script's results are not JSON")?;
    if let Some(said) = said.as_object_mut() {
        said.insert("host".to_owned(), over_all);
    }
    write(&results, &serde_json::to_string_pretty(&said).context("the results are not JSON")?)?;
    write(&folder.join(format!("{id}.host.csv")), &sampler.series().to_csv())?;
    let recorded = recording::read(&scratch.join(k6::RECORDING))?;
    write(&folder.join(format!("{id}.load.csv")), &recorded.to_csv())
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("could not write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_has_its_script_and_its_reference() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let baseline = Baseline::read(root).unwrap();
        for Scenario { script, id, .. } in &SCENARIOS {
            assert!(root.join(format!("k6/{script}.js")).is_file(), "k6/{script}.js");
            assert!(baseline.test(id).is_object(), "{id} is not in benchmarks/baseline.json");
        }
    }

    #[test]
    fn an_unknown_scenario_is_refused_with_what_there_is() {
        assert_eq!(chosen(&[]).unwrap().len(), SCENARIOS.len());
        assert_eq!(chosen(&["spike".to_owned()]).unwrap().len(), 1);
        let Err(error) = chosen(&["storm".to_owned()]) else { panic!("`storm` is no scenario") };
        assert!(error.to_string().contains("voting-consensus"), "{error}");
    }
}
