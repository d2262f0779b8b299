//! What the environment says about OTLP, by the variables that OpenTelemetry defines.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;
use url::Url;

/// How long a collector may take, unless `OTEL_EXPORTER_OTLP_TIMEOUT` says otherwise: the specification's default.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
/// How often metrics are pushed, unless `OTEL_METRIC_EXPORT_INTERVAL` says otherwise: the specification's default.
const METRIC_INTERVAL_DEFAULT: Duration = Duration::from_secs(60);
/// Ended spans that wait for the collector, unless `OTEL_BSP_MAX_QUEUE_SIZE` says otherwise: the specification's default. A
/// span takes about 1 KiB.
const SPANS_MAX_DEFAULT: usize = 2_048;
/// The most of them that may be asked for: about 64 MiB.
const SPANS_MAX: usize = 65_536;
/// Spans of one request, unless `OTEL_BSP_MAX_EXPORT_BATCH_SIZE` says otherwise: the specification's default.
const BATCH_SPANS_MAX_DEFAULT: usize = 512;
/// How long spans wait for others to be sent with, unless `OTEL_BSP_SCHEDULE_DELAY` says otherwise: the specification's
/// default.
const DELAY_DEFAULT: Duration = Duration::from_secs(5);
/// The samplers that there are.
const SAMPLERS: [&str; 6] = [
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
];
/// The one protocol that there is.
const PROTOCOL: &str = "http/protobuf";

/// What goes where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtlpSettings {
    /// Where traces go, if they are exported.
    pub traces: Option<Target>,
    /// Where metrics go, if they are pushed.
    pub metrics: Option<Target>,
    /// How often metrics are pushed.
    pub metric_interval: Duration,
    /// How spans are sent together.
    pub batching: Batching,
    /// What is said of the host, by keys of which the last of a name holds.
    pub attributes: Vec<(String, String)>,
}

/// How spans are sent together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batching {
    /// Most spans that wait for the collector.
    pub spans_max: usize,
    /// Most spans of one request; no more than may wait.
    pub batch_spans_max: usize,
    /// How long spans wait for others, where there are not enough for a full request; not zero.
    pub delay: Duration,
}

/// A collector's address for one signal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The whole URL.
    pub url: Url,
    /// Headers of every request. They may be credentials, and are not shown.
    pub headers: HeaderMap,
    /// How long a request may take, further tries included.
    pub timeout: Duration,
}

/// The value of a variable; nothing where it is not set or empty.
type Get<'a> = &'a dyn Fn(&str) -> Option<String>;

impl OtlpSettings {
    /// Reads the variables. `endpoint` is the base of the collector's addresses, if one is set.
    ///
    /// # Errors
    /// Everything that is wrong, each with its variable.
    pub fn read(endpoint: Option<&Url>, get: Get<'_>) -> Result<Option<Self>, Vec<String>> {
        if get("OTEL_SDK_DISABLED").is_some_and(|text| text.eq_ignore_ascii_case("true")) {
            return Ok(None);
        }
        let mut reader = Reader { get, problems: Vec::new() };
        let traces = reader.target("TRACES", "v1/traces", endpoint);
        let metrics = reader.target("METRICS", "v1/metrics", endpoint);
        if traces.is_none() && metrics.is_none() && reader.problems.is_empty() {
            return Ok(None);
        }
        let metric_interval = reader.millis("OTEL_METRIC_EXPORT_INTERVAL", 1).unwrap_or(METRIC_INTERVAL_DEFAULT);
        let batching = reader.batching();
        let attributes = reader.attributes();
        if traces.is_some() {
            reader.check_sampler();
        }
        if metrics.is_some() {
            reader.check_temporality();
        }
        let settings = Self { traces, metrics, metric_interval, batching, attributes };
        if reader.problems.is_empty() { Ok(Some(settings)) } else { Err(reader.problems) }
    }
}

struct Reader<'a> {
    get: Get<'a>,
    problems: Vec<String>,
}

