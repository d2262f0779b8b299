//! The files of templates. `{{name}}` stands for the agent's name, `{{crate}}` for that as a Rust name, `{{sdk}}` for where the
//! crate agent-sdk is.

/// A file: its path and its text.
pub(super) type File = (&'static str, &'static str);

/// Scenarios, which are the same for all.
pub(super) const COMMON: &[File] = &[
    ("scenarios/hello.toml", include_str!("../../../templates/common/hello.toml")),
    ("scenarios/nameless.toml", include_str!("../../../templates/common/nameless.toml")),
];

/// Rust.
pub(super) const RUST: &[File] = &[
    ("agent.toml", include_str!("../../../templates/rust/agent.toml")),
    ("README.md", include_str!("../../../templates/rust/README.md")),
    (".gitignore", include_str!("../../../templates/rust/gitignore")),
    ("Cargo.toml", include_str!("../../../templates/rust/Cargo.toml.txt")),
    ("src/lib.rs", include_str!("../../../templates/rust/src/lib.rs")),
    ("tests/scenarios.rs", include_str!("../../../templates/rust/tests/scenarios.rs")),
];

/// JavaScript.
pub(super) const JS: &[File] = &[
    ("agent.toml", include_str!("../../../templates/js/agent.toml")),
    ("README.md", include_str!("../../../templates/js/README.md")),
    (".gitignore", include_str!("../../../templates/js/gitignore")),
    ("package.json", include_str!("../../../templates/js/package.json")),
    ("build.mjs", include_str!("../../../templates/js/build.mjs")),
    ("agent.js", include_str!("../../../templates/js/agent.js")),
    ("agent-sdk.js", include_str!("../../../../agent-sdk/js/agent-sdk.js")),
    ("agent-sdk.d.ts", include_str!("../../../../agent-sdk/js/agent-sdk.d.ts")),
];

/// Python.
pub(super) const PYTHON: &[File] = &[
    ("agent.toml", include_str!("../../../templates/python/agent.toml")),
    ("README.md", include_str!("../../../templates/python/README.md")),
    (".gitignore", include_str!("../../../templates/python/gitignore")),
    ("requirements.txt", include_str!("../../../templates/python/requirements.txt")),
    ("app.py", include_str!("../../../templates/python/app.py")),
    ("test_scenarios.py", include_str!("../../../templates/python/test_scenarios.py")),
    ("agent_sdk.py", include_str!("../../../../agent-sdk/python/agent_sdk.py")),
];

/// C.
pub(super) const C: &[File] = &[
    ("agent.toml", include_str!("../../../templates/c/agent.toml")),
    ("README.md", include_str!("../../../templates/c/README.md")),
    (".gitignore", include_str!("../../../templates/c/gitignore")),
    ("Makefile", include_str!("../../../templates/c/Makefile")),
    ("agent.c", include_str!("../../../templates/c/agent.c")),
    ("agent_sdk.c", include_str!("../../../../agent-sdk/c/agent_sdk.c")),
    ("agent_sdk.h", include_str!("../../../../agent-sdk/c/agent_sdk.h")),
    ("bindings/agent.c", include_str!("../../../../agent-sdk/c/bindings/agent.c")),
    ("bindings/agent.h", include_str!("../../../../agent-sdk/c/bindings/agent.h")),
];

/// Go.
pub(super) const GO: &[File] = &[
    ("agent.toml", include_str!("../../../templates/go/agent.toml")),
    ("README.md", include_str!("../../../templates/go/README.md")),
    (".gitignore", include_str!("../../../templates/go/gitignore")),
    ("go.mod", include_str!("../../../templates/go/go.mod")),
    ("main.go", include_str!("../../../templates/go/main.go")),
];
