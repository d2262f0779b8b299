//! Compiling in a process of its own: what it may take, what it refuses, and what a restart need not do again.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use agent_host::agent::{ChildCompiler, CompileError, CompileLimits, Compiler as _, Engine, EngineConfig, compile};
use agent_host::units::ByteSize;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;

use super::common::{Host, HostBuilder, agent_host, agents_dir, wait_until};

fn compiler(limits: CompileLimits) -> ChildCompiler {
    let engine = Engine::new(&EngineConfig { instances_max: 1, memory_bytes_max: 1 << 20 }).unwrap();
    ChildCompiler::new(env!("CARGO_BIN_EXE_agent-host").into(), limits, &engine)
}

/// A component of functions that each keep an optimiser busy.
fn heavy(functions: usize, operations: usize) -> bytes::Bytes {
    let operation = "local.get 0 i32.load local.get 1 i32.mul local.set 1 local.get 1 local.get 0 i32.store ";
    let function = format!("(func (param i32 i32) {})", operation.repeat(operations));
    component(&format!("(memory 1) {}", function.repeat(functions)))
}

/// A component around a core module.
fn component(core: &str) -> bytes::Bytes {
    wat::parse_str(format!("(component (core module {core}))")).unwrap().into()
}

#[tokio::test]
async fn the_compiling_process_keeps_the_rules_of_compilers() {
    compile::conformance::run(&compiler(CompileLimits::default())).await;
}

#[tokio::test]
async fn a_bomb_is_refused_at_the_limit_that_it_meets() {
    let tight = |limits: CompileLimits| async move {
        let refused = compiler(limits).compile(heavy(8, 20_000), tempfile::tempfile().unwrap()).await;
        let Err(error @ CompileError::Limit { .. }) = refused else { panic!("{refused:?}") };
        error.to_string()
    };
    let limits = CompileLimits::default();
    let said = tight(CompileLimits { memory: ByteSize(64 << 20), ..limits }).await;
    assert!(said.contains("64MiB of memory") && said.contains("compile_memory_max"), "{said}");
    let said = tight(CompileLimits { code: ByteSize(64 << 10), ..limits }).await;
    assert!(said.contains("64KiB of code"), "{said}");
    let said = tight(CompileLimits { processor_time: Duration::from_secs(1), ..limits }).await;
    assert!(said.contains("1s of processor time") && said.contains("compile_time_max"), "{said}");
}

#[tokio::test]
async fn the_compiling_process_ends_with_its_host() {
    let engine = "0".repeat(64);
    let limits = ["--memory-bytes", "1000000000", "--processor-seconds", "100", "--code-bytes", "1000000000"];
    let start =
        || agent_host().args(["compile", "--engine", &engine]).args(limits).stdin(std::process::Stdio::piped()).spawn();
    // It waits for a module that never comes whole.
    let mut waiting = start().unwrap();
    let mut input = waiting.stdin.take().unwrap();
    input.write_all(&100_u64.to_le_bytes()).await.unwrap();
    drop(input);
    assert!(!waiting.wait().await.unwrap().success());
    // And it makes no code for another engine.
    let mut other = start().unwrap();
    let mut input = other.stdin.take().unwrap();
    input.write_all(&8_u64.to_le_bytes()).await.unwrap();
    input.write_all(b"\0asm\x0d\0\x01\0").await.unwrap();
    let output = other.wait_with_output().await.unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("restart the host"), "{said}");
    assert!(output.stdout.is_empty());
}

/// Processes that a host has started and that compile.
fn compiling(host: &Host) -> usize {
    let children = std::fs::read_dir("/proc").unwrap().flatten().filter(|entry| {
        let read = |file: &str| std::fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        let parent = read("status").lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse::<u32>().ok());
        parent == Some(host.pid()) && read("cmdline").split('\0').any(|argument| argument == "compile")
    });
    children.count()
}

/// Bytes of a host that are or were resident, from `/proc`.
fn resident(host: &Host, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", host.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[tokio::test]
async fn a_bomb_costs_the_host_nothing_and_the_running_revision_stays() {
    let host = HostBuilder::bare().with_samples().env("AGENT_HOST_COMPILE_TIME_MAX", "2s").start().await;
    let manifest = std::fs::read_to_string(agents_dir().join("echo/agent.toml")).unwrap();
    let before = resident(&host, "VmRSS");
    // Each function is within its limit; all of them are not.
    let bomb = exporting_a_handler(&heavy(40, 20_000));
    let (refused, seen) = tokio::join!(host.deploy("echo", &manifest, bomb), async {
        wait_until("a process compiles", async || (compiling(&host) > 0).then_some(())).await;
        host.run("echo", "text/plain", "meanwhile").await.text().await.unwrap()
    });
    assert_eq!(seen, "meanwhile");
    assert_eq!(refused.status(), 422);
    let problem: Value = refused.json().await.unwrap();
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("2s of processor time") && detail.contains("compile_time_max"), "{detail}");
    assert_eq!(compiling(&host), 0, "no process is left");
    let grown = resident(&host, "VmHWM").saturating_sub(before);
    assert!(grown < 100 << 20, "the host grew by {grown} bytes; the module has {}", heavy(40, 20_000).len());
    assert_eq!(host.run("echo", "text/plain", "after").await.text().await.unwrap(), "after");
}

