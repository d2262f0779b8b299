//! `agent-sim test`: every scenario of a folder, each in a world of its own.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::compare::differences;
use super::fixtures::World;
use super::scenario::Scenario;
use super::{Agent, Machine, SimError, Simulation};
use crate::task::{AgentName, Task};

/// How many folders deep scenarios are looked for.
const DEPTH_MAX: usize = 8;

/// Where an agent's scenarios lie, in its folder.
const SCENARIOS: &str = "scenarios";

/// A scenario and what came of it.
pub(super) struct Result {
    /// Its path from the folder, without the ending.
    pub(super) name: String,
    pub(super) description: String,
    pub(super) took: Duration,
    /// What is wrong, for people; empty where it passed.
    pub(super) problems: String,
}

/// The scenario files of a folder, or the one that is named; in the order of their names.
pub(super) fn files(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    if path.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    find(path, DEPTH_MAX, &mut found)?;
    found.sort();
    Ok(found)
}

fn find(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let is_scenario = path.extension().is_some_and(|extension| extension == "toml" || extension == "json");
        if path.is_dir() && depth > 0 {
            find(&path, depth - 1, found)?;
        } else if is_scenario && path.file_name().is_some_and(|name| name != crate::package::MANIFEST_NAME) {
            found.push(path);
        }
    }
    Ok(())
}

/// The first task of an agent's scenarios that needs nothing but the agent and is to succeed, and what it is.
pub(crate) fn sample_task(folder: &Path, agent: &AgentName) -> Option<(String, Task)> {
    let files = files(&folder.join(SCENARIOS)).ok()?;
    files.iter().find_map(|path| {
        let scenario = Scenario::read(path).ok()?;
        let task = scenario.plain_task()?.task(agent, path.parent()?).ok()?;
        Some((path.strip_prefix(folder).ok()?.display().to_string(), task))
    })
}

/// Runs the scenario of a file.
pub(super) async fn run(machine: &Machine, agent: &Agent, path: &Path, root: &Path) -> Result {
    let began = Instant::now();
    let relative = path.strip_prefix(root).ok().filter(|relative| !relative.as_os_str().is_empty());
    let name =
        relative.map_or_else(|| path.file_stem().map(PathBuf::from).unwrap_or_default(), |r| r.with_extension(""));
    let (description, problems) = match Scenario::read(path) {
        Ok(scenario) => {
            let problems = scenario_problems(machine, agent, &scenario, path).await;
            (scenario.description, problems.unwrap_or_else(|error| format!("{error}\n")))
        }
        Err(error) => (String::new(), format!("{error}\n")),
    };
    Result { name: name.display().to_string(), description, took: began.elapsed(), problems }
}

async fn scenario_problems(
    machine: &Machine,
    agent: &Agent,
    scenario: &Scenario,
    path: &Path,
) -> std::result::Result<String, SimError> {
    let mut agent = agent.clone();
    if !scenario.given.config.is_empty() {
        let mut manifest = (*agent.manifest).clone();
        manifest.config.extend(scenario.given.config.clone());
        agent.manifest = Arc::new(manifest);
    }
    let world = World::closed(&scenario.given, &agent.manifest)?;
    let name = agent.manifest.agent.name.clone();
    let simulation = Simulation::start(machine, agent, world).await?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let several = scenario.steps().count() > 1;
    let mut problems = String::new();
    for (number, step) in scenario.steps().enumerate() {
        let task = step.task.task(&name, folder)?;
        let runs = simulation.run(&task, &step.faults.faults()?).await?;
        let Some(last) = runs.last() else { continue };
        for difference in differences(&step.expect, last, &simulation).await {
            let step = if several { format!("step {}: ", number + 1) } else { String::new() };
            // Writing to a String cannot fail.
            let _ = write!(problems, "{step}{}\n{}", difference.what, difference.lines);
        }
    }
    Ok(problems)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scenarios_are_found_by_their_endings() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.toml", "a.json", "deeper/c.toml", "agent.toml", "notes.md"] {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let found = files(folder.path()).unwrap();
        let names: Vec<_> = found.iter().map(|path| path.strip_prefix(folder.path()).unwrap()).collect();
        assert_eq!(names, [Path::new("a.json"), Path::new("b.toml"), Path::new("deeper/c.toml")]);
        assert_eq!(files(&folder.path().join("b.toml")).unwrap().len(), 1);
        assert!(files(&folder.path().join("missing")).is_err());
    }
}
