//! A large module: what a program with many functions is like to a compiler, and nothing to run.

use std::fmt::Write as _;

use anyhow::{Context, Result};
use benchmarks::host::{Agent, MODULE};

/// Steps of a function, of some 15 bytes each.
const STEPS: u32 = 20;
/// Within its one page of memory.
const ADDRESSES: u32 = 60_000;

/// An agent of that many functions. It ends at once.
pub(super) fn agent(functions: u32) -> Result<Agent> {
    let mut text = String::from("(module (memory (export \"memory\") 1) (func (export \"_start\"))\n");
    for number in 1..=functions {
        text.push_str("(func (param i32) (result i32) local.get 0");
        for step in number * STEPS..(number + 1) * STEPS {
            let address = step % ADDRESSES;
            write!(text, " i32.const {step} i32.xor i32.const {address} i32.load i32.add")?;
        }
        text.push_str(")\n");
    }
    text.push(')');
    let module = wat::parse_str(&text).context("assembling the large module")?;
    let manifest =
        format!("manifest_version = 1\n[agent]\nname = \"large\"\ndescription = \"Large\"\nmodule = \"{MODULE}\"\n");
    Ok(Agent { name: "large".to_owned(), manifest, module })
}
