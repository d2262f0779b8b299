//! A table of measurements over time: one row for each moment, a column for each thing measured.
//!
//! Written and read as CSV, so that a report can be made again from a run's raw data, and by other programs.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// The column with the time, in seconds since the scenario's start.
pub(crate) const TIME: &str = "time_s";

/// Measurements over time. A cell is empty where nothing was measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Series {
    columns: Vec<String>,
    rows: Vec<Vec<Option<f64>>>,
}

impl Series {
    /// Adds a row: the time, and what was measured then. Columns appear with their first value.
    pub(crate) fn add<'a>(&mut self, time_s: f64, values: impl IntoIterator<Item = (&'a str, f64)>) {
        let mut row = vec![None; self.columns.len()];
        for (name, value) in std::iter::once((TIME, time_s)).chain(values) {
            let at = self.columns.iter().position(|column| column == name).unwrap_or_else(|| {
                self.columns.push(name.to_owned());
                self.columns.len() - 1
            });
            row.resize(self.columns.len(), None);
            if let Some(cell) = row.get_mut(at) {
                *cell = value.is_finite().then_some(value);
            }
        }
        self.rows.push(row);
    }

    /// A column's points: time and value, where there is a value.
    pub(crate) fn points(&self, name: &str) -> Vec<(f64, f64)> {
        let at = |name: &str| self.columns.iter().position(|column| column == name);
        let (Some(time), Some(value)) = (at(TIME), at(name)) else {
            return Vec::new();
        };
        let cell = |row: &Vec<Option<f64>>, at: usize| row.get(at).copied().flatten();
        self.rows.iter().filter_map(|row| Some((cell(row, time)?, cell(row, value)?))).collect()
    }

    /// A column's values.
    pub(crate) fn values(&self, name: &str) -> Vec<f64> {
        self.points(name).into_iter().map(|(_, value)| value).collect()
    }

    /// The largest value of a column.
    pub(crate) fn max(&self, name: &str) -> Option<f64> {
        self.values(name).into_iter().reduce(f64::max)
    }

    /// The mean of a column.
    pub(crate) fn mean(&self, name: &str) -> Option<f64> {
        let values = self.values(name);
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / count(values.len()))
    }

    /// The median of a column's values between two shares of the time that it covers.
    pub(crate) fn median_within(&self, name: &str, from: f64, to: f64) -> Option<f64> {
        let points = self.points(name);
        let (first, last) = (points.first()?.0, points.last()?.0);
        let at = |share: f64| first + (last - first) * share;
        let within = points.into_iter().filter(|(time, _)| (at(from)..=at(to)).contains(time)).map(|(_, value)| value);
        median(within.collect())
    }

    /// As CSV, with a line of names.
    pub(crate) fn to_csv(&self) -> String {
        let mut text = self.columns.join(",");
        text.push('\n');
        for row in &self.rows {
            let cells = (0..self.columns.len()).map(|at| row.get(at).copied().flatten());
            let cells: Vec<String> = cells.map(|cell| cell.map_or_else(String::new, short)).collect();
            // Writing to a string does not fail.
            let _ = writeln!(text, "{}", cells.join(","));
        }
        text
    }

    /// Reads what [`Series::to_csv`] wrote.
    pub(crate) fn from_csv(text: &str) -> Result<Self> {
        let mut lines = text.lines();
        let columns: Vec<String> = lines.next().unwrap_or_default().split(',').map(str::to_owned).collect();
        let mut rows = Vec::new();
        for (number, line) in lines.enumerate() {
            let cells = line.split(',').map(|cell| match cell {
                "" => Ok(None),
                cell => cell.parse().map(Some).with_context(|| format!("row {}: `{cell}` is no number", number + 1)),
            });
            let row: Vec<Option<f64>> = cells.collect::<Result<_>>()?;
            ensure!(row.len() == columns.len(), "row {} has {} cells, not {}", number + 1, row.len(), columns.len());
            rows.push(row);
        }
        Ok(Self { columns, rows })
    }

    /// Reads a file; none where it does not exist.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        if !path.is_file() {
            return Ok(Self::default());
        }
        let text = std::fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))?;
        Self::from_csv(&text).with_context(|| format!("{} is not a table of measurements", path.display()))
    }
}

/// The middle value, the higher of two.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// A number of things, for a mean.
#[expect(clippy::cast_precision_loss, reason = "nothing here has 2^53 of anything")]
fn count(number: usize) -> f64 {
    number as f64
}

/// Six digits say more than any of these measurements know.
fn short(value: f64) -> String {
    let decimals = if value.abs() >= 1000.0 { 0 } else { 4 };
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> Series {
        let mut series = Series::default();
        for (time, value) in [(0.0, 10.0), (1.0, 20.0), (2.0, 22.0), (3.0, 21.0)] {
            series.add(time, [("memory", value)]);
        }
        series
    }

    #[test]
    fn a_table_survives_its_file_with_its_gaps() {
        let mut series = memory();
        series.add(4.0, [("late", 0.25), ("memory", f64::NAN)]);
        let read = Series::from_csv(&series.to_csv()).unwrap();
        assert_eq!(read.points("late"), [(4.0, 0.25)]);
        assert_eq!(read.values("memory"), [10.0, 20.0, 22.0, 21.0]);
        assert!(Series::from_csv("time_s,memory\n1,2,3\n").is_err());
        assert!(Series::from_csv("time_s\nsoon\n").is_err());
    }

    #[test]
    fn windows_are_shares_of_the_time() {
        let series = memory();
        assert_eq!(series.median_within("memory", 0.0, 0.4), Some(20.0));
        assert_eq!(series.median_within("memory", 0.6, 1.0), Some(22.0));
        assert_eq!((series.max("memory"), series.mean("memory")), (Some(22.0), Some(18.25)));
        assert_eq!(series.max("nothing"), None);
    }
}
