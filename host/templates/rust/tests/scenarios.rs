//! The scenarios, on the component that is deployed.

use std::process::Command;

fn run(program: &str, arguments: &[&str]) {
    let folder = env!("CARGO_MANIFEST_DIR");
    let output = Command::new(program).args(arguments).current_dir(folder).output();
    let output = output.unwrap_or_else(|error| panic!("{program}, which must be in PATH: {error}"));
    let [said, told] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(output.status.success(), "{program} {}:\n{told}{said}", arguments.join(" "));
}

#[test]
fn they_pass() {
    run("agent-host", &["build"]);
    run("agent-sim", &["test", "scenarios"]);
}
