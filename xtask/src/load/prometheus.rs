//! What a host measures, read from its `/metrics`.

use std::collections::BTreeMap;

/// One look at a host's metrics.
#[derive(Clone, Default)]
pub(super) struct Metrics {
    /// Name, labels as they are written, value.
    samples: Vec<(String, String, f64)>,
}

impl Metrics {
    /// Reads Prometheus's text format.
    pub(super) fn parse(text: &str) -> Self {
        let sample = |line: &str| {
            let (series, value) = line.rsplit_once(' ')?;
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            Some((name.to_owned(), labels.to_owned(), value.parse().ok()?))
        };
        Self { samples: text.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect() }
    }

    /// The sum of a metric's series whose labels contain `labels`; nothing where there is none.
    pub(super) fn sum(&self, name: &str, labels: &str) -> Option<f64> {
        let found: Vec<f64> = self.series(name, labels).map(|(_, value)| value).collect();
        (!found.is_empty()).then(|| found.iter().sum())
    }

    /// By how much a sum has grown since an earlier look.
    pub(super) fn growth(&self, before: &Self, name: &str, labels: &str) -> Option<f64> {
        Some(self.sum(name, labels)? - before.sum(name, labels).unwrap_or_default())
    }

    /// The quantile (0 to 1) of what a histogram has counted since an earlier look: linear within a bucket, as
    /// Prometheus's `histogram_quantile`. Nothing where it counted nothing, or more than its last bound.
    pub(super) fn quantile(&self, before: &Self, name: &str, labels: &str, quantile: f64) -> Option<f64> {
        let (now, earlier) = (self.buckets(name, labels), before.buckets(name, labels));
        let counts: Vec<(f64, f64)> = now
            .into_iter()
            .map(|(bound, (upper, count))| (upper, count - earlier.get(&bound).map_or(0.0, |(_, count)| *count)))
            .collect();
        let total = counts.last()?.1;
        let rank = total * quantile;
        let (mut lower, mut below) = (0.0, 0.0);
        for (upper, count) in counts {
            if count >= rank && count > below {
                return upper.is_finite().then(|| lower + (upper - lower) * (rank - below) / (count - below));
            }
            (lower, below) = (upper, count);
        }
        None
    }

    /// A histogram's cumulative buckets, by their bound: its bits order like the bound itself, for bounds above 0.
    fn buckets(&self, name: &str, labels: &str) -> BTreeMap<u64, (f64, f64)> {
        let mut buckets: BTreeMap<u64, (f64, f64)> = BTreeMap::new();
        for (of, count) in self.series(&format!("{name}_bucket"), labels) {
            let bound = of.split_once("le=\"").and_then(|(_, rest)| rest.split('"').next());
            let Some(upper) = bound.and_then(|bound| bound.trim_start_matches('+').parse::<f64>().ok()) else {
                continue;
            };
            buckets.entry(upper.to_bits()).or_insert((upper, 0.0)).1 += count;
        }
        buckets
    }

    fn series(&self, name: &str, labels: &str) -> impl Iterator<Item = (&str, f64)> {
        let wanted = move |(found, of, _): &&(String, String, f64)| found == name && of.contains(labels);
        self.samples.iter().filter(wanted).map(|(_, labels, value)| (labels.as_str(), *value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = r#"
# HELP d Durations.
d_bucket{operation="publish",le="0.01"} 10
d_bucket{operation="publish",le="0.1"} 10
d_bucket{operation="publish",le="+Inf"} 10
hits{agent="a"} 3
hits{agent="b"} 4
depth 2
"#;
    const AFTER: &str = r#"
d_bucket{operation="publish",le="0.01"} 60
d_bucket{operation="publish",le="0.1"} 110
d_bucket{operation="publish",le="+Inf"} 110
d_bucket{operation="other",le="+Inf"} 5000
hits{agent="a"} 5
hits{agent="b"} 5
depth 1
"#;

    #[test]
    fn sums_and_growths_are_over_the_labels_asked_for() {
        let (before, after) = (Metrics::parse(BEFORE), Metrics::parse(AFTER));
        assert_eq!(after.sum("hits", ""), Some(10.0));
        assert_eq!(after.growth(&before, "hits", "agent=\"a\""), Some(2.0));
        assert_eq!(after.sum("depth", ""), Some(1.0));
        assert_eq!(after.sum("dept", ""), None);
    }

    #[test]
    fn a_quantile_is_of_what_was_counted_in_between() {
        let (before, after) = (Metrics::parse(BEFORE), Metrics::parse(AFTER));
        let quantile = |of| after.quantile(&before, "d", "operation=\"publish\"", of);
        // Half of the hundred in between took up to 10 ms, the others up to 100 ms.
        assert_eq!(quantile(0.5), Some(0.01));
        assert!((quantile(0.95).unwrap() - 0.091).abs() < 1e-9);
        assert_eq!(after.quantile(&after, "d", "operation=\"publish\"", 0.95), None);
        // All of it above the last bound: no number would be true.
        assert_eq!(after.quantile(&before, "d", "operation=\"other\"", 0.95), None);
    }
}
