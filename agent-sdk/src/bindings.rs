//! The raw bindings to the host's interfaces, generated once here for every agent.
//!
//! The world is `agent:runtime/agent` less the parts of WASI that Rust's standard library already binds. An import that
//! an agent never calls leaves no trace in its component.

wit_bindgen::generate!({
    path: "../wit",
    inline: "
        package agent:sdk;

        world guest {
            include agent:runtime/capabilities@0.1.0;
            import wasi:http/outgoing-handler@0.2.12;
            export agent:runtime/handler@0.1.0;
        }
    ",
    world: "agent:sdk/guest",
    generate_all,
    generate_unused_types: true,
    pub_export_macro: true,
    default_bindings_module: "agent_sdk::__private::bindings",
    runtime_path: "agent_sdk::__private::wit_bindgen::rt",
    // Only where nothing holds a resource, which cannot be compared.
    additional_type_attributes: {
        "agent:runtime/types@0.1.0/failure": [#[derive(PartialEq)]],
        "agent:runtime/types@0.1.0/output": [#[derive(PartialEq)]],
        "agent:runtime/tasks@0.1.0/submit-options": [#[derive(PartialEq)]],
        "agent:runtime/sql@0.1.0/db-value": [#[derive(PartialEq)]],
        "agent:runtime/sql@0.1.0/parameter-value": [#[derive(PartialEq)]],
        "agent:runtime/sql@0.1.0/db-error": [#[derive(PartialEq)]],
    },
});
