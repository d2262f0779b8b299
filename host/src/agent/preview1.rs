//! Core modules, as most compilers emit them for WASI's first preview (`wasm32-wasip1`), made components before they are
//! compiled. A module that exports what an agent of another shape does, under the names that the component model has for it
//! (`agent:runtime/handler@0.1.0#handle`), is one of that shape; any other is a program.
//!
//! So there is one way to run an agent. A program's files, clocks, random numbers and streams are those of every other
//! agent, with the same grants and the same bounds; wasmtime-wasi's own support of the preview has host functions of its
//! own, which know nothing of a folder's quota.
//!
//! wasmtime's adapter translates. It was made before a program could end with more than success or failure, so the one
//! function that ends a program is translated by an adapter of ours ([`EXIT_ADAPTER`]). Which one a function is translated
//! by goes by the name that the program imports it from, and so that name is written over.

mod world;

use std::borrow::Cow;

use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER as ADAPTER, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER as REACTOR_ADAPTER,
};
use wasmparser::{Encoding, Parser, Payload};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use super::surface;

/// Where programs import from.
pub(super) const MODULE: &str = "wasi_snapshot_preview1";
/// The function that a program starts at.
pub(super) const START: &str = "_start";
/// Where they import from to end, once that is written over: as long as what was there.
const EXIT_MODULE: &str = "wasi_preview1_exitcode";
const _: () = assert!(EXIT_MODULE.len() == MODULE.len());
/// The function that ends a program.
const EXIT: &str = "proc_exit";

/// Hands the exit code on.
const EXIT_ADAPTER: &str = r#"(module
  (import "wasi:cli/exit@0.2.12" "exit-with-code" (func $exit (param i32)))
  (func (export "proc_exit") (param $code i32)
    (call $exit (local.get $code))
    unreachable))"#;
/// What it imports.
const EXIT_WORLD: &str = "package wasi:cli@0.2.12;
interface exit { exit-with-code: func(status-code: u8); }
world exit-code { import exit; }";

/// What decides about the component that is made of a module, to be hashed.
pub(super) fn adapters() -> impl Iterator<Item = &'static [u8]> {
    let interface = crate::wit::FILES.iter().map(|(_, text)| text.as_bytes());
    [ADAPTER, REACTOR_ADAPTER, EXIT_ADAPTER.as_bytes()].into_iter().chain(interface)
}

/// The functions that a program can import.
pub(super) fn offered() -> Vec<&'static str> {
    let payloads = Parser::new(0).parse_all(ADAPTER).filter_map(Result::ok);
    let sections = payloads.filter_map(|payload| match payload {
        Payload::ExportSection(section) => Some(section),
        _ => None,
    });
    sections.flatten().filter_map(Result::ok).map(|export| export.name).collect()
}

/// Makes a component of a core module; a component stays as it is. In the compiling process: what a module takes here is as
/// little bounded as what compiling it takes.
///
/// # Errors
/// It is no program, in whatever way. The message says how.
pub(super) fn component(module: &[u8]) -> Result<Cow<'_, [u8]>, String> {
    if !is_core(module) {
        return Ok(Cow::Borrowed(module));
    }
    let is_program = !has_entries(module);
    let made = with_exit_codes(module).and_then(|(module, exits)| {
        let (module, adapter) =
            if is_program { (module, ADAPTER) } else { (world::described(module)?, REACTOR_ADAPTER) };
        let mut encoder = ComponentEncoder::default().validate(false).module(&module)?.adapter(MODULE, adapter)?;
        if exits {
            encoder = encoder.adapter(EXIT_MODULE, &exit_adapter()?)?;
        }
        encoder.encode()
    });
    let what = if is_program { "program of WASI" } else { "agent" };
    made.map(Cow::Owned).map_err(|error| format!("it is no {what}: {error:#}"))
}

/// Whether it exports functions of interfaces: then that is how it is run.
fn has_entries(module: &[u8]) -> bool {
    let payloads = Parser::new(0).parse_all(module).filter_map(Result::ok);
    let exports = payloads.filter_map(|payload| match payload {
        Payload::ExportSection(section) => Some(section),
        _ => None,
    });
    exports.flatten().filter_map(Result::ok).any(|export| surface::entry(export.name).is_some())
}

/// Whether it is a core module, as its first bytes say.
fn is_core(module: &[u8]) -> bool {
    let version = Parser::new(0).parse_all(module).next();
    matches!(version, Some(Ok(Payload::Version { encoding: Encoding::Module, .. })))
}

