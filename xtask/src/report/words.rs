//! How figures are named and written for people. Their names in the files end in their unit.

use serde_json::Value;

/// Endings of names, with the unit that each stands for.
const UNITS: [(&str, &str); 6] =
    [("_percent", "%"), ("_per_s", "/s"), ("_ms", "ms"), ("_mb", "MB"), ("_s", "s"), ("_gb", "GB")];

/// Endings of names of which more is better; of all others less is.
const MORE_IS_BETTER: [&str; 4] = ["_per_s", "availability_percent", "accuracy_percent", "cache_hit_percent"];

/// Figures that say how large something is, and not how good.
const NEITHER: [&str; 2] = ["pool_connections_max", "tasks_accepted"];

/// Which way a figure gets better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Better {
    /// More is better.
    More,
    /// Less is better.
    Less,
    /// It is no measure of quality.
    Neither,
}

/// Which way the figure of this name gets better.
pub(crate) fn better(name: &str) -> Better {
    if NEITHER.contains(&name) {
        Better::Neither
    } else if MORE_IS_BETTER.iter().any(|ending| name.ends_with(ending)) || name == "requests_per_s_peak" {
        Better::More
    } else {
        Better::Less
    }
}

/// A figure's name in words, with its unit: `duration p95, ms`.
pub(crate) fn label(name: &str) -> String {
    let name = name.strip_suffix("_peak").map_or_else(|| name.to_owned(), |name| format!("peak_{name}"));
    for (ending, unit) in UNITS {
        if let Some(rest) = name.strip_suffix(ending) {
            return format!("{}, {unit}", rest.replace('_', " "));
        }
    }
    name.replace('_', " ")
}

/// A value: three digits that count, or all before the point.
pub(crate) fn value(value: &Value) -> String {
    match value {
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::Number(number) => number.as_f64().map_or_else(String::new, number_text),
        Value::String(text) => text.clone(),
        _ => String::new(),
    }
}

/// A number, likewise.
pub(crate) fn number_text(number: f64) -> String {
    let decimals = match number.abs() {
        size if size >= 100.0 || size == 0.0 => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    let text = format!("{number:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// Text for HTML.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_become_words_and_units() {
        assert_eq!(label("duration_p95_ms"), "duration p95, ms");
        assert_eq!(label("requests_per_s_peak"), "peak requests, /s");
        assert_eq!(label("memory_leak"), "memory leak");
        assert_eq!(label("errors_percent"), "errors, %");
    }

    #[test]
    fn values_have_as_many_digits_as_they_know() {
        let texts = [json!(1541), json!(95.04), json!(0.123), json!(99.9), json!(0), json!(true)].map(|v| value(&v));
        assert_eq!(texts, ["1541", "95", "0.12", "99.9", "0", "yes"]);
    }

    #[test]
    fn more_of_a_rate_and_less_of_a_time_is_better() {
        assert_eq!(better("requests_per_s"), Better::More);
        assert_eq!(better("requests_per_s_peak"), Better::More);
        assert_eq!(better("cache_hit_percent"), Better::More);
        assert_eq!(better("errors_percent"), Better::Less);
        assert_eq!(better("pool_connections_max"), Better::Neither);
    }
}
