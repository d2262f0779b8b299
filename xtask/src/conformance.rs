//! `cargo xtask conformance`: the same scenarios for an agent of each SDK, in the simulator, and a table of them; then each
//! template as a newcomer would use it.
//!
//! Contract: builds the agents, runs every scenario for each of them, prints the table, writes it to `docs/conformance.md`
//! when asked to, and fails where something fails that is not known to.

mod dev;
mod templates;
mod tools;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use self::tools::Tools;
use crate::workspace::Workspace;
use crate::{agents, process, ui};

/// What a program without an SDK has no way to do: it is given its task, and answers.
const NOT_OF_COMMANDS: [&str; 18] = [
    "cache",
    "cache-ttl",
    "cancel",
    "config",
    "follow-up",
    "follow-up-of-a-failure",
    "http",
    "http-busy",
    "http-not-granted",
    "http-post",
    "key-value",
    "key-value-not-granted",
    "retry-after",
    "secret",
    "sql",
    "sql-away",
    "sql-rollback",
    // Go has no trap: a panic is exit code 2.
    "trap",
];

/// A language.
struct Language {
    name: &'static str,
    folder: PathBuf,
    not_offered: &'static [&'static str],
}

/// What came of the scenarios, by language and scenario.
type Results = BTreeMap<&'static str, BTreeMap<String, bool>>;

/// Runs the kit; with `write`, also writes the table into the docs.
pub(crate) fn run(workspace: &Workspace, write: bool) -> Result<()> {
    let tools = Tools::find(workspace)?;
    agents::build(workspace, &[])?;
    ui::step("building the host and the simulator");
    process::run(
        "cargo build",
        workspace.cargo().args(["build", "--workspace", "--bin", "agent-host", "--bin", "agent-sim"]),
    )?;
    let languages = languages(workspace, &tools)?;
    own_tests(workspace, &tools)?;

    ui::step("running the scenarios");
    let mut results = Results::new();
    for language in &languages {
        let scenarios = workspace.root.join("agent-sdk/conformance/scenarios");
        let mut command = tools.command("agent-sim");
        command.arg("test").arg(&scenarios).arg("--agent").arg(&language.folder).args(["--format", "json"]);
        let output = command.output().context("agent-sim does not start")?;
        let document: serde_json::Value = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("{}: {}", language.name, String::from_utf8_lossy(&output.stderr)))?;
        let of_language = results.entry(language.name).or_default();
        for scenario in document.get("scenarios").and_then(|all| all.as_array()).into_iter().flatten() {
            let text = |name: &str| scenario.get(name).and_then(|value| value.as_str()).unwrap_or_default().to_owned();
            let passed = scenario.get("passed").and_then(serde_json::Value::as_bool).unwrap_or_default();
            let name = text("name");
            if !passed && !language.not_offered.contains(&name.as_str()) {
                ui::warn(&format!("{}: {name}\n{}", language.name, text("problems")));
            }
            of_language.insert(name, passed);
        }
    }
    let table = format!("{}\n{WEIGHT_HEAD}{}", table(&languages, &results), weights(&languages, &tools)?);
    let table = format!("{table}\n{STARTS_HEAD}{}", starts(&templates::run(workspace, &tools)?));
    println!("{table}");
    if write {
        let path = workspace.root.join("docs/conformance.md");
        std::fs::write(&path, format!("{HEAD}{table}")).with_context(|| path.display().to_string())?;
    }
    let failed = languages.iter().map(|language| (language, failed(language, &results)));
    let failed: Vec<String> = failed
        .filter(|(_, failed)| !failed.is_empty())
        .map(|(language, failed)| format!("{}: {}", language.name, failed.join(", ")))
        .collect();
    ensure!(failed.is_empty(), "scenarios failed:\n{}", failed.join("\n"));
    Ok(())
}

/// The tests of the SDKs that are not Rust's, which need no host.
fn own_tests(workspace: &Workspace, tools: &Tools) -> Result<()> {
    ui::step("running the tests of the SDKs");
    let sdk = workspace.root.join("agent-sdk");
    process::output("node", tools.command("node").current_dir(sdk.join("js")).args(["--test", "test"]))?;
    let bindings = tempfile::tempdir().context("could not make a temporary folder")?;
    let mut bind = tools.command("componentize-py");
    bind.arg("-d").arg(workspace.root.join("wit")).args(["-w", "agent", "bindings"]).arg(bindings.path().join("made"));
    process::output("componentize-py", &mut bind)?;
    let path =
        std::env::join_paths([bindings.path().join("made"), sdk.join("python")]).context("a path with a colon")?;
    let mut tests = tools.command("python3");
    tests.current_dir(sdk.join("python")).env("PYTHONPATH", path).env("PYTHONDONTWRITEBYTECODE", "1");
    process::output("python3 -m unittest", tests.args(["-m", "unittest", "discover", "tests"]))?;
    Ok(())
}

