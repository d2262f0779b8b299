//! The report as one HTML file that needs nothing else: no script, no font, no network.

use std::fmt::Write as _;

use serde_json::Value;

use super::limits::Verdict;
use super::plural;
use super::run::{Run, text};
use super::sections::Section;
use super::words::{self, escape};

const STYLE: &str = include_str!("../../assets/report.css");

/// The page. `reference` is the machine of the reference figures.
pub(super) fn page(run: &Run, sections: &[Section], reference: &Value) -> String {
    let title = format!("Load report: {}", started(run));
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><title>{}</title>\n<style>\n{STYLE}</style></head><body><main>\n\
         <header><h1>{}</h1><p class=\"lead\">{}</p>",
        escape(&title),
        escape(&title),
        escape(&verdict(sections)),
    );
    page.push_str("<nav>");
    for Section { id, title, .. } in sections {
        let _ = write!(page, "<a href=\"#{id}\">{}</a>", escape(title));
    }
    page.push_str("<a href=\"#machine\">Machine and run</a></nav></header>\n");
    page.push_str(&summary(sections));
    for section in sections {
        page.push_str(&one(section));
    }
    page.push_str("<section id=\"machine\"><h2>Machine and run</h2><table class=\"facts\">");
    for (name, value) in facts(run, reference) {
        let (name, value) = (escape(&name.replace('_', " ")), escape(&words::value(&value)));
        let _ = write!(page, "<tr><th scope=\"row\">{name}</th><td>{value}</td></tr>");
    }
    page.push_str("</table></section>\n</main></body></html>\n");
    page
}

/// A line for each test: how it went.
fn summary(sections: &[Section]) -> String {
    let mut html = String::from("<section class=\"tiles\">");
    for section in sections {
        let broken = section.count(|verdict| verdict == Verdict::Broken) + section.wrong.len();
        let met = section.count(|verdict| verdict == Verdict::Met);
        let judged = met + section.count(|verdict| verdict == Verdict::Broken);
        let (class, mark) = match (broken, judged) {
            (0, 0) => ("none", "–"),
            (0, _) => ("met", "✓"),
            _ => ("broken", "✗"),
        };
        let _ = write!(
            html,
            "<a class=\"tile {class}\" href=\"#{}\"><b>{}</b><span>{mark} {met} of {judged} limits met</span></a>",
            section.id,
            escape(&section.title),
        );
    }
    html + "</section>\n"
}

fn one(section: &Section) -> String {
    let mut html = format!(
        "<section id=\"{}\"><h2>{}</h2><p>{}</p><div class=\"scroll\"><table><thead><tr><th scope=\"col\">figure</th>\
         <th scope=\"col\">here</th><th scope=\"col\">reference</th><th scope=\"col\">SLA</th><th scope=\"col\"></th></tr>\
         </thead><tbody>",
        section.id,
        escape(&section.title),
        escape(section.about),
    );
    for row in &section.rows {
        let (class, mark) = match row.verdict {
            Verdict::Met => ("met", "✓ met"),
            Verdict::Broken => ("broken", "✗ broken"),
            Verdict::NotJudged(_) => ("none", "not judged"),
            Verdict::NoLimit => ("none", ""),
        };
        let why = match row.verdict {
            Verdict::NotJudged(why) => format!(" title=\"{}\"", escape(why)),
            _ => String::new(),
        };
        let cells = [&row.value, &row.reference, &row.limits].map(|cell| format!("<td>{}</td>", escape(cell)));
        let (label, cells) = (escape(&row.label), cells.concat());
        let _ = write!(
            html,
            "<tr><th scope=\"row\">{label}</th>{cells}<td class=\"verdict {class}\"{why}>{mark}</td></tr>"
        );
    }
    html.push_str("</tbody></table></div>");
    if !section.checks.is_empty() || !section.wrong.is_empty() {
        html.push_str("<ul class=\"checks\">");
        for wrong in &section.wrong {
            let _ = write!(html, "<li class=\"broken\">✗ {}</li>", escape(wrong));
        }
        for check in section.checks.iter().filter(|check| check.wrong == 0) {
            let _ =
                write!(html, "<li><span class=\"met\">✓</span> {} <i>{}</i></li>", escape(&check.name), check.right);
        }
        html.push_str("</ul>");
    }
    if !section.plots.is_empty() {
        html.push_str("<div class=\"plots\">");
        section.plots.iter().for_each(|plot| html.push_str(&plot.figure()));
        html.push_str("</div>");
    }
    html + "</section>\n"
}

/// When the run began, for people: `2026-01-02 03:04:05 UTC`.
pub(super) fn started(run: &Run) -> String {
    text(&run.about, "started").replace('T', " ").replace('Z', " UTC")
}

