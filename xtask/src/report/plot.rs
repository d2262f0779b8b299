//! Plots of a run's course, as SVG that takes its colours from the page around it.

use std::fmt::Write as _;

use super::words;

/// The drawing's size; it is scaled to the place that the page gives it.
const WIDTH: f64 = 350.0;
const HEIGHT: f64 = 175.0;
const LEFT: f64 = 46.0;
const RIGHT: f64 = 12.0;
/// Half of the widest mark below a plot.
const LABEL_HALF: f64 = 20.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 24.0;

/// More points than this are drawn as means: there are no more pixels.
const POINTS_MAX: usize = 400;
/// Lines across, at least.
const TICKS: f64 = 4.0;
/// From this many seconds on time is told in minutes.
const MINUTES_FROM_S: f64 = 180.0;

/// One line of a plot.
pub(super) struct Line {
    pub(super) label: &'static str,
    pub(super) points: Vec<(f64, f64)>,
}

/// A plot over time.
pub(super) struct Plot {
    pub(super) title: &'static str,
    pub(super) unit: &'static str,
    pub(super) lines: Vec<Line>,
}

impl Plot {
    /// One without lines.
    pub(super) fn new(title: &'static str, unit: &'static str) -> Self {
        Self { title, unit, lines: Vec::new() }
    }

    /// With these lines, of which those without points are left out.
    pub(super) fn with(mut self, lines: impl IntoIterator<Item = Line>) -> Self {
        self.lines = lines.into_iter().filter(|line| line.points.len() > 1).collect();
        self
    }

    /// Whether there is nothing to show.
    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// The figure: title, what the lines are, the drawing.
    pub(super) fn figure(&self) -> String {
        let (title, unit) = (words::escape(self.title), words::escape(self.unit));
        let mut html = format!("<figure><figcaption><b>{title}</b> <span>{unit}</span></figcaption>");
        // One line needs no legend: the title says what it is.
        if self.lines.len() > 1 {
            html.push_str("<ul class=\"legend\">");
            for (at, line) in self.lines.iter().enumerate() {
                let class = class(at, line);
                let _ = write!(html, "<li class=\"{class}\">{}</li>", words::escape(line.label));
            }
            html.push_str("</ul>");
        }
        html + &self.svg() + "</figure>"
    }

    fn svg(&self) -> String {
        let points = || self.lines.iter().flat_map(|line| line.points.iter());
        let (first, last) =
            points().fold((f64::MAX, f64::MIN), |(low, high), (time, _)| (low.min(*time), high.max(*time)));
        let highest = points().fold(0.0, |high: f64, (_, value)| high.max(*value));
        // Where nothing happened the line lies on the axis, of any scale.
        let step = if highest > 0.0 { step(highest / TICKS) } else { 1.0 };
        let top = (highest / step).ceil().max(1.0) * step;
        let x = |time: f64| LEFT + (time - first) / (last - first).max(f64::EPSILON) * (WIDTH - LEFT - RIGHT);
        let y = |value: f64| HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM);

        let label = format!("{} over time, {}", self.title, self.unit);
        let mut svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\"><g class=\"grid\">",
            words::escape(&label)
        );
        let right = WIDTH - RIGHT;
        let mut tick = 0.0;
        while tick <= top + step / 2.0 {
            let (at, text) = (y(tick), words::number_text(tick));
            let _ = write!(svg, "<path d=\"M{LEFT} {at:.1}H{right}\"/>");
            let _ = write!(svg, "<text x=\"{}\" y=\"{:.1}\" class=\"end\">{text}</text>", LEFT - 6.0, at + 4.0);
            tick += step;
        }
        let (unit_s, unit) = if last - first >= MINUTES_FROM_S { (60.0, "min") } else { (1.0, "s") };
        let time_step = self::step((last - first) / unit_s / TICKS) * unit_s;
        let mut time = (first / time_step).ceil() * time_step;
        while time <= last {
            let text = words::number_text(time / unit_s);
            // The last mark has the unit.
            let unit = if time + time_step > last { format!(" {unit}") } else { String::new() };
            // Below its moment, unless that would cut it off.
            let (at, class) = if x(time) + LABEL_HALF > WIDTH { (WIDTH, "end") } else { (x(time), "mid") };
            let _ = write!(svg, "<text x=\"{at:.1}\" y=\"{}\" class=\"{class}\">{text}{unit}</text>", HEIGHT - 6.0);
            time += time_step;
        }
        svg.push_str("</g>");
        for (at, line) in self.lines.iter().enumerate() {
            let path: Vec<String> =
                thinned(&line.points).iter().map(|(time, value)| format!("{:.1} {:.1}", x(*time), y(*value))).collect();
            let _ = write!(svg, "<path class=\"line {}\" d=\"M{}\"/>", class(at, line), path.join("L"));
        }
        svg + "</svg>"
    }
}

/// The class that gives a line its colour. What bounds the others is drawn as a bound.
fn class(at: usize, line: &Line) -> String {
    if matches!(line.label, "budget" | "most") { "bound".to_owned() } else { format!("c{}", at + 1) }
}

/// The next of 1, 2, 5, 10, 20, … that is at least `least`.
fn step(least: f64) -> f64 {
    let power = 10_f64.powf(least.max(1e-9).log10().floor());
    [1.0, 2.0, 5.0].map(|digit| digit * power).into_iter().find(|step| *step >= least).unwrap_or(10.0 * power)
}

/// No more points than can be seen: means of neighbours.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let together = points.len().div_ceil(POINTS_MAX).max(1);
    let mean = |part: &[(f64, f64)]| {
        #[expect(clippy::cast_precision_loss, reason = "a part has a few points")]
        let count = part.len() as f64;
        (part.iter().map(|point| point.0).sum::<f64>() / count, part.iter().map(|point| point.1).sum::<f64>() / count)
    };
    points.chunks(together).map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round() {
        assert_eq!([0.3, 1.0, 3.0, 12.0, 70.0].map(step), [0.5, 1.0, 5.0, 20.0, 100.0]);
    }

    #[test]
    fn a_long_run_is_thinned_and_keeps_its_course() {
        let points: Vec<(f64, f64)> = (0..2000).map(|at| (f64::from(at), 7.0)).collect();
        let thin = thinned(&points);
        assert!(thin.len() <= POINTS_MAX, "{}", thin.len());
        assert!(thin.iter().all(|(_, value)| (value - 7.0).abs() < 1e-9));
        assert_eq!(thinned(&points[..10]), points[..10]);
    }

    #[test]
    fn the_drawing_holds_every_line_and_names_them() {
        let line = |label| Line { label, points: vec![(0.0, 1.0), (10.0, 5.0)] };
        let plot =
            Plot::new("Memory", "MB").with([line("resident"), line("budget"), Line { label: "none", points: vec![] }]);
        let figure = plot.figure();
        assert_eq!(figure.matches("<path class=\"line").count(), 2);
        assert!(figure.contains("<li class=\"bound\">budget</li>"), "{figure}");
        assert!(!figure.contains("NaN") && !figure.contains("inf"), "{figure}");
    }
}