impl Reader<'_> {
    /// One signal's part, from its own variable or from that of all signals.
    fn value(&self, signal: &str, name: &str) -> Option<(String, String)> {
        let variables = [format!("OTEL_EXPORTER_OTLP_{signal}_{name}"), format!("OTEL_EXPORTER_OTLP_{name}")];
        variables.into_iter().find_map(|variable| (self.get)(&variable).map(|text| (variable, text)))
    }

    fn target(&mut self, signal: &str, path: &str, endpoint: Option<&Url>) -> Option<Target> {
        let chosen = format!("OTEL_{signal}_EXPORTER");
        match (self.get)(&chosen).as_deref() {
            None | Some("otlp") => {}
            Some("none") => return None,
            Some(other) => self.problems.push(format!("{chosen}: {other:?}: expected otlp or none")),
        }
        let own = format!("OTEL_EXPORTER_OTLP_{signal}_ENDPOINT");
        // Its own address is the whole one, that of all signals the base.
        let url = match (self.get)(&own) {
            Some(text) => collector(&text).map_err(|problem| self.problems.push(format!("{own}: {problem}"))).ok(),
            None => endpoint.map(|base| below(base, path)),
        }?;
        if let Some((variable, protocol)) = self.value(signal, "PROTOCOL").filter(|(_, text)| text != PROTOCOL) {
            self.problems.push(format!(
                "{variable}: {protocol:?}: expected {PROTOCOL}, the one that this host speaks; collectors mostly take it at \
                 port 4318"
            ));
        }
        let timeout = self.value(signal, "TIMEOUT").map(|(variable, _)| variable);
        let timeout = timeout.and_then(|variable| self.millis(&variable, 1)).unwrap_or(TIMEOUT_DEFAULT);
        let headers = self.value(signal, "HEADERS").map(|(variable, text)| {
            headers(&text).map_err(|problem| self.problems.push(format!("{variable}: {problem}"))).unwrap_or_default()
        });
        Some(Target { url, headers: headers.unwrap_or_default(), timeout })
    }

    fn millis(&mut self, variable: &str, min: u64) -> Option<Duration> {
        let text = (self.get)(variable)?;
        let millis = text.trim().parse::<u64>().ok().filter(|millis| *millis >= min);
        if millis.is_none() {
            self.problems.push(format!("{variable}: {text:?}: expected milliseconds, a whole number from {min}"));
        }
        millis.map(Duration::from_millis)
    }

    fn batching(&mut self) -> Batching {
        let spans_max = self.count("OTEL_BSP_MAX_QUEUE_SIZE", SPANS_MAX).unwrap_or(SPANS_MAX_DEFAULT);
        let batch_spans_max = self.count("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", spans_max);
        Batching {
            spans_max,
            batch_spans_max: batch_spans_max.unwrap_or(BATCH_SPANS_MAX_DEFAULT.min(spans_max)),
            delay: self.millis("OTEL_BSP_SCHEDULE_DELAY", 1).unwrap_or(DELAY_DEFAULT),
        }
    }

    fn count(&mut self, variable: &str, max: usize) -> Option<usize> {
        let text = (self.get)(variable)?;
        let count = text.trim().parse::<usize>().ok().filter(|spans| (1..=max).contains(spans));
        if count.is_none() {
            self.problems.push(format!("{variable}: {text:?}: expected a whole number from 1 to {max}"));
        }
        count
    }

    /// What is said of the host. A service's own variable holds against an attribute of that name.
    fn attributes(&mut self) -> Vec<(String, String)> {
        const ATTRIBUTES: &str = "OTEL_RESOURCE_ATTRIBUTES";
        let mut attributes = Vec::new();
        for pair in pairs(&(self.get)(ATTRIBUTES).unwrap_or_default()) {
            match pair {
                Ok(pair) => attributes.push(pair),
                Err(pair) => self.problems.push(format!("{ATTRIBUTES}: {pair:?}: expected {PAIRS}")),
            }
        }
        attributes.extend((self.get)("OTEL_SERVICE_NAME").map(|name| ("service.name".to_owned(), name)));
        attributes
    }

    /// Counters are those of `/metrics`, which count from the start.
    fn check_temporality(&mut self) {
        const VARIABLE: &str = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE";
        if let Some(text) = (self.get)(VARIABLE).filter(|text| !text.eq_ignore_ascii_case("cumulative")) {
            self.problems.push(format!("{VARIABLE}: {text:?}: expected cumulative, as this host counts"));
        }
    }

    /// The SDK reads it itself, and takes its default for whatever it does not understand.
    fn check_sampler(&mut self) {
        const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
        const ARGUMENT: &str = "OTEL_TRACES_SAMPLER_ARG";
        let sampler = (self.get)(SAMPLER).unwrap_or_default();
        if !sampler.is_empty() && !SAMPLERS.contains(&sampler.as_str()) {
            self.problems.push(format!("{SAMPLER}: {sampler:?}: expected one of {}", SAMPLERS.join(", ")));
        }
        if let Some(text) = (self.get)(ARGUMENT).filter(|_| sampler.ends_with("traceidratio"))
            && !text.parse::<f64>().is_ok_and(|ratio| (0.0..=1.0).contains(&ratio))
        {
            self.problems.push(format!("{ARGUMENT}: {text:?}: expected a number from 0 to 1"));
        }
    }
}