/// The agents of the kit, built.
fn languages(workspace: &Workspace, tools: &Tools) -> Result<Vec<Language>> {
    let kit = workspace.root.join("agent-sdk/conformance");
    if !kit.join("js/node_modules").is_dir() {
        let mut npm = tools.command("npm");
        npm.current_dir(kit.join("js")).args(["install", "--silent", "--no-audit", "--no-fund"]);
        process::output("npm install", &mut npm)?;
    }
    let others: [(&str, &str, &[&str]); 4] =
        [("JavaScript", "js", &[]), ("Python", "python", &[]), ("C", "c", &[]), ("Go", "go", &NOT_OF_COMMANDS)];
    let rust = workspace.root.join("agents/conformance/manifest");
    let mut languages = vec![Language { name: "Rust", folder: rust, not_offered: &[] }];
    for (name, folder, not_offered) in others {
        let folder = kit.join(folder);
        process::output("agent-host build", tools.command("agent-host").arg("build").arg(&folder))
            .with_context(|| format!("the agent in {name}"))?;
        languages.push(Language { name, folder, not_offered });
    }
    Ok(languages)
}

const HEAD: &str = "# Conformance\n\n\
    The same scenarios (`agent-sdk/conformance/scenarios`), run for an agent of each SDK by `cargo xtask conformance --write` \
    (with Node.js and Python 3; it installs the rest below `target/`), which also takes each template from an empty folder to an \
    answer of a host. \
    ✓ passes; – is not offered. Go is a plain program, which is given its task and answers.\n\n";

const WEIGHT_HEAD: &str = "## What an agent weighs\n\nThe module of the kit, and the peak memory of an instance that gives back a body of five bytes.\n\n";

const STARTS_HEAD: &str = "## How long it takes to start\n\n\
    The agent of each template, on a host with everything embedded, built without optimisation of its own code: from `agent-host deploy` until \
    its module is compiled, tried and consumed from; from handing in the first task over HTTP to its answer; and the median of the same of 101 \
    later tasks, one after the other; and under `agent-host dev` from a save of its source until it has been built, deployed and has answered \
    again. A module is compiled when it is deployed and never on the way of a task, so the first task takes \
    milliseconds longer than the others, whatever its size; an instance is made for each from an image that is copied where it is written to.\n\n";

fn starts(all: &[templates::Starts]) -> String {
    let mut text =
        String::from("| template | deploy | first task | later task | save to answer |\n|---|---|---|---|---|\n");
    let ms = |duration: std::time::Duration| format!("{:.1} ms", duration.as_secs_f64() * 1e3);
    let s = |duration: std::time::Duration| format!("{:.1} s", duration.as_secs_f64());
    for one in all {
        let (first, later) = (ms(one.first_task), ms(one.later_task));
        // Writing to a String cannot fail.
        let _ =
            writeln!(text, "| {} | {} | {first} | {later} | {} |", one.template, s(one.deploy), s(one.save_to_answer));
    }
    text
}

/// How large the modules are, and their instances.
fn weights(languages: &[Language], tools: &Tools) -> Result<String> {
    let mut text = String::from("| language | module | memory of an instance |\n|---|---|---|\n");
    // The agents are granted a folder.
    let files = tempfile::tempdir().context("could not make a temporary folder")?;
    std::fs::create_dir(files.path().join("data")).context("could not make a folder")?;
    for language in languages {
        let module = std::fs::metadata(language.folder.join("conformance.wasm")).context("the module is gone")?.len();
        let mut command = tools.command("agent-sim");
        command.arg("run").arg(&language.folder).args([
            "hello",
            "--header",
            "do=echo",
            "--format",
            "json",
            "--files-root",
        ]);
        command.arg(files.path());
        let ran: serde_json::Value = serde_json::from_slice(&process::output("agent-sim", &mut command)?)?;
        let peak = ran.pointer("/usage/memory_bytes_peak").and_then(serde_json::Value::as_u64);
        let peak = peak.context("agent-sim says nothing of memory")?;
        let (module, peak) = (amount(module), amount(peak));
        // Writing to a String cannot fail.
        let _ = writeln!(text, "| {} | {module} | {peak} |", language.name);
    }
    Ok(text)
}

/// Bytes, in MiB with a digit after the point where they are that many.
fn amount(bytes: u64) -> String {
    const MIB: u64 = 1 << 20;
    if bytes < MIB { format!("{} KiB", bytes >> 10) } else { format!("{}.{} MiB", bytes / MIB, bytes % MIB * 10 / MIB) }
}

/// What failed and is not known to.
fn failed(language: &Language, results: &Results) -> Vec<String> {
    let of_language = results.get(language.name).into_iter().flatten();
    let failed = of_language.filter(|(name, passed)| !**passed && !language.not_offered.contains(&name.as_str()));
    failed.map(|(name, _)| name.clone()).collect()
}

fn table(languages: &[Language], results: &Results) -> String {
    let names: BTreeSet<&String> = results.values().flat_map(BTreeMap::keys).collect();
    let mut text = String::from("| scenario |");
    for language in languages {
        // Writing to a String cannot fail.
        let _ = write!(text, " {} |", language.name);
    }
    let _ = write!(text, "\n|---|{}\n", "---|".repeat(languages.len()));
    for name in names {
        let _ = write!(text, "| {name} |");
        for language in languages {
            let passed = results.get(language.name).and_then(|of_language| of_language.get(name)).copied();
            let sign = match passed {
                _ if language.not_offered.contains(&name.as_str()) => "–",
                Some(true) => "✓",
                _ => "✗",
            };
            let _ = write!(text, " {sign} |");
        }
        text.push('\n');
    }
    text
}
