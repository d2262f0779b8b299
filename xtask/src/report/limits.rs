//! The limits (`sla`) of benchmarks/baseline.json, and whether a figure keeps them.

use serde_json::Value;

/// How large a run was, as parts of the reference profile: some limits cannot be asked of a small one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    /// Durations, as a part of the reference's.
    pub(crate) time: f64,
    /// Users, rates and numbers of tasks, as a part of the reference's.
    pub(crate) load: f64,
}

/// Whether a figure keeps its limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It does.
    Met,
    /// It does not.
    Broken,
    /// The run was too small to tell, for this reason.
    NotJudged(&'static str),
    /// It has none.
    NoLimit,
}

impl Verdict {
    /// A word for a table.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Met => "met",
            Self::Broken => "broken",
            Self::NotJudged(_) => "not judged",
            Self::NoLimit => "",
        }
    }
}

/// Judges a figure.
pub(crate) fn judge(name: &str, value: &Value, limits: Option<&Value>, scale: Scale) -> Verdict {
    let Some(limits) = limits.and_then(Value::as_object) else {
        return Verdict::NoLimit;
    };
    // As the scripts' `isJudged`: a rate is reached with the load that it was asked of.
    if name.ends_with("_per_s") && scale.load < 1.0 {
        return Verdict::NotJudged("a rate that the reference reached with its whole load");
    }
    if name == "memory_leak" && scale.time < 1.0 {
        return Verdict::NotJudged("what leaks slowly shows in the reference's time only");
    }
    if limits.iter().all(|(kind, bound)| keeps(kind, value, bound)) { Verdict::Met } else { Verdict::Broken }
}

fn keeps(kind: &str, value: &Value, bound: &Value) -> bool {
    if kind == "equals" {
        return value == bound;
    }
    let (Some(value), Some(bound)) = (value.as_f64(), bound.as_f64()) else {
        return false;
    };
    match kind {
        "below" => value < bound,
        "above" => value > bound,
        "at_least" => value >= bound,
        "at_most" => value <= bound,
        _ => false,
    }
}

/// Limits in signs, such as `< 500`.
pub(crate) fn signs(limits: Option<&Value>) -> String {
    let sign = |kind: &str| match kind {
        "below" => "<",
        "above" => ">",
        "at_least" => "≥",
        "at_most" => "≤",
        _ => "=",
    };
    let limits = limits.and_then(Value::as_object).into_iter().flatten();
    limits.map(|(kind, bound)| format!("{} {}", sign(kind), super::words::value(bound))).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const WHOLE: Scale = Scale { time: 1.0, load: 1.0 };

    #[test]
    fn a_bound_is_kept_or_broken_on_its_own_side() {
        let verdict = |value: Value, limits: Value| judge("figure", &value, Some(&limits), WHOLE);
        assert_eq!(verdict(json!(499.9), json!({"below": 500})), Verdict::Met);
        assert_eq!(verdict(json!(500), json!({"below": 500})), Verdict::Broken);
        assert_eq!(verdict(json!(100), json!({"at_least": 100})), Verdict::Met);
        assert_eq!(verdict(json!(99.99), json!({"at_least": 100})), Verdict::Broken);
        assert_eq!(verdict(json!(false), json!({"equals": false})), Verdict::Met);
        assert_eq!(verdict(json!(true), json!({"equals": false})), Verdict::Broken);
        // A bound that this program does not know is not taken for kept.
        assert_eq!(verdict(json!(1), json!({"around": 1})), Verdict::Broken);
        assert_eq!(judge("figure", &json!(1), None, WHOLE), Verdict::NoLimit);
    }

    #[test]
    fn a_small_run_is_not_held_to_the_rates_of_a_whole_one() {
        let small = Scale { time: 0.02, load: 0.1 };
        let limits = json!({"above": 1000});
        let verdict = |name| judge(name, &json!(30), Some(&limits), small);
        assert!(matches!(verdict("requests_per_s"), Verdict::NotJudged(_)));
        assert_eq!(verdict("duration_p95_ms"), Verdict::Broken);
        let leak = json!({"equals": false});
        assert!(matches!(judge("memory_leak", &json!(true), Some(&leak), small), Verdict::NotJudged(_)));
        assert_eq!(judge("memory_leak", &json!(true), Some(&leak), WHOLE), Verdict::Broken);
    }

    #[test]
    fn limits_read_as_signs() {
        assert_eq!(signs(Some(&json!({"below": 500}))), "< 500");
        assert_eq!(signs(Some(&json!({"equals": false}))), "= no");
        assert_eq!(signs(None), "");
    }
}
