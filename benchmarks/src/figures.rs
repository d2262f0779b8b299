//! What a bench comes to: medians, and the figures that `cargo xtask bench` holds against the targets.

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context, Result};

/// Names the file to which the figures go, one a line, as its name, a space and the number.
const FILE: &str = "BENCHMARK_FIGURES";

/// Notes a figure, where somebody wants to know.
///
/// # Errors
/// The file cannot be written.
pub fn note(name: &str, value: f64) -> Result<()> {
    let Some(path) = std::env::var_os(FILE) else { return Ok(()) };
    let mut file = std::fs::OpenOptions::new().append(true).create(true).open(&path).context("opening the figures")?;
    writeln!(file, "{name} {value}").context("noting a figure")
}

/// The value at this part of them, from 0 for the least to 1 for the greatest; not a number where there is none.
#[must_use]
pub fn quantile(mut values: Vec<f64>, part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    // Indices are far below where this is not exact.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "so")]
    let index = (values.len().saturating_sub(1) as f64 * part).round() as usize;
    values.get(index).copied().unwrap_or(f64::NAN)
}

/// The one in the middle; not a number where there is none.
#[must_use]
pub fn median(values: Vec<f64>) -> f64 {
    quantile(values, 0.5)
}

/// A time in milliseconds.
#[must_use]
pub fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Bytes in megabytes, in which the memory budget is told.
#[must_use]
pub fn megabytes(bytes: u64) -> f64 {
    // Exact up to nine petabytes.
    #[allow(clippy::cast_precision_loss, reason = "so")]
    let bytes = bytes as f64;
    bytes / 1e6
}
