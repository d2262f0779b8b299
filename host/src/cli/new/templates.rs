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
];

/// Python.
pub(super) const PYTHON: &[File] = &[
    ("agent.toml", include_str!("../../../templates/python/agent.toml")),
    ("README.md", include_str!("../../../templates/python/README.md")),
    (".gitignore", include_str!("../../../templates/python/gitignore")),
    ("requirements.txt", include_str!("../../../templates/python/requirements.txt")),
    ("app.py", include_str!("../../../templates/python/app.py")),
    ("agent_sdk.py", include_str!("../../../../agent-sdk/python/agent_sdk.py")),
];

/// C.
pub(super) const C: &[File] = &[
    ("agent.toml", include_str!("../../../templates/c/agent.toml")),
    ("README.md", include_str!("../../../templates/c/README.md")),
    (".gitignore", include_str!("../../../templates/c/gitignore")),
    ("Makefile", include_str!("../../../templates/c/Makefile")),
    ("main.c", include_str!("../../../templates/c/main.c")),
];

/// Go.
pub(super) const GO: &[File] = &[
    ("agent.toml", include_str!("../../../templates/go/agent.toml")),
    ("README.md", include_str!("../../../templates/go/README.md")),
    (".gitignore", include_str!("../../../templates/go/gitignore")),
    ("go.mod", include_str!("../../../templates/go/go.mod")),
    ("main.go", include_str!("../../../templates/go/main.go")),
];

/// The interface between agents and hosts, for languages that are built from it.
pub(super) const WIT: &[File] = &[
    ("cache.wit", include_str!("../../../../wit/cache.wit")),
    ("deps/wasi-cli/cli.wit", include_str!("../../../../wit/deps/wasi-cli/cli.wit")),
    ("deps/wasi-clocks/clocks.wit", include_str!("../../../../wit/deps/wasi-clocks/clocks.wit")),
    ("deps/wasi-config/store.wit", include_str!("../../../../wit/deps/wasi-config/store.wit")),
    ("deps/wasi-config/world.wit", include_str!("../../../../wit/deps/wasi-config/world.wit")),
    ("deps/wasi-filesystem/filesystem.wit", include_str!("../../../../wit/deps/wasi-filesystem/filesystem.wit")),
    ("deps/wasi-http/http.wit", include_str!("../../../../wit/deps/wasi-http/http.wit")),
    ("deps/wasi-io/io.wit", include_str!("../../../../wit/deps/wasi-io/io.wit")),
    ("deps/wasi-keyvalue-draft/atomic.wit", include_str!("../../../../wit/deps/wasi-keyvalue-draft/atomic.wit")),
    ("deps/wasi-keyvalue-draft/batch.wit", include_str!("../../../../wit/deps/wasi-keyvalue-draft/batch.wit")),
    ("deps/wasi-keyvalue-draft/store.wit", include_str!("../../../../wit/deps/wasi-keyvalue-draft/store.wit")),
    ("deps/wasi-keyvalue-draft/watch.wit", include_str!("../../../../wit/deps/wasi-keyvalue-draft/watch.wit")),
    ("deps/wasi-keyvalue-draft/world.wit", include_str!("../../../../wit/deps/wasi-keyvalue-draft/world.wit")),
    ("deps/wasi-keyvalue-draft2/atomic.wit", include_str!("../../../../wit/deps/wasi-keyvalue-draft2/atomic.wit")),
    ("deps/wasi-keyvalue-draft2/batch.wit", include_str!("../../../../wit/deps/wasi-keyvalue-draft2/batch.wit")),
    ("deps/wasi-keyvalue-draft2/store.wit", include_str!("../../../../wit/deps/wasi-keyvalue-draft2/store.wit")),
    ("deps/wasi-keyvalue-draft2/watch.wit", include_str!("../../../../wit/deps/wasi-keyvalue-draft2/watch.wit")),
    ("deps/wasi-keyvalue-draft2/world.wit", include_str!("../../../../wit/deps/wasi-keyvalue-draft2/world.wit")),
    ("deps/wasi-logging/logging.wit", include_str!("../../../../wit/deps/wasi-logging/logging.wit")),
    ("deps/wasi-logging/world.wit", include_str!("../../../../wit/deps/wasi-logging/world.wit")),
    ("deps/wasi-messaging/messaging.wit", include_str!("../../../../wit/deps/wasi-messaging/messaging.wit")),
    ("deps/wasi-random/random.wit", include_str!("../../../../wit/deps/wasi-random/random.wit")),
    ("deps/wasi-sockets/sockets.wit", include_str!("../../../../wit/deps/wasi-sockets/sockets.wit")),
    ("secrets.wit", include_str!("../../../../wit/secrets.wit")),
    ("sql.wit", include_str!("../../../../wit/sql.wit")),
    ("tasks.wit", include_str!("../../../../wit/tasks.wit")),
    ("types.wit", include_str!("../../../../wit/types.wit")),
    ("worlds.wit", include_str!("../../../../wit/worlds.wit")),
];
