//! What one guest leaves behind, the next must not find.

use wasmtime::{Instance, Module, Store};

use super::*;

/// Writes 0xa5 all over its memory, its table and as much of its stack as it gets.
const POISONER: &str = r#"(module
    (memory 64)
    (table $table 8000 funcref)
    (global $left (mut i64) (i64.const 0))
    (elem declare func $deep)
    (func $deep (param $depth i32) (param $poison i64) (result i64)
        (if (result i64) (i32.eqz (local.get $depth))
            (then (local.get $poison))
            (else (i64.xor
                (local.get $poison)
                (call $deep (i32.sub (local.get $depth) (i32.const 1)) (local.get $poison))))))
    (func (export "run") (result i32)
        (memory.fill (i32.const 0) (i32.const 0xa5) (i32.mul (memory.size) (i32.const 65536)))
        (drop (memory.grow (i32.const 16)))
        (memory.fill (i32.const 4194304) (i32.const 0xa5) (i32.const 1048576))
        (table.fill $table (i32.const 0) (ref.func $deep) (i32.const 8000))
        (drop (table.grow $table (ref.func $deep) (i32.const 1000)))
        (global.set $left (call $deep (i32.const 4000) (i64.const 0xa5a5a5a5a5a5a5a5)))
        (i32.const 0)))"#;

/// Counts what is not zero in its memory, not null in its table, and not its own. `DATA` is where it has data of its own.
const LOOKER: &str = r#"(module
    (memory 64)
    (table $table 8000 funcref)
    (global $global (mut i64) (i64.const 0))
    DATA
    (func (export "run") (result i32) (local $at i32) (local $found i32) (local $never i64)
        (drop (memory.grow (i32.const 16)))
        (drop (table.grow $table (ref.null func) (i32.const 1000)))
        (loop $memory
            (local.set $found (i32.add (local.get $found) (i64.ne (i64.load (local.get $at)) (i64.const 0))))
            (local.set $at (i32.add (local.get $at) (i32.const 8)))
            (br_if $memory (i32.lt_u (local.get $at) (i32.const 5242880))))
        (local.set $at (i32.const 0))
        (loop $table
            (local.set $found (i32.add (local.get $found) (i32.eqz (ref.is_null (table.get $table (local.get $at))))))
            (local.set $at (i32.add (local.get $at) (i32.const 1)))
            (br_if $table (i32.lt_u (local.get $at) (i32.const 9000))))
        (i32.add (local.get $found)
            (i64.ne (i64.or (global.get $global) (local.get $never)) (i64.const 0)))))"#;

/// A module that has two words of its own.
const DATA: &str = r#"(data (i32.const 16) "\01\02\03\04\05\06\07\08") (data (i32.const 3000000) "\01")"#;

async fn run(engine: &Engine, module: &Module) -> i32 {
    let mut store = Store::new(engine.inner(), ());
    store.set_epoch_deadline(u64::MAX / 2);
    let instance = Instance::new_async(&mut store, module, &[]).await.unwrap();
    let run = instance.get_typed_func::<(), i32>(&mut store, "run").unwrap();
    run.call_async(&mut store, ()).await.unwrap()
}

#[tokio::test]
async fn no_guest_finds_what_another_left_in_its_place() {
    const ROUNDS: usize = 100;
    // One place, which everybody gets; larger than what stays mapped, so that both ways of resetting are used.
    let engine = Engine::new(&EngineConfig { instances_max: 1, memory_bytes_max: 8 << 20 }).unwrap();
    let module = |text: &str| Module::new(engine.inner(), wat::parse_str(text).unwrap()).unwrap();
    let poisoner = module(POISONER);
    let empty = module(&LOOKER.replace("DATA", ""));
    let with_data = module(&LOOKER.replace("DATA", DATA));
    for round in 0..ROUNDS {
        assert_eq!(run(&engine, &poisoner).await, 0);
        assert_eq!(run(&engine, &empty).await, 0, "round {round}: something was left");
        assert_eq!(run(&engine, &poisoner).await, 0);
        assert_eq!(run(&engine, &with_data).await, 2, "round {round}: its own data, and nothing else");
    }
}

#[test]
fn features_that_no_toolchain_needs_are_off() {
    let engine = compiling().unwrap();
    let unneeded = [
        "(module (memory 1 1 shared))",
        "(module (memory i64 1))",
        "(module (type (struct)))",
        "(module (type $f (func)) (func (param (ref $f))))",
        "(module (tag) (func (throw 0)))",
        "(module (func (param v128) (result v128) (i8x16.relaxed_swizzle (local.get 0) (local.get 0))))",
        "(module (memory 1 (pagesize 1)))",
        "(module (func (param i64 i64) (result i64 i64) (i64.mul_wide_u (local.get 0) (local.get 1))))",
        "(component (import \"f\" (func async)))",
        "(component (core func (canon task.cancel)))",
        "(component (core func (canon error-context.drop)))",
        "(component (type (list u8 4)))",
    ];
    for text in unneeded {
        let module = wat::parse_str(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let compiled = if text.starts_with("(module") {
            engine.precompile_module(&module).err()
        } else {
            engine.precompile_component(&module).err()
        };
        assert!(compiled.is_some(), "{text}");
    }
}

#[test]
fn both_engines_make_the_same_code() {
    let serving = Engine::new(&EngineConfig { instances_max: 2, memory_bytes_max: 1 << 20 }).unwrap();
    let identity = identity(serving.inner());
    assert_eq!(identity, super::identity(&compiling().unwrap()));
    assert_eq!(identity.len(), 64);
    // And whatever changes code changes the identity.
    let mut other = settings();
    other.cranelift_nan_canonicalization(true);
    assert_ne!(identity, super::identity(&wasmtime::Engine::new(&other).unwrap()));
    let mut other = settings();
    other.wasm_features(WasmFeatures::RELAXED_SIMD, true);
    assert_ne!(identity, super::identity(&wasmtime::Engine::new(&other).unwrap()));
}