/// The module with its way to end written over, and whether it has one.
fn with_exit_codes(module: &[u8]) -> anyhow::Result<(Cow<'_, [u8]>, bool)> {
    let mut changed = Cow::Borrowed(module);
    for payload in Parser::new(0).parse_all(module) {
        let Payload::ImportSection(section) = payload? else { continue };
        for import in section.into_imports() {
            let import = import?;
            if (import.module, import.name) != (MODULE, EXIT) {
                continue;
            }
            // The name is a part of the module's own bytes.
            let start = (import.module.as_ptr() as usize).saturating_sub(module.as_ptr() as usize);
            if let Some(name) = changed.to_mut().get_mut(start..start.saturating_add(MODULE.len())) {
                name.copy_from_slice(EXIT_MODULE.as_bytes());
            }
        }
        break;
    }
    let exits = matches!(changed, Cow::Owned(_));
    Ok((changed, exits))
}

fn exit_adapter() -> anyhow::Result<Vec<u8>> {
    let mut resolve = Resolve::default();
    let package = resolve.push_str("exit.wit", EXIT_WORLD)?;
    let world = resolve.select_world(&[package], None)?;
    let mut adapter = wat::parse_str(EXIT_ADAPTER)?;
    embed_component_metadata(&mut adapter, &resolve, world, StringEncoding::UTF8)?;
    Ok(adapter)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn core(text: &str) -> Vec<u8> {
        wat::parse_str(text).unwrap()
    }

    const EXITS: &str = r#"(module
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1)
        (func (export "_start") (call $exit (i32.const 75))))"#;

    #[test]
    fn a_program_becomes_a_command() {
        let module = core(EXITS);
        let made = component(&module).unwrap();
        let names = |wanted: &str| {
            let payloads = Parser::new(0).parse_all(&made).map(Result::unwrap);
            let named: Vec<String> = payloads
                .flat_map(|payload| match payload {
                    Payload::ComponentImportSection(section) if wanted == "imports" => {
                        section.into_iter().map(|import| import.unwrap().name.name.to_owned()).collect()
                    }
                    Payload::ComponentExportSection(section) if wanted == "exports" => {
                        section.into_iter().map(|export| export.unwrap().name.name.to_owned()).collect()
                    }
                    _ => Vec::new(),
                })
                .collect();
            named
        };
        assert_eq!(names("exports").iter().filter(|name| name.starts_with("wasi:cli/run@0.2.")).count(), 1);
        assert_eq!(names("imports").iter().filter(|name| name.starts_with("wasi:cli/exit@0.2.")).count(), 1);
        assert!(wasmparser::validate(&made).is_ok());
    }

    #[test]
    fn a_program_that_never_exits_needs_no_adapter_for_it() {
        let module = core(r#"(module (memory (export "memory") 1) (func (export "_start")))"#);
        assert!(!with_exit_codes(&module).unwrap().1);
        assert!(component(&module).is_ok());
    }

    #[test]
    fn a_component_stays_as_it_is() {
        let module = core("(component)");
        assert!(matches!(component(&module), Ok(Cow::Borrowed(_))));
    }

    #[test]
    fn what_is_no_program_is_told_so() {
        for text in
            ["(module)", r#"(module (import "env" "f" (func)) (memory (export "memory") 1) (func (export "_start")))"#]
        {
            let module = core(text);
            let refused = component(&module).unwrap_err();
            assert!(refused.starts_with("it is no program of WASI: "), "{refused}");
        }
    }

    #[test]
    fn a_module_with_a_handler_becomes_a_native_agent() {
        let handler = |parameters: &str| {
            core(&format!(
                r#"(module
                (import "agent:runtime/tasks@0.1.0" "is-cancelled" (func (result i32)))
                (import "wasi_snapshot_preview1" "fd_close" (func (param i32) (result i32)))
                (memory (export "memory") 1)
                (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) unreachable)
                (func (export "_start"))
                (func (export "agent:runtime/handler@0.1.0#handle") (param {parameters}) (result i32) unreachable))"#
            ))
        };
        // The record of a task has more than sixteen parts, and so comes as a pointer.
        let module = handler("i32");
        let made = component(&module).unwrap();
        assert!(wasmparser::validate(&made).is_ok());
        let exported = |made: &[u8]| {
            let payloads = Parser::new(0).parse_all(made).map(Result::unwrap);
            let names: Vec<String> = payloads
                .filter_map(|payload| match payload {
                    Payload::ComponentExportSection(section) => Some(section),
                    _ => None,
                })
                .flatten()
                .map(|export| export.unwrap().name.name.to_owned())
                .collect();
            names
        };
        assert!(exported(&made).contains(&"agent:runtime/handler@0.1.0".to_owned()), "{:?}", exported(&made));
        assert!(!exported(&made).iter().any(|name| name.starts_with("wasi:cli/run")), "{:?}", exported(&made));
        let refused = component(&handler("i64")).unwrap_err();
        assert!(refused.starts_with("it is no agent: "), "{refused}");
    }

    #[test]
    fn what_the_adapter_offers_is_known() {
        let offered = offered();
        for function in ["fd_write", "proc_exit", "random_get", "path_open", "poll_oneoff"] {
            assert!(offered.contains(&function), "{function}");
        }
    }
}