/// Makes a component that passes for an agent until it is compiled.
fn exporting_a_handler(inner: &[u8]) -> Vec<u8> {
    let handler =
        wat::parse_str(r#"(component (instance $handler) (export "agent:runtime/handler@0.1.0" (instance $handler)))"#)
            .unwrap();
    // A component nested in it comes right behind the preamble: section 4, its size, the component.
    let mut size = Vec::new();
    let mut rest = inner.len();
    loop {
        let more = rest >> 7;
        size.push(u8::try_from(rest & 0x7f).unwrap() | if more > 0 { 0x80 } else { 0 });
        rest = more;
        if rest == 0 {
            break;
        }
    }
    [&handler[..8], &[4], &size, inner, &handler[8..]].concat()
}

#[tokio::test]
async fn what_is_no_module_is_refused_before_it_is_compiled() {
    let host = HostBuilder::bare().with_samples().start().await;
    let manifest = std::fs::read_to_string(agents_dir().join("echo/agent.toml")).unwrap();
    let good = std::fs::read(agents_dir().join("echo/echo.wasm")).unwrap();
    let engine = Engine::new(&EngineConfig { instances_max: 1, memory_bytes_max: 1 << 20 }).unwrap();
    let nested = (0..40).fold(b"\0asm\x0d\0\x01\0".to_vec(), |inner, _| exporting_a_handler(&inner));
    let uploads: BTreeMap<&str, (Vec<u8>, &str)> = BTreeMap::from([
        ("precompiled", (engine.inner().precompile_component(&good).unwrap(), "precompiled code")),
        ("precompiled, cut off", (b"\x7fELF\x02\x01\x01".to_vec(), "precompiled code")),
        ("a program", (std::fs::read("/proc/self/exe").unwrap()[..4096].to_vec(), "precompiled code")),
        ("text", (b"(component)".to_vec(), "text")),
        ("empty", (Vec::new(), "empty")),
        ("anything", (b"hello".to_vec(), "not valid WebAssembly")),
        ("cut off", (good[..good.len() / 2].to_vec(), "not valid WebAssembly")),
        ("a core module", (b"\0asm\x01\0\0\0".to_vec(), "core module")),
        ("10,000 types", (component(&"(type (func))".repeat(10_000)).to_vec(), "at most 8192")),
        ("100,000 functions", (component(&"(func)".repeat(100_000)).to_vec(), "at most 65536")),
        (
            "a large function",
            (component(&format!("(func {})", "i32.const 1 drop ".repeat(400_000))).to_vec(), "bytes in one function"),
        ),
        ("a million exports", (exports(200_000), "at most 100000")),
        ("deep", (nested, "levels of nested modules")),
    ]);
    for (what, (module, expected)) in uploads {
        let answer = host.deploy("echo", &manifest, module).await;
        let status = answer.status();
        let problem: Value = answer.json().await.unwrap();
        assert_eq!(status, 422, "{what}: {problem}");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(expected), "{what}: {detail}");
        assert!(detail.len() < 2_000, "{what}: {} bytes", detail.len());
    }
    assert_eq!(host.run("echo", "text/plain", "still there").await.text().await.unwrap(), "still there");
}

/// A component with a core module that has so many exports.
fn exports(count: usize) -> Vec<u8> {
    let exports: String = (0..count).map(|number| format!("(export \"{number}\" (func 0))")).collect();
    component(&format!("(func) {exports}")).to_vec()
}

/// Entries of compiled code, by name, with what tells one file from its replacement.
fn entries(data: &Path) -> BTreeMap<String, u64> {
    let files = std::fs::read_dir(data.join("code")).unwrap().map(Result::unwrap);
    let entries = files.filter(|file| file.file_name().to_string_lossy().ends_with(".code"));
    entries.map(|file| (file.file_name().to_string_lossy().into_owned(), file.metadata().unwrap().ino())).collect()
}

#[tokio::test]
async fn a_restarted_host_compiles_nothing() {
    let data = Arc::new(tempfile::TempDir::new().unwrap());
    let start = || HostBuilder::bare().with_samples().env("AGENT_HOST_DATA_DIR", data.path().to_str().unwrap()).start();
    let mut host = start().await;
    assert!(host.terminate().await.success());
    let compiled = entries(data.path());
    assert!(compiled.len() >= 7, "all samples: {compiled:?}");
    let mut host = start().await;
    assert_eq!(host.run("echo", "text/plain", "again").await.text().await.unwrap(), "again");
    assert!(host.terminate().await.success());
    assert_eq!(entries(data.path()), compiled, "none was replaced");
    // A damaged entry is compiled anew, and said so.
    let name = compiled.keys().next().unwrap();
    let path = data.path().join("code").join(name);
    let mut entry = std::fs::read(&path).unwrap();
    let middle = entry.len() / 2;
    entry[middle] ^= 1;
    std::fs::write(&path, entry).unwrap();
    let mut host = start().await;
    assert!(host.log().contains("the module is compiled anew"));
    assert!(host.terminate().await.success());
    let mended = entries(data.path());
    assert_eq!(mended.keys().collect::<Vec<_>>(), compiled.keys().collect::<Vec<_>>());
    assert_ne!(mended[name], compiled[name]);
}

#[tokio::test]
async fn a_host_that_can_keep_no_code_still_runs() {
    let data = tempfile::TempDir::new().unwrap();
    std::fs::write(data.path().join("code"), b"no folder").unwrap();
    let builder = HostBuilder::bare().with_samples().env("AGENT_HOST_DATA_DIR", data.path().to_str().unwrap());
    let mut host = builder.start().await;
    assert_eq!(host.run("echo", "text/plain", "all the same").await.text().await.unwrap(), "all the same");
    assert!(host.log().contains("compiled code cannot be kept"));
}
