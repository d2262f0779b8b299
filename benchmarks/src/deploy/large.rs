//! A large module: what a program with many functions is like to a compiler, and nothing to run.

use std::fmt::Write as _;

use anyhow::{Context, Result};
use benchmarks::host::{Agent, MODULE};

/// A function calls the one before, so that none is left out, and computes with what it gets.
const ROUNDS: u32 = 20;

/// An agent of that many functions, each of some 300 bytes. It ends at once.
pub(super) fn agent(functions: u32) -> Result<Agent> {
    let mut text =
        String::from("(module (memory (export \"memory\") 1)\n(func $f0 (param i32) (result i32) local.get 0)\n");
    for number in 1..=functions {
        write!(text, "(func $f{number} (param i32) (result i32) local.get 0 call $f{}", number - 1)?;
        for round in 0..ROUNDS {
            let address = (number * ROUNDS + round) % 60_000;
            write!(
                text,
                " i32.const {} i32.xor i32.const {address} i32.load i32.add",
                number.wrapping_mul(round + 7919)
            )?;
        }
        text.push_str(")\n");
    }
    write!(
        text,
        "(func (export \"last\") (param i32) (result i32) local.get 0 call $f{functions})\n(func (export \"_start\")))"
    )?;
    let module = wat::parse_str(&text).context("assembling the large module")?;
    let manifest = format!(
        "manifest_version = 1\n[agent]\nname = \"large\"\ndescription = \"Large\"\nmodule = \"{MODULE}\"\nshape = \"command\"\n"
    );
    Ok(Agent { name: "large".to_owned(), manifest, module })
}