/// The run in a sentence.
pub(super) fn verdict(sections: &[Section]) -> String {
    let count = |of: fn(Verdict) -> bool| sections.iter().map(|section| section.count(of)).sum::<usize>();
    let (met, broken) = (count(|verdict| verdict == Verdict::Met), count(|verdict| verdict == Verdict::Broken));
    let not_judged = count(|verdict| matches!(verdict, Verdict::NotJudged(_)));
    let wrong: usize = sections.iter().map(|section| section.wrong.len()).sum();
    let mut parts = vec![format!("{} met", plural(met, "limit is")), format!("{broken} broken")];
    if not_judged > 0 {
        parts.push(format!("{not_judged} not judged, since the run is a part of the reference"));
    }
    let answers = if wrong == 0 {
        "Every answer said what it should, and every accepted task ended.".to_owned()
    } else {
        format!("{} on the answers' meaning or on lost tasks failed.", plural(wrong, "check"))
    };
    format!("{}. {answers}", parts.join(", "))
}

/// What is known of the run and its machine, and of the reference's.
pub(super) fn facts(run: &Run, reference: &Value) -> Vec<(String, Value)> {
    let about = run.about.as_object().cloned().unwrap_or_default();
    let machine = about.get("machine").and_then(Value::as_object).cloned().unwrap_or_default();
    let plain = about.into_iter().filter(|(_, value)| !(value.is_object() || value.is_array() || value.is_null()));
    let reference = reference.as_object().into_iter().flatten();
    let reference: Vec<String> =
        reference.map(|(name, value)| format!("{} {}", name.replace('_', " "), words::value(value))).collect();
    let reference = ("reference measured on".to_owned(), Value::String(reference.join(", ")));
    plain.chain(machine).chain(std::iter::once(reference)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::run::Baseline;
    use super::super::sections;
    use super::*;
    use crate::report::figures::Scenario;
    use crate::report::series::Series;
    use serde_json::json;

    fn baseline() -> Baseline {
        json!({"tests": [{
            "id": "load",
            "title": "Load",
            "result": {"duration_p95_ms": 450, "requests_per_s": 1541},
            "sla": {"duration_p95_ms": {"below": 500}, "requests_per_s": {"above": 1000}},
        }]})
        .into()
    }

    fn run(p95: f64, fails: u64) -> Run {
        let mut load = Series::default();
        load.add(0.0, [("enqueue_p95_ms", 1.0)]);
        load.add(1.0, [("enqueue_p95_ms", p95)]);
        let said = json!({
            "results": {"duration_p95_ms": p95, "requests_per_s": 30},
            "checks": [{"name": "a <read> is right", "passes": 5, "fails": fails}],
            "metrics": {"tasks_accepted": {"values": {"count": 9}}, "tasks_settled": {"values": {"count": 9}}},
        });
        Run {
            about: json!({"started": "2026-01-02T03:04:05Z", "load_scale": 0.1, "time_scale": 1, "machine": {"cores": 2}}),
            scenarios: vec![Scenario { id: "load".into(), said, load, host: Series::default() }],
        }
    }

    #[test]
    fn a_report_tells_what_is_met_and_what_is_not_judged() {
        let run = run(12.5, 0);
        let sections = sections::all(&run, &baseline()).unwrap();
        assert!(sections.iter().all(|section| section.broken().is_empty()));
        let page = page(&run, &sections, &json!({"cores": 8}));
        for part in
            ["1 limit is met, 0 broken, 1 not judged", "12.5", "not judged", "cores", "<svg", "a &lt;read&gt; is right"]
        {
            assert!(page.contains(part), "{part} is not in {page}");
        }
        assert!(!page.contains("http://") && !page.contains("https://"), "the page refers to something outside");
        let text = super::super::markdown::page(&run, &sections, &json!({"cores": 8}));
        assert!(text.contains("| duration p95, ms | 12.5 | 450 | < 500 | met |"), "{text}");
    }

    #[test]
    fn a_broken_limit_and_a_wrong_answer_are_both_told() {
        let run = run(700.0, 2);
        let sections = sections::all(&run, &baseline()).unwrap();
        let broken: Vec<String> = sections.iter().flat_map(Section::broken).collect();
        assert_eq!(broken.len(), 2, "{broken:?}");
        assert!(broken.iter().any(|line| line.contains("duration p95, ms is 700, not < 500")), "{broken:?}");
        assert!(broken.iter().any(|line| line.contains("2 of 7 answers are wrong")), "{broken:?}");
        assert!(page(&run, &sections, &json!({"cores": 8})).contains("✗ broken"));
    }
}
