//! What every compiler does, in a process of its own or not.

use std::io::{Read as _, Seek as _};

use super::{CompileError, Compiler};

/// Holds a compiler to the rules.
///
/// # Panics
/// Where a rule is broken.
#[allow(clippy::unwrap_used, clippy::panic, reason = "a test's helpers fail like the test itself")]
pub async fn run(compiler: &dyn Compiler) {
    let component = b"\0asm\x0d\0\x01\0";
    let mut code = tempfile::tempfile().unwrap();
    compiler.compile(bytes::Bytes::from_static(component), code.try_clone().unwrap()).await.unwrap();
    let mut compiled = Vec::new();
    code.rewind().unwrap();
    code.read_to_end(&mut compiled).unwrap();
    let kind = wasmtime::Engine::detect_precompiled(&compiled);
    assert!(matches!(kind, Some(wasmtime::Precompiled::Component)), "code of a component");

    // An empty core module, one with a function that does not validate, a component with a broken one in it, nothing.
    let invalid: &[&[u8]] = &[
        b"\0asm\x01\0\0\0",
        b"\0asm\x01\0\0\0\x01\x05\x01\x60\0\x01\x7f\x03\x02\x01\0\x0a\x04\x01\x02\0\x0b",
        b"\0asm\x0d\0\x01\0\x01\x09\0asm\x01\0\0\0\x01",
        b"",
    ];
    for module in invalid {
        let refused = compiler.compile(bytes::Bytes::from_static(module), tempfile::tempfile().unwrap()).await;
        match refused {
            Err(CompileError::Module(said)) => assert!(!said.is_empty()),
            other => panic!("{module:?} gives {other:?}"),
        }
    }

    // They do not get into each other's way.
    let many = (0..8).map(|_| compiler.compile(bytes::Bytes::from_static(component), tempfile::tempfile().unwrap()));
    assert!(futures::future::join_all(many).await.iter().all(Result::is_ok));
}
