//! How many instructions the host's hot path takes, by callgrind: a number that does not depend on what else the machine does.
//!
//! Each piece has the count that it had when it was last looked at, and may not pass it by more than [`GROWTH_PERCENT_MAX`]. A
//! change that makes one grow by more says why in its message and writes the new count here; one that makes it shrink does too,
//! so that what was won stays won.

use std::hint::black_box;

use gungraun::{Callgrind, EventKind, LibraryBenchmarkConfig, library_benchmark, library_benchmark_group, main};
use instructions::work::{self, Room, Task};

/// Two runs of one program differ by less than a hundredth of a percent. The rest is for what another version of the compiler
/// or of the C library makes of the same code.
const GROWTH_PERCENT_MAX: u64 = 5;

/// At most so many instructions, and what they may grow by. They were counted on x86-64; elsewhere there is no limit.
fn at_most(count: u64) -> LibraryBenchmarkConfig {
    let mut callgrind = Callgrind::default();
    if cfg!(target_arch = "x86_64") {
        callgrind.hard_limits([(EventKind::Ir, count + count * GROWTH_PERCENT_MAX / 100)]);
    }
    let mut config = LibraryBenchmarkConfig::default();
    config.tool(callgrind);
    config
}

#[library_benchmark(config = at_most(1_908_715))]
#[bench::deliveries_64(work::delivery())]
fn receive(delivery: Vec<u8>) {
    (0..64).for_each(|_| drop(black_box(work::receive(black_box(&delivery)))));
}

#[library_benchmark(config = at_most(1_423_418))]
#[bench::tasks_64(work::task())]
fn submit(task: Task) {
    (0..64).for_each(|_| drop(black_box(work::submitted(black_box(&task)))));
}

#[library_benchmark(config = at_most(754_109))]
#[bench::tasks_64(work::task())]
fn answer(task: Task) {
    (0..64).for_each(|_| drop(black_box(work::result(black_box(&task)))));
}

#[library_benchmark(config = at_most(2_665_927))]
#[bench::tasks_64(work::task())]
fn retry(task: Task) {
    (0..64).for_each(|_| drop(black_box(work::retried(black_box(&task)))));
}

#[library_benchmark(config = at_most(346_134))]
#[bench::tasks_256(work::room())]
fn admit(room: Room) {
    black_box(work::admit(&room));
}

#[library_benchmark(config = at_most(549_836))]
#[bench::deliveries_1024()]
fn acknowledge() {
    black_box(work::acknowledge());
}

library_benchmark_group!(name = hot_path, benchmarks = [receive, submit, answer, retry, admit, acknowledge]);
main!(library_benchmark_groups = hot_path);
