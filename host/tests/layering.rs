//! The import rule: data flows one way, so a module imports only what stands to its right.
//!
//! This reads the `crate::…` paths of the source and holds them against the table below, which is also the table of
//! `docs/architecture.md`. A new module needs a row; a new arrow needs an argument.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test's helpers fail like the test itself"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Vocabulary and ports: plain data and traits, importable by everything.
const SHARED: &[&str] = &[
    "task",
    "manifest",
    "units",
    "text",
    "signature",
    "trace",
    "memory",
    "delivery",
    "records",
    "catalog",
    "agents",
    "dead_letters",
    "secrets",
];

/// module → what it may import beyond `SHARED`. A module of `SHARED` may import only others of `SHARED`.
const RULE: &[(&str, &[&str])] = &[
    ("task", &[]),
    ("units", &[]),
    ("text", &[]),
    ("trace", &[]),
    ("manifest", &[]),
    // It checks what is signed: keys and texts in, an answer out.
    ("signature", &[]),
    ("memory", &[]),
    ("delivery", &[]),
    // The ports' real implementations live beside their embedded twins and share a connection to the host's schema.
    ("records", &["store"]),
    ("catalog", &["store"]),
    ("agents", &[]),
    ("secrets", &["store"]),
    ("dead_letters", &[]),
    // What leaves beside the dispatch: it knows ports only.
    ("relay", &[]),
    ("store", &[]),
    ("wit", &["capability"]),
    ("embedded", &[]),
    ("capability", &["wit", "embedded", "store"]),
    ("agent", &["wit", "capability"]),
    ("dispatch", &["agent", "capability", "relay"]),
    ("broker", &[]),
    ("http", &[]),
    ("deploy", &["agent", "dispatch", "capability"]),
    ("telemetry", &[]),
    ("lifecycle", &[]),
    ("config", &["http", "telemetry", "broker"]),
    ("package", &[]),
    // The broker's topology is data, which one command prints; the interface's texts are, which another one writes.
    ("cli", &["broker", "config", "embedded", "package", "wit"]),
    // Another program's root: the parts of a host that run a task.
    ("sim", &["agent", "capability", "package"]),
    (
        "app",
        &[
            "agent",
            "broker",
            "capability",
            "config",
            "deploy",
            "dispatch",
            "embedded",
            "http",
            "lifecycle",
            "relay",
            "store",
            "telemetry",
            "cli",
            "package",
            // `dev` sends the first task of an agent's scenarios.
            "sim",
        ],
    ),
];

/// Drivers, and the only modules that may name them.
const DRIVERS: &[(&str, &[&str])] = &[
    ("lapin", &["broker", "cli"]),
    ("wasmtime", &["agent", "capability", "wit"]),
    ("wasmtime_wasi", &["agent", "capability", "wit"]),
    ("wasmtime_wasi_io", &["capability"]),
    ("axum", &["http", "app"]),
    ("sqlx", &["store", "records", "catalog", "secrets", "capability", "embedded", "cli"]),
    ("deadpool_redis", &["capability", "cli"]),
    // The command line's client, and the collector's.
    ("reqwest", &["cli", "telemetry"]),
    ("oci_client", &["cli"]),
    ("docker_credential", &["cli"]),
    ("opentelemetry", &["telemetry"]),
    ("opentelemetry_sdk", &["telemetry"]),
    ("opentelemetry_proto", &["telemetry"]),
    ("ring", &["secrets", "signature"]),
];

#[test]
fn every_module_imports_only_what_stands_to_its_right() {
    let rule: BTreeMap<_, _> = RULE.iter().copied().collect();
    let mut violations = Vec::new();
    for (module, file, line, imported) in imports("crate::") {
        let Some(allowed) = rule.get(module.as_str()) else {
            violations.push(format!("{module} has no row in the rule (first seen in {file})"));
            continue;
        };
        let shared = SHARED.contains(&imported.as_str());
        if imported != module && !shared && !allowed.contains(&imported.as_str()) {
            violations.push(format!("{file}:{line}: {module} imports {imported}"));
        }
    }
    violations.dedup();
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

#[test]
fn every_driver_stays_behind_its_door() {
    let mut violations = Vec::new();
    for (driver, modules) in DRIVERS {
        for (module, file, line, _) in imports(&format!("{driver}::")) {
            if !modules.contains(&module.as_str()) {
                violations.push(format!("{file}:{line}: {module} names {driver}"));
            }
        }
    }
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

#[test]
fn the_rule_names_no_module_that_is_gone() {
    let present: BTreeSet<String> = files().into_iter().map(|(module, _)| module).collect();
    let gone: Vec<_> = RULE.iter().map(|(module, _)| *module).filter(|module| !present.contains(*module)).collect();
    assert!(gone.is_empty(), "{gone:?}");
}

/// (module, file, line number, name after the prefix) for each use of `prefix` in the source.
fn imports(prefix: &str) -> Vec<(String, String, usize, String)> {
    let mut found = Vec::new();
    for (module, path) in files() {
        let text = std::fs::read_to_string(&path).unwrap();
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for (position, _) in code.match_indices(prefix) {
                let before = code.get(..position).unwrap_or_default();
                let in_a_string = before.matches('"').count() % 2 == 1;
                let before = before.chars().next_back();
                if in_a_string || before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                    continue;
                }
                let rest = code.get(position + prefix.len()..).unwrap_or_default();
                let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                // A path by module, not a macro of the crate root.
                let is_macro = rest.get(name.len()..).is_some_and(|rest| rest.starts_with('!'));
                if !is_macro {
                    found.push((module.clone(), path.display().to_string(), number + 1, name));
                }
            }
        }
    }
    found
}

/// (top-level module, file) of every source file but `main.rs`, `lib.rs` and tests.
fn files() -> Vec<(String, PathBuf)> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    let mut folders = vec![source.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let relative = path.strip_prefix(&source).unwrap();
            // Tests may put any two things together.
            let is_test =
                path.file_stem().is_some_and(|stem| stem == "tests") || relative.iter().any(|part| part == "tests");
            let first = relative.iter().next().unwrap().to_string_lossy();
            let module = first.trim_end_matches(".rs").to_owned();
            if path.extension().is_some_and(|extension| extension == "rs")
                && module != "main"
                && module != "lib"
                && !is_test
            {
                files.push((module, path));
            }
        }
    }
    files
}
