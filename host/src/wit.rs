//! The one door to generated code: the host's bindings for `wit/`.
//!
//! Generated types are named only here, in `capability/*/host.rs`, and in the agent layer where it calls an export.
//! Everywhere else the host speaks its own types, so that a new version of an interface is a change of these files only.
//!
//! The bindings are generated once for what the host implements ([`capabilities`]); those of the native and the
//! messaging shape re-use them, and add just the export that the host calls.

#![allow(unreachable_pub, reason = "the generator writes `pub` throughout; this module is private to the crate")]
#![allow(dead_code, reason = "the generator writes every function of the interfaces, called or not")]

mod files;

pub(crate) use files::FILES;

/// What the host implements itself.
pub(crate) mod capabilities {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "host-capabilities",
        imports: {
            // These answer from memory; an async function would box a future for each call.
            "wasi:logging": trappable,
            "wasi:config": trappable,
            "agent:runtime/tasks": trappable,
            "wasi:messaging": trappable,
            "wasi:keyvalue/store@0.2.0-draft.open": trappable,
            "wasi:keyvalue/store@0.2.0-draft2.open": trappable,
            "agent:runtime/sql.[static]connection.open": trappable,
            "agent:runtime/sql.[method]cursor.columns": trappable,
            "agent:runtime/secrets.[method]secret.reveal": trappable,
            default: async | trappable,
        },
        with: {
            "wasi:keyvalue/store@0.2.0-draft.bucket": crate::capability::key_value::Bucket,
            "wasi:keyvalue/store@0.2.0-draft2.bucket": crate::capability::key_value::Bucket,
            "wasi:keyvalue/atomics@0.2.0-draft2.cas": crate::capability::key_value::Cas,
            "agent:runtime/sql.connection": crate::capability::sql::OpenDatabase,
            "agent:runtime/sql.cursor": crate::capability::sql::Cursor,
            "agent:runtime/secrets.secret": crate::capability::secrets::Secret,
            "wasi:messaging/types.client": crate::capability::messaging::Client,
            "wasi:messaging/types.message": crate::capability::messaging::Message,
        },
    });
}

/// The native shape: `agent:runtime/handler`.
pub(crate) mod native {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "host-native",
        exports: { default: async },
        with: {
            "agent:runtime": super::capabilities::agent::runtime,
            "wasi:keyvalue@0.2.0-draft": super::capabilities::wasi::keyvalue0_2_0_draft,
            "wasi:keyvalue@0.2.0-draft2": super::capabilities::wasi::keyvalue0_2_0_draft2,
            "wasi:logging": super::capabilities::wasi::logging,
            "wasi:config": super::capabilities::wasi::config,
            "wasi:messaging/types": super::capabilities::wasi::messaging::types,
        },
    });
}

/// The messaging shape: `wasi:messaging/incoming-handler`.
pub(crate) mod messaging {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "host-messaging",
        exports: { default: async },
        with: {
            "agent:runtime": super::capabilities::agent::runtime,
            "wasi:keyvalue@0.2.0-draft": super::capabilities::wasi::keyvalue0_2_0_draft,
            "wasi:keyvalue@0.2.0-draft2": super::capabilities::wasi::keyvalue0_2_0_draft2,
            "wasi:logging": super::capabilities::wasi::logging,
            "wasi:config": super::capabilities::wasi::config,
            "wasi:messaging/types": super::capabilities::wasi::messaging::types,
        },
    });
}