/// The address of a collector.
///
/// # Errors
/// It is none; the text says what was expected.
pub fn collector(text: &str) -> Result<Url, String> {
    // Without the text: it may hold a password.
    let expected = "expected such as http://127.0.0.1:4318";
    let url = Url::parse(text).map_err(|error| format!("{error}: {expected}"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(format!("the scheme is {:?}: {expected}", url.scheme()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(format!("it holds a user or a password, which OTEL_EXPORTER_OTLP_HEADERS is for: {expected}"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(format!("it has a query or a fragment; keys are for OTEL_EXPORTER_OTLP_HEADERS: {expected}"));
    }
    Ok(url)
}

/// The path below a base.
fn below(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}/{path}", base.path().trim_end_matches('/')));
    url
}

/// What a list of pairs is.
const PAIRS: &str = "name=value pairs with commas between them, both percent-encoded";

/// The pairs of a list, decoded; where one is none, its text.
fn pairs(text: &str) -> impl Iterator<Item = Result<(String, String), &str>> {
    let decoded = |text: &str| Some(percent_decode_str(text.trim()).decode_utf8().ok()?.into_owned());
    let pair = move |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        Some((decoded(name).filter(|name| !name.is_empty())?, decoded(value)?))
    };
    let listed = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    listed.map(move |listed| pair(listed).ok_or(listed))
}

fn headers(text: &str) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for pair in pairs(text) {
        // Nothing of it is shown: it may be a credential.
        let wrong = || format!("expected {PAIRS}");
        let (name, value) = pair.map_err(|_| wrong())?;
        let name = name.parse::<HeaderName>().map_err(|_| wrong())?;
        let mut value = HeaderValue::from_str(&value).map_err(|_| wrong())?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(endpoint: Option<&str>, variables: &[(&str, &str)]) -> Result<Option<OtlpSettings>, Vec<String>> {
        let get = |name: &str| variables.iter().find(|(other, _)| *other == name).map(|(_, text)| (*text).to_owned());
        OtlpSettings::read(endpoint.map(|text| collector(text).unwrap()).as_ref(), &get)
    }

    #[test]
    fn nothing_is_sent_unless_an_endpoint_says_where() {
        assert_eq!(read(None, &[("OTEL_SERVICE_NAME", "x"), ("OTEL_TRACES_SAMPLER", "?")]), Ok(None));
        assert_eq!(read(Some("http://c:4318"), &[("OTEL_SDK_DISABLED", "true")]), Ok(None));
        let none = [("OTEL_TRACES_EXPORTER", "none"), ("OTEL_METRICS_EXPORTER", "none")];
        assert_eq!(read(Some("http://c:4318"), &none), Ok(None));
    }

    #[test]
    fn an_endpoint_is_the_base_and_a_signals_own_the_whole() {
        let settings = read(Some("http://c:4318/in/"), &[]).unwrap().unwrap();
        assert_eq!(settings.traces.unwrap().url.as_str(), "http://c:4318/in/v1/traces");
        let metrics = settings.metrics.unwrap();
        assert_eq!((metrics.url.as_str(), metrics.timeout), ("http://c:4318/in/v1/metrics", TIMEOUT_DEFAULT));
        let batching = Batching { spans_max: 2_048, batch_spans_max: 512, delay: DELAY_DEFAULT };
        assert_eq!((settings.metric_interval, settings.batching), (METRIC_INTERVAL_DEFAULT, batching));
        assert!(settings.attributes.is_empty());
        let own = [
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://t/x"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "500"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "x=all"),
            ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "Authorization=Bearer%20a%2Cb, b = 2"),
        ];
        let settings = read(None, &own).unwrap().unwrap();
        let traces = settings.traces.unwrap();
        assert_eq!((traces.url.as_str(), traces.timeout), ("https://t/x", Duration::from_millis(500)));
        assert_eq!(
            (&traces.headers["authorization"], &traces.headers["b"]),
            (&"Bearer a,b".parse().unwrap(), &"2".parse().unwrap())
        );
        assert!(settings.metrics.is_none() && !format!("{traces:?}").contains("Bearer"));
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once_and_no_credential() {
        let wrong = [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "hunter2"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "0"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "1000000000"),
            ("OTEL_BSP_SCHEDULE_DELAY", "5s"),
            ("OTEL_RESOURCE_ATTRIBUTES", "a=b,production,=c"),
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "2"),
            ("OTEL_METRICS_EXPORTER", "none"),
        ];
        let problems = read(Some("http://c:4317"), &wrong).unwrap_err();
        assert_eq!(problems.len(), 8, "{problems:?}");
        assert!(problems[0].contains("4318") && !problems.concat().contains("hunter2"), "{problems:?}");
        let one = [
            ("OTEL_TRACES_SAMPLER", "xray"),
            ("OTEL_BSP_SCHEDULE_DELAY", "0"),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "0"),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2049"),
            ("OTEL_RESOURCE_ATTRIBUTES", "a=%ff"),
            ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://c/x?key=pw"),
        ];
        for wrong in one {
            let problems = read(Some("http://c"), &[wrong]).unwrap_err();
            assert!(problems.len() == 1 && problems[0].starts_with(wrong.0), "{problems:?}");
            assert!(problems[0].contains("expected") && !problems[0].contains("pw"), "{problems:?}");
        }
        for bad in ["c:4318", "ftp://c", "http://user:pw@c", "", "/x", "https://c/?api-key=pw", "http://c/#pw"] {
            let problem = collector(bad).unwrap_err();
            assert!(problem.contains("http://127.0.0.1:4318") && !problem.contains("pw"), "{problem}");
        }
    }

    #[test]
    fn spans_are_sent_together_as_is_said() {
        let said = [
            ("OTEL_BSP_MAX_QUEUE_SIZE", "20"),
            ("OTEL_BSP_SCHEDULE_DELAY", " 50 "),
            ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "Cumulative"),
        ];
        let batching = read(Some("http://c"), &said).unwrap().unwrap().batching;
        // A smaller queue bounds the default, which nobody asked for.
        let expected = Batching { spans_max: 20, batch_spans_max: 20, delay: Duration::from_millis(50) };
        assert_eq!(batching, expected);
        let batch = [("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2048")];
        assert_eq!(read(Some("http://c"), &batch).unwrap().unwrap().batching.batch_spans_max, 2_048);
    }

    #[test]
    fn the_host_is_named_as_is_said() {
        let resource = |variables: &[_]| {
            let attributes = read(Some("http://c"), variables).unwrap().unwrap().attributes;
            let resource = super::super::resource("host:1", &attributes);
            move |key: &'static str| resource.get_ref(&key.into()).map(ToString::to_string).unwrap_or_default()
        };
        let unnamed = resource(&[]);
        assert_eq!((unnamed("service.name"), unnamed("service.instance.id")), ("agent-host".into(), "host:1".into()));
        let attributes = ("OTEL_RESOURCE_ATTRIBUTES", "service.name=a, team=a%2Cb%20c ,k%3D=x=y,");
        let named = resource(&[attributes]);
        assert_eq!(["service.name", "team", "k="].map(named), ["a", "a,b c", "x=y"]);
        assert_eq!(resource(&[attributes, ("OTEL_SERVICE_NAME", "b")])("service.name"), "b");
    }

    proptest! {
        /// Whatever the variables hold, they are read or refused.
        #[test]
        fn any_text_is_read_or_refused(endpoint in ".{0,40}", given in "[ -~]{0,60}", number in ".{0,8}") {
            let get = |name: &str| Some(match name {
                "OTEL_EXPORTER_OTLP_HEADERS" | "OTEL_RESOURCE_ATTRIBUTES" => given.clone(),
                "OTEL_EXPORTER_OTLP_TIMEOUT" | "OTEL_METRIC_EXPORT_INTERVAL" => number.clone(),
                "OTEL_BSP_MAX_QUEUE_SIZE" | "OTEL_BSP_SCHEDULE_DELAY" => number.clone(),
                _ => return None,
            });
            let endpoint = collector(&endpoint).ok();
            if let Ok(Some(settings)) = OtlpSettings::read(endpoint.as_ref(), &get) {
                prop_assert!(endpoint.is_some() && settings.metric_interval > Duration::ZERO);
                let Batching { spans_max, batch_spans_max, delay } = settings.batching;
                prop_assert!(delay > Duration::ZERO && (1..=spans_max).contains(&batch_spans_max));
            }
        }
    }
}
