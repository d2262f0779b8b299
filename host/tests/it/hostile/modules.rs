//! What is sent as a module and is none, or is one that no host should run: refused with the reason, and the running revision
//! stays.

use std::fmt::Write as _;

use reqwest::StatusCode;
use serde_json::Value;

use super::{canary_answers, deploy_canary};
use crate::common::{Host, HostBuilder, agents_dir};

/// The offsets in a binary at which one of its outermost sections begins, up to the last that is not custom.
fn section_offsets(wasm: &[u8]) -> Vec<usize> {
    let mut offsets = vec![8];
    let mut at = 8;
    // Without the custom sections at its end, such as names, a module is as good.
    let mut needed = 1;
    while at < wasm.len() {
        let is_custom = wasm[at] == 0;
        let (mut bytes, mut shift, mut cursor) = (0_usize, 0, at + 1);
        loop {
            let byte = wasm[cursor];
            bytes |= usize::from(byte & 0x7f) << shift;
            (shift, cursor) = (shift + 7, cursor + 1);
            if byte & 0x80 == 0 {
                break;
            }
        }
        at = cursor + bytes;
        offsets.push(at);
        if !is_custom {
            needed = offsets.len() - 1;
        }
    }
    offsets.truncate(needed);
    offsets
}

fn component(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap()
}

/// A component in a component, so many times.
fn nested(depth: usize) -> Vec<u8> {
    let mut wasm = component("(component)");
    let header = wasm.clone();
    for _ in 0..depth {
        let mut outer = header.clone();
        // Section 4 holds one component, after its size in LEB128.
        outer.push(4);
        let mut bytes = wasm.len();
        while bytes >= 0x80 {
            outer.push(u8::try_from(bytes & 0x7f).unwrap() | 0x80);
            bytes >>= 7;
        }
        outer.push(u8::try_from(bytes).unwrap());
        outer.extend_from_slice(&wasm);
        wasm = outer;
    }
    wasm
}

fn many_types() -> Vec<u8> {
    let mut text = "(component".to_owned();
    for number in 0..10_000 {
        write!(text, "(type (func (param \"p{number}\" u32)))").unwrap();
    }
    text.push(')');
    component(&text)
}

/// What is sent, the bytes, and what the answer says.
fn cases(module: &[u8]) -> Vec<(String, Vec<u8>, &'static str)> {
    let png = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../xtask/assets/picture.png")).unwrap();
    let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    let precompiled = wasmtime::Engine::default().precompile_component(&component("(component)")).unwrap();
    let named: [(&str, Vec<u8>, &str); 18] = [
        ("nothing", vec![], "WebAssembly"),
        ("text", b"(module)".to_vec(), "WebAssembly"),
        ("a picture", png, "WebAssembly"),
        ("a program", program[..1 << 16].to_vec(), "precompiled"),
        ("zeroes", vec![0; 1 << 20], "WebAssembly"),
        ("the magic number alone", b"\0asm".to_vec(), "WebAssembly"),
        ("a version that there is not", b"\0asm\xff\xff\xff\xff".to_vec(), "WebAssembly"),
        ("an empty component", component("(component)"), "agent:runtime/handler"),
        ("an empty core module", component("(module)"), ""),
        ("a core module with unknown imports", component(r#"(module (import "env" "launch" (func)))"#), ""),
        ("a component with unknown imports", component(r#"(component (import "launch" (func)))"#), "launch"),
        (
            "an import whose name would clear the screen",
            component("(component (import \"\\1b[2J\\0aERROR forged\" (func)))"),
            "\\u{1b}[2J\\nERROR forged",
        ),
        (
            "a handler of a later version",
            component(r#"(component (instance $i) (export "agent:runtime/handler@0.2.0" (instance $i)))"#),
            "agent:runtime/handler@0.1.0",
        ),
        (
            "a handler without its function",
            component(r#"(component (instance $i) (export "agent:runtime/handler@0.1.0" (instance $i)))"#),
            "",
        ),
        (
            "a handler that is a component",
            component(r#"(component (component $c) (export "agent:runtime/handler@0.1.0" (component $c)))"#),
            "",
        ),
        ("a component with 10,000 types", many_types(), "at most 8192 are allowed"),
        ("components nested 1,000 deep", nested(1_000), ""),
        ("precompiled code", precompiled, "precompiled"),
    ];
    let mut cases: Vec<_> = named.into_iter().map(|(name, bytes, why)| (name.to_owned(), bytes, why)).collect();
    for offset in section_offsets(module) {
        for end in [offset.saturating_sub(1), offset, offset + 1].into_iter().filter(|end| *end < module.len()) {
            cases.push((format!("the first {end} bytes of a module"), module[..end].to_vec(), ""));
        }
    }
    cases
}

async fn revision(host: &Host) -> Value {
    host.get("/v1/agents/echo").await.unwrap().json::<Value>().await.unwrap()["revision"].clone()
}

#[tokio::test]
async fn what_is_no_module_is_refused_and_the_running_revision_stays() {
    let mut host = HostBuilder::bare().start().await;
    deploy_canary(&host).await;
    let before = revision(&host).await;
    let manifest = std::fs::read_to_string(agents_dir().join("echo/agent.toml")).unwrap();
    let module = std::fs::read(agents_dir().join("echo/echo.wasm")).unwrap();
    for (name, bytes, why) in cases(&module) {
        let answer = host.deploy("echo", &manifest, bytes).await;
        let (status, problem) = (answer.status(), answer.json::<Value>().await.unwrap());
        let detail = problem["detail"].as_str().unwrap_or_default();
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{name}: {problem}");
        assert!(!detail.is_empty() && detail.contains(why), "{name}: {detail}");
        assert!(!detail.contains(|character: char| character.is_control()), "{name}: {detail:?}");
    }
    assert_eq!(revision(&host).await, before, "a refused deploy uses no revision number");
    canary_answers(&host, "what is no module").await;
    assert!(!host.log().contains("\u{1b}[2J"));
}

#[tokio::test]
async fn a_module_larger_than_the_host_takes_is_refused_as_it_arrives() {
    let host = HostBuilder::bare().start().await;
    deploy_canary(&host).await;
    let manifest = std::fs::read_to_string(agents_dir().join("echo/agent.toml")).unwrap();
    let answer = host.deploy("echo", &manifest, vec![0; (128 << 20) + 1]).await;
    assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
    canary_answers(&host, "a huge module").await;
}
