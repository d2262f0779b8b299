//! A Prometheus registry in OTLP's words: the same names, labels and numbers.

use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
    ScopeMetrics, Sum, metric, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prometheus::proto::{self, LabelPair, MetricFamily, MetricType};

/// All metrics of a host.
pub(super) fn of_host(resource: &Resource, metrics: Vec<Metric>) -> ResourceMetrics {
    let scope = InstrumentationScope {
        name: env!("CARGO_PKG_NAME").to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    };
    let scope_metrics = vec![ScopeMetrics { scope: Some(scope), metrics, ..ScopeMetrics::default() }];
    ResourceMetrics { resource: Some(resource.clone()), scope_metrics, ..ResourceMetrics::default() }
}

/// The metrics of a registry, which have counted since `since`.
pub(super) fn of_families(families: &[MetricFamily], since: SystemTime, now: SystemTime) -> Vec<Metric> {
    let span = Window { since: nanos(since), now: nanos(now) };
    families.iter().filter_map(|family| Some(of_family(family, span.data(family)?))).collect()
}

fn of_family(family: &MetricFamily, data: metric::Data) -> Metric {
    Metric {
        name: family.name().to_owned(),
        description: family.help().to_owned(),
        unit: unit(family.name()).to_owned(),
        data: Some(data),
        ..Metric::default()
    }
}

/// The unit that a name ends with, in UCUM's words; counts have none.
fn unit(name: &str) -> &'static str {
    match name.rsplit('_').next() {
        Some("seconds") => "s",
        Some("bytes") => "By",
        _ => "",
    }
}

/// What a number is of: all since the start, read now.
struct Window {
    since: u64,
    now: u64,
}

impl Window {
    /// The numbers of a family; nothing for the types that the host has none of.
    fn data(&self, family: &MetricFamily) -> Option<metric::Data> {
        const CUMULATIVE: i32 = AggregationTemporality::Cumulative as i32;
        let points = family.get_metric().iter();
        Some(match family.get_field_type() {
            MetricType::COUNTER => metric::Data::Sum(Sum {
                data_points: points.map(|of| self.number(of, of.get_counter().get_value(), self.since)).collect(),
                aggregation_temporality: CUMULATIVE,
                is_monotonic: true,
            }),
            MetricType::GAUGE => metric::Data::Gauge(Gauge {
                data_points: points.map(|of| self.number(of, of.get_gauge().get_value(), 0)).collect(),
            }),
            MetricType::HISTOGRAM => metric::Data::Histogram(Histogram {
                data_points: points.map(|of| self.histogram(of)).collect(),
                aggregation_temporality: CUMULATIVE,
            }),
            MetricType::SUMMARY | MetricType::UNTYPED => return None,
        })
    }

    fn number(&self, of: &proto::Metric, value: f64, since: u64) -> NumberDataPoint {
        NumberDataPoint {
            attributes: attributes(of.get_label()),
            start_time_unix_nano: since,
            time_unix_nano: self.now,
            value: Some(number_data_point::Value::AsDouble(value)),
            ..NumberDataPoint::default()
        }
    }

    /// Prometheus counts up to each bound, OTLP between two of them.
    fn histogram(&self, of: &proto::Metric) -> HistogramDataPoint {
        let histogram = of.get_histogram();
        let count = histogram.get_sample_count();
        let bounded = histogram.get_bucket().iter().filter(|bucket| bucket.upper_bound().is_finite());
        let (mut bucket_counts, mut explicit_bounds, mut below) = (Vec::new(), Vec::new(), 0);
        for bucket in bounded {
            explicit_bounds.push(bucket.upper_bound());
            // A sample that comes in between two reads may be in one number and not yet in the other.
            bucket_counts.push(bucket.cumulative_count().saturating_sub(below));
            below = below.max(bucket.cumulative_count());
        }
        bucket_counts.push(count.saturating_sub(below));
        HistogramDataPoint {
            attributes: attributes(of.get_label()),
            start_time_unix_nano: self.since,
            time_unix_nano: self.now,
            count: bucket_counts.iter().sum(),
            sum: Some(histogram.get_sample_sum()),
            bucket_counts,
            explicit_bounds,
            ..HistogramDataPoint::default()
        }
    }
}

fn attributes(labels: &[LabelPair]) -> Vec<KeyValue> {
    let attribute = |label: &LabelPair| {
        let value = any_value::Value::StringValue(label.value().to_owned());
        KeyValue { key: label.name().to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
    };
    labels.iter().map(attribute).collect()
}

fn nanos(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use prometheus::{HistogramVec, IntCounterVec, IntGauge, Registry, histogram_opts, opts};

    use super::*;

    fn family<'m>(metrics: &'m [Metric], name: &str) -> &'m Metric {
        metrics.iter().find(|metric| metric.name == name).unwrap()
    }

    #[test]
    fn a_registry_says_the_same_in_otlp() {
        let registry = Registry::new();
        let counter = IntCounterVec::new(opts!("faas_invocations", "Attempts."), &["agent"]).unwrap();
        let gauge = IntGauge::new("host_memory_budget_bytes", "Budget.").unwrap();
        let opts = histogram_opts!("faas_init_duration_seconds", "Init.", vec![0.1, 1.0]);
        let histogram = HistogramVec::new(opts, &["agent"]).unwrap();
        registry.register(Box::new(counter.clone())).unwrap();
        registry.register(Box::new(gauge.clone())).unwrap();
        registry.register(Box::new(histogram.clone())).unwrap();
        counter.with_label_values(&["echo"]).inc_by(3);
        gauge.set(5);
        for seconds in [0.0625, 0.5, 0.75, 7.0] {
            histogram.with_label_values(&["echo"]).observe(seconds);
        }
        const CUMULATIVE: i32 = AggregationTemporality::Cumulative as i32;
        let at = |nanos| UNIX_EPOCH + std::time::Duration::from_nanos(nanos);
        let metrics = of_families(&registry.gather(), at(1_000_000_007), at(2_000_000_009));
        let times = |point: &NumberDataPoint| (point.start_time_unix_nano, point.time_unix_nano);
        let Some(metric::Data::Sum(sum)) = &family(&metrics, "faas_invocations").data else { panic!("{metrics:?}") };
        assert!(sum.is_monotonic && sum.data_points[0].value == Some(number_data_point::Value::AsDouble(3.0)));
        assert_eq!(sum.data_points[0].attributes[0].key, "agent");
        assert_eq!(
            (times(&sum.data_points[0]), sum.aggregation_temporality),
            ((1_000_000_007, 2_000_000_009), CUMULATIVE)
        );
        let budget = family(&metrics, "host_memory_budget_bytes");
        let Some(metric::Data::Gauge(now)) = &budget.data else { panic!("{budget:?}") };
        assert_eq!((budget.unit.as_str(), times(&now.data_points[0])), ("By", (0, 2_000_000_009)));
        let init = family(&metrics, "faas_init_duration_seconds");
        let Some(metric::Data::Histogram(init)) = &init.data else { panic!("{init:?}") };
        assert_eq!(init.aggregation_temporality, CUMULATIVE);
        let point = &init.data_points[0];
        assert_eq!((point.start_time_unix_nano, point.time_unix_nano), (1_000_000_007, 2_000_000_009));
        assert_eq!((point.count, &point.bucket_counts[..]), (4, &[1, 2, 1][..]));
        assert_eq!((&point.explicit_bounds[..], point.sum), (&[0.1, 1.0][..], Some(8.3125)));
    }
}
