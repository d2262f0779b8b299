//! What a newcomer does with each template: makes an agent in an empty folder, builds it, tests it, deploys it to a host and
//! hands it a task; then works on it with `agent-host dev`. And how long that takes: until it is deployed, a task's answer, and
//! what a save does.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::dev;
use super::tools::Tools;
use crate::client::Client;
use crate::host::Host;
use crate::workspace::Workspace;
use crate::{process, ui};

/// A line of a shell: a program and its arguments; none where there is nothing to do.
type Line = &'static [&'static str];

/// A template, what brings its tools, its language's own way to test it, and the source of its agent.
const TEMPLATES: [(&str, Line, Line, &str); 5] = [
    ("rust", &[], &["cargo", "test"], "src/lib.rs"),
    ("js", &["npm", "install", "--silent", "--no-audit", "--no-fund"], &["npm", "test"], "agent.js"),
    ("python", &[], &["pytest"], "app.py"),
    ("c", &[], &[], "agent.c"),
    ("go", &[], &[], "main.go"),
];

/// What a template's agent is asked, and what it answers.
const QUESTION: &str = r#"{"name":"Ada"}"#;
const ANSWER: &str = "Hello, Ada!";
/// Tasks after the first, one after the other, whose median is told.
const LATER_TASKS: usize = 101;

/// How long an agent takes.
pub(super) struct Starts {
    /// What it was made from.
    pub(super) template: &'static str,
    /// From `agent-host deploy` to its end: compiled, tried, and consumed from.
    pub(super) deploy: Duration,
    /// From handing in the first task to its answer.
    pub(super) first_task: Duration,
    /// The same of one of many later ones, the median.
    pub(super) later_task: Duration,
    /// From a save of its source, under `agent-host dev`, until it has answered again.
    pub(super) save_to_answer: Duration,
}

/// Goes through all of them.
pub(super) fn run(workspace: &Workspace, tools: &Tools) -> Result<Vec<Starts>> {
    ui::step("each template: made, built, tested, deployed and run");
    let folder = tempfile::Builder::new().prefix("agents-").tempdir().context("could not make a temporary folder")?;
    let mut host = Host::embedded(workspace)?;
    let client = Client::new(host.address());
    host.await_ready(&client)?;
    let url = format!("http://{}", host.address());
    let mut all = Vec::new();
    for (template, prepare, test, source) in TEMPLATES {
        let made = template_works(workspace, tools, folder.path(), (template, prepare, test), &url);
        let deploy = made.with_context(|| format!("the template {template}"))?;
        let is_right = |answer: serde_json::Value| -> Result<()> {
            ensure!(answer == serde_json::json!({ "greeting": ANSWER }), "{template} answered {answer}");
            Ok(())
        };
        let task = || -> Result<Duration> {
            let begun = Instant::now();
            is_right(client.run(&name(template), "application/json", QUESTION.as_bytes())?)?;
            Ok(begun.elapsed())
        };
        let first_task = task()?;
        let mut later = (0..LATER_TASKS).map(|_| task()).collect::<Result<Vec<_>>>()?;
        later.sort();
        let later_task = later.get(LATER_TASKS / 2).copied().unwrap_or_default();
        let mut submit = tools.command("agent-host");
        submit.args(["--url", &url, "submit", &name(template), QUESTION, "--wait"]);
        is_right(serde_json::from_slice(&process::output("agent-host", &mut submit)?).context("no JSON")?)?;
        let save_to_answer = dev::save_to_answer(tools, &folder.path().join(name(template)), source)
            .with_context(|| format!("agent-host dev of the template {template}"))?;
        all.push(Starts { template, deploy, first_task, later_task, save_to_answer });
        ui::say(&format!("{template} works"));
    }
    host.stop()?;
    Ok(all)
}

/// The agent that is made from it.
fn name(template: &str) -> String {
    format!("greet-{template}")
}

fn template_works(
    workspace: &Workspace,
    tools: &Tools,
    folder: &Path,
    (template, prepare, test): (&str, Line, Line),
    url: &str,
) -> Result<Duration> {
    let name = name(template);
    let agent = folder.join(&name);
    let within = |place: &Path, line: &[&str]| -> Result<Vec<u8>> {
        let (program, args) = line.split_first().context("an empty line")?;
        // A newcomer has no other folder for what cargo makes.
        let mut command = tools.command(program);
        process::output(program, command.env_remove("CARGO_TARGET_DIR").current_dir(place).args(args))
    };
    let sdk = workspace.root.join("agent-sdk");
    let sdk = sdk.to_str().context("the workspace's path is no UTF-8")?;
    within(folder, &["agent-host", "new", "-t", template, "--sdk", sdk, &name])?;
    if !prepare.is_empty() {
        within(&agent, prepare)?;
    }
    within(&agent, &["agent-host", "build"])?;
    within(&agent, &["agent-sim", "test", "scenarios"])?;
    within(&agent, &["agent-sim", "run", ".", QUESTION])?;
    if !test.is_empty() {
        within(&agent, test)?;
    }
    let begun = Instant::now();
    within(&agent, &["agent-host", "--url", url, "deploy", "."])?;
    Ok(begun.elapsed())
}
