//! What operators deploy, each by a program that knows the format: Prometheus' own for its rules, the schemas of Kubernetes and
//! of compose files.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::workspace::{Workspace, find_program};
use crate::{process, python, ui};

/// Manifests for Kubernetes, all of whose kinds are its own. Those of KEDA are of no version of Kubernetes.
const KUBERNETES: [&str; 1] = ["deploy/kubernetes/agent-host.yaml"];

pub(super) fn run(workspace: &Workspace) -> Result<()> {
    prometheus(&workspace.root)?;
    grafana(&workspace.root)?;
    schemas(workspace)
}

/// The rules, what fires when, and the configuration beside them.
fn prometheus(root: &Path) -> Result<()> {
    let Some(promtool) = find_program("promtool") else {
        ui::warn(
            "promtool is not installed, so the alert rules were NOT checked (apt-get install prometheus has it, and \
             `systemctl disable --now prometheus` stops the server that comes with it)",
        );
        return Ok(());
    };
    for arguments in
        [["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"], ["check", "config", "prometheus.yml"]]
    {
        let mut command = Command::new(&promtool);
        command.current_dir(root.join("deploy/prometheus")).args(arguments);
        let name = format!("promtool {}", arguments.join(" "));
        process::output(&name, &mut command)?;
        ui::say(&name);
    }
    Ok(())
}

/// That its panels have queries; that these are of metrics which there are is a test's to tell, for that takes a host.
fn grafana(root: &Path) -> Result<()> {
    let path = "deploy/grafana/dashboards/agent-host.json";
    let text = std::fs::read_to_string(root.join(path)).with_context(|| format!("could not read {path}"))?;
    let dashboard: serde_json::Value = serde_json::from_str(&text).with_context(|| format!("{path} is not JSON"))?;
    let of = |value: &serde_json::Value, key: &str| value.get(key).and_then(|list| list.as_array()).map_or(0, Vec::len);
    for panel in dashboard.get("panels").and_then(|panels| panels.as_array()).into_iter().flatten() {
        let is_row = panel.get("type").is_some_and(|kind| kind == "row");
        ensure!(is_row || of(panel, "targets") > 0, "{path}: the panel {} asks for nothing", panel["title"]);
    }
    ensure!(of(&dashboard, "panels") > 0, "{path} has no panels");
    Ok(())
}

/// Against the schemas that come with programs from PyPI. These are installed once, which takes a network.
fn schemas(workspace: &Workspace) -> Result<()> {
    let works = |command: &mut Command| process::output("a check of schemas", command.arg("--version")).is_ok();
    let installed = |name: &str| match python::program(workspace, name, &[name], works) {
        Ok(program) => Some(program),
        Err(error) => {
            ui::warn(&format!("{name} cannot be installed, so its files were NOT checked: {error:#}"));
            None
        }
    };
    if let Some(program) = installed("kubernetes-validate") {
        let mut command = Command::new(program);
        process::output("kubernetes-validate", command.current_dir(&workspace.root).arg("--strict").args(KUBERNETES))?;
        ui::say("kubernetes-validate --strict (the kinds of KEDA have no schema there, and were not checked)");
    }
    if let Some(program) = installed("check-jsonschema") {
        let arguments = ["--builtin-schema", "vendor.compose-spec", "docker-compose.yml"];
        process::output("check-jsonschema", Command::new(program).current_dir(&workspace.root).args(arguments))?;
        ui::say("check-jsonschema docker-compose.yml");
    }
    Ok(())
}
