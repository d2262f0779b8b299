//! The program from outside, without servers.

#![allow(clippy::unwrap_used, reason = "test code: a broken expectation ends the test")]

use std::process::Command;

fn plan(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_chaos")).arg("--plan").args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_printed_seed_repeats_the_schedule() {
    let drawn = plan(&["--tasks", "300"]);
    let seed = drawn.lines().next().and_then(|line| line.strip_prefix("seed ")).unwrap();
    assert_eq!(plan(&["--tasks", "300", "--seed", seed]), drawn);
    assert_ne!(plan(&["--tasks", "300", "--seed", "1"]), plan(&["--tasks", "300", "--seed", "2"]));
}

#[test]
fn faults_grow_with_the_tasks_and_can_be_left_out() {
    let line = |arguments: &[&str]| {
        let plan = plan(arguments);
        plan.lines().find(|line| line.starts_with("faults")).unwrap().to_owned()
    };
    let all = line(&["--tasks", "100000", "--seed", "1"]);
    for part in ["200 kills", "7 restarts of RabbitMQ", "7 of PostgreSQL", "6 of Redis", "100 disturbed"] {
        assert!(all.contains(part), "{all}");
    }
    let none = line(&["--tasks", "1000", "--kills", "0", "--restarts", "0", "--cuts", "0"]);
    assert!(
        none.contains("0 kills of hosts; 0 restarts of RabbitMQ, 0 of PostgreSQL, 0 of Redis; 0 disturbed"),
        "{none}"
    );
}
