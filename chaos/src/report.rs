//! One HTML page a run: verdicts, fault windows, latency and throughput over time, and the command that replays it.
//!
//! A single file without scripts or outside references: it can be attached to a ticket and read anywhere.

use std::fmt::Write as _;

use crate::checkers::Verdict;
use crate::drive::Outcomes;
use crate::history::{Operation, Outcome};
use crate::plan::Window;

const WIDTH: f64 = 1000.0;
const LATENCY_HEIGHT: f64 = 260.0;
const RATE_HEIGHT: f64 = 120.0;
const LANE_HEIGHT: f64 = 12.0;
/// Operations with a known end that are drawn at most; a denser cloud tells no more, and the page stays small enough to
/// be attached to a ticket.
const POINTS_MAX: usize = 4_000;
/// Across a point of the latency plot.
const POINT_WIDTH: f64 = 2.8;
/// What an operation takes in the timeline at least, or it could not be seen.
const BAR_MIN: f64 = 0.4;
/// The latency axis is logarithmic, from here to [`LATENCY_MAX_MS`].
const LATENCY_MIN_MS: f64 = 0.1;
const LATENCY_MAX_MS: f64 = 10_000.0;

/// The page.
pub fn html(title: &str, replay: &str, outcomes: &Outcomes) -> String {
    let span =
        outcomes.history.operations.iter().map(|operation| operation.completed.0).max().unwrap_or(1) as f64;
    let mut page = String::new();
    let valid = if outcomes.is_valid() { "valid" } else { "NOT valid" };
    let _ = write!(
        page,
        "<!doctype html><meta charset=utf-8><title>{title}</title><style>{STYLE}</style>\
         <h1>{title}: {valid}</h1><p>{}</p><p>Replay: <code>{}</code></p>",
        summary(outcomes),
        escape(replay)
    );
    verdicts(&mut page, outcomes);
    windows(&mut page, &outcomes.windows);
    let _ = write!(
        page,
        "<h2>Latency, by a logarithmic scale</h2><p>Shaded: the fault windows, by their numbers above.</p>{}",
        latency(outcomes, span)
    );
    let _ = write!(page, "<h2>Successful operations a second</h2>{}", rate(outcomes, span));
    let _ = write!(page, "<h2>Timeline of each process</h2>{}", timeline(outcomes, span));
    page
}

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:1040px;margin:2em auto;padding:0 1em}\
    svg{width:100%;background:#fafafa;border:1px solid #ddd}table{border-collapse:collapse}td,th{padding:.2em .8em;\
    text-align:left;border-bottom:1px solid #ddd;vertical-align:top}pre{white-space:pre-wrap;margin:.3em 0}\
    .ok{color:#17702c}.bad{color:#b3261e;font-weight:bold}.unknown{color:#8a6d00}";

fn summary(outcomes: &Outcomes) -> String {
    let count = |wanted: fn(&Outcome) -> bool| {
        outcomes.history.operations.iter().filter(|operation| wanted(&operation.outcome)).count()
    };
    format!(
        "Seed {}, {} s. Operations: {}, of which {} succeeded, {} were refused, and of {} nobody knows. Fault windows: \
         {}, not whole: {}. The longest time without a successful operation until the last fault was over: {:.3} s.",
        outcomes.plan.seed,
        outcomes.plan.duration.as_secs(),
        outcomes.history.operations.len(),
        count(|outcome| matches!(outcome, Outcome::Ok { .. })),
        count(|outcome| matches!(outcome, Outcome::Fail { .. })),
        count(|outcome| matches!(outcome, Outcome::Unknown { .. })),
        outcomes.windows.len(),
        outcomes.not_inflicted().count(),
        longest_gap(outcomes),
    )
}

/// Seconds between one successful operation's end and the next one's, as long as the plan ran: after it the clients rest.
pub fn longest_gap(outcomes: &Outcomes) -> f64 {
    let planned = u64::try_from(outcomes.plan.duration.as_nanos()).unwrap_or(u64::MAX);
    let over = outcomes.windows.last().map_or(planned, |window| window.to.0.max(planned));
    let succeeded = outcomes.history.operations.iter().filter(|operation| operation.is_ok());
    let mut ends: Vec<u64> =
        succeeded.map(|operation| operation.completed.0).filter(|end| *end <= over).collect();
    ends.sort_unstable();
    ends.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0) as f64 / 1e9
}

fn verdicts(page: &mut String, outcomes: &Outcomes) {
    page.push_str("<h2>Verdicts</h2><table>");
    for (name, verdict) in &outcomes.verdicts {
        let (class, text, evidence) = match verdict {
            Verdict::Valid => ("ok", "valid", None),
            Verdict::Unknown { why } => ("unknown", why.as_str(), None),
            Verdict::Invalid { why, evidence } => ("bad", why.as_str(), Some(evidence.join("\n"))),
        };
        let _ = write!(page, "<tr><td>{}<td class={class}>{}", escape(name), escape(text));
        if let Some(evidence) = evidence {
            let _ = write!(page, "<pre>{}</pre>", escape(&evidence));
        }
    }
    page.push_str("</table>");
}

fn latency(outcomes: &Outcomes, span: f64) -> String {
    let mut svg = open_svg(LATENCY_HEIGHT);
    shade(&mut svg, &outcomes.windows, span, LATENCY_HEIGHT);
    for decade in [1.0, 10.0, 100.0, 1_000.0] {
        let y = latency_y(decade);
        let _ = write!(
            svg,
            "<line x1=0 x2={WIDTH} y1={y:.1} y2={y:.1} stroke='#ddd'/>\
            <text x=4 y={:.1} font-size=11 fill='#777'>{decade} ms</text>",
            y - 2.0
        );
    }
    let mut strokes = Strokes::default();
    for operation in drawn(outcomes) {
        let x = operation.invoked.0 as f64 / span * WIDTH;
        let y = latency_y((operation.completed.0 - operation.invoked.0) as f64 / 1e6);
        // A line without length and with a round end is a point.
        strokes.draw(&operation.outcome, x, y, 0.0);
    }
    strokes.close(&mut svg, POINT_WIDTH, "round");
    seconds(&mut svg, span, LATENCY_HEIGHT);
    svg + "</svg><p>Blue: succeeded. Ochre: refused. Red: nobody knows.</p>"
}

/// The operations that are drawn: of those with a known end every so many, and all others, which are few and tell the
/// most.
fn drawn(outcomes: &Outcomes) -> impl Iterator<Item = &Operation> {
    let operations = &outcomes.history.operations;
    let stride = operations.len().div_ceil(POINTS_MAX).max(1);
    let tells = move |(index, operation): &(usize, &Operation)| {
        index.is_multiple_of(stride) || matches!(operation.outcome, Outcome::Unknown { .. })
    };
    operations.iter().enumerate().filter(tells).map(|(_, operation)| operation)
}

/// Horizontal lines, all of one colour in one path: a fifth of the bytes of a shape for each. What nobody knows the end
/// of lies on top.
#[derive(Default)]
struct Strokes {
    succeeded: String,
    refused: String,
    unknown: String,
}

impl Strokes {
    fn draw(&mut self, outcome: &Outcome, x: f64, y: f64, length: f64) {
        let path = match outcome {
            Outcome::Ok { .. } => &mut self.succeeded,
            Outcome::Fail { .. } => &mut self.refused,
            Outcome::Unknown { .. } => &mut self.unknown,
        };
        let _ = write!(path, "M{x:.1} {y:.1}h{length:.1}");
    }

    fn close(&self, svg: &mut String, width: f64, ends: &str) {
        for (path, colour) in
            [(&self.succeeded, "#2a6fb0"), (&self.refused, "#c98a00"), (&self.unknown, "#b3261e")]
        {
            let _ = write!(
                svg,
                "<path d='{path}' stroke='{colour}' stroke-width='{width}' stroke-linecap='{ends}' fill='none'/>"
            );
        }
    }
}

/// A lane for each process, a bar for each operation from its invocation to its end.
fn timeline(outcomes: &Outcomes, span: f64) -> String {
    let operations = &outcomes.history.operations;
    let lanes = operations.iter().map(|operation| operation.process.0 + 1).max().unwrap_or(0);
    let height = f64::from(lanes + 1) * LANE_HEIGHT;
    let mut svg = open_svg(height);
    shade(&mut svg, &outcomes.windows, span, height);
    let mut strokes = Strokes::default();
    for operation in drawn(outcomes) {
        let x = operation.invoked.0 as f64 / span * WIDTH;
        let length = (operation.completed.0 - operation.invoked.0) as f64 / span * WIDTH;
        let y = (f64::from(operation.process.0) + 0.5) * LANE_HEIGHT;
        strokes.draw(&operation.outcome, x, y, length.max(BAR_MIN));
    }
    strokes.close(&mut svg, LANE_HEIGHT - 2.0, "butt");
    for lane in 0..lanes {
        let y = f64::from(lane + 1) * LANE_HEIGHT - 3.0;
        let _ = write!(svg, "<text x=2 y={y:.1} font-size=9 fill='#333'>{lane}</text>");
    }
    seconds(&mut svg, span, height);
    svg + "</svg><p>Blue: succeeded. Ochre: refused. Red: nobody knows, drawn until the client gave up.</p>"
}

fn latency_y(ms: f64) -> f64 {
    let clamped = ms.clamp(LATENCY_MIN_MS, LATENCY_MAX_MS);
    let share = (clamped / LATENCY_MIN_MS).log10() / (LATENCY_MAX_MS / LATENCY_MIN_MS).log10();
    LATENCY_HEIGHT * (1.0 - share)
}

fn rate(outcomes: &Outcomes, span: f64) -> String {
    let seconds = (span / 1e9).ceil().max(1.0) as usize;
    let mut buckets = vec![0_u32; seconds];
    for operation in outcomes.history.operations.iter().filter(|operation| operation.is_ok()) {
        let second = (operation.completed.0 / 1_000_000_000) as usize;
        buckets[second.min(seconds - 1)] += 1;
    }
    let top = f64::from(buckets.iter().copied().max().unwrap_or(1).max(1));
    let mut svg = open_svg(RATE_HEIGHT);
    shade(&mut svg, &outcomes.windows, span, RATE_HEIGHT);
    let width = 1e9 / span * WIDTH;
    for (second, count) in buckets.iter().enumerate() {
        let height = f64::from(*count) / top * (RATE_HEIGHT - 14.0);
        let _ = write!(
            svg,
            "<rect x={:.1} y={:.1} width={:.1} height={height:.1} fill='#2a6fb0' opacity='.7'/>",
            second as f64 * width,
            RATE_HEIGHT - height,
            (width - 1.0).max(0.5)
        );
    }
    let _ = write!(svg, "<text x=4 y=12 font-size=11 fill='#777'>{top:.0}/s</text>");
    self::seconds(&mut svg, span, RATE_HEIGHT);
    svg + "</svg>"
}

fn open_svg(height: f64) -> String {
    format!("<svg viewBox='0 0 {WIDTH} {height}' xmlns='http://www.w3.org/2000/svg'>")
}

/// Marks on the axis of time, about so many.
const TICKS: f64 = 12.0;

/// A mark and a number at every so many seconds.
fn seconds(svg: &mut String, span: f64, height: f64) {
    let all = span / 1e9;
    let steps = [1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0];
    let step = steps.into_iter().find(|step| all / step <= TICKS).unwrap_or(1_800.0);
    for tick in 1..=(all / step) as u32 {
        let second = f64::from(tick) * step;
        let x = second / all * WIDTH;
        let _ = write!(
            svg,
            "<line x1={x:.1} x2={x:.1} y1={:.1} y2={height} stroke='#777'/>\
            <text x={x:.1} y={:.1} font-size=9 fill='#777' text-anchor=end>{second} s</text>",
            height - 5.0,
            height - 6.0
        );
    }
}

fn shade(svg: &mut String, windows: &[Window], span: f64, height: f64) {
    for (number, window) in (1..).zip(windows) {
        let x = window.from.0 as f64 / span * WIDTH;
        let width = (window.to.0 - window.from.0) as f64 / span * WIDTH;
        let _ = write!(
            svg,
            "<rect x={x:.1} y=0 width={width:.1} height={height} fill='#b3261e' opacity=.1>\
            <title>{}</title></rect><text x={:.1} y=10 font-size=10 fill='#b3261e'>{number}</text>",
            window.fault,
            x + 2.0
        );
    }
}

fn windows(page: &mut String, windows: &[Window]) {
    page.push_str("<h2>Fault windows</h2><table><tr><th><th>from<th>to<th>fault<th>what was done");
    for (number, window) in (1..).zip(windows) {
        let class = if window.is_whole { "" } else { " class=bad" };
        let _ = write!(
            page,
            "<tr><td>{number}<td>{:.2} s<td>{:.2} s<td>{}<td{class}>{}",
            window.from.0 as f64 / 1e9,
            window.to.0 as f64 / 1e9,
            window.fault,
            escape(&window.what)
        );
    }
    page.push_str("</table>");
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Action, History, Nanos, Process, Value};
    use crate::plan::{Plan, Seed};
    use std::time::Duration;

    #[test]
    fn the_page_shows_verdict_evidence_and_replay() {
        let operation = |completed, outcome| Operation {
            process: Process(0),
            invoked: Nanos(completed - 1),
            completed: Nanos(completed),
            action: Action::Read { key: "k".into() },
            outcome,
        };
        let ok = || Outcome::Ok { value: Value::None, revision: None };
        let history =
            History { operations: [1, 3, 30].map(|at| operation(at * 1_000_000_000, ok())).to_vec() };
        let verdicts = vec![
            ("a".to_owned(), Verdict::Valid),
            ("b".to_owned(), Verdict::Invalid { why: "x < y".into(), evidence: vec!["proof".into()] }),
        ];
        let plan = Plan::new(Seed(9), Duration::from_secs(4), &[], 1);
        let window = |fault: &str, is_whole| Window {
            from: Nanos(1),
            to: Nanos(2),
            fault: fault.into(),
            is_whole,
            what: format!("{fault} m1"),
        };
        let windows = vec![window("kill", true), window("slow", false)];
        let outcomes = Outcomes { plan, history, windows, verdicts, judged_secs: 0.0 };
        // The last read comes long after the four seconds of the plan.
        assert!((longest_gap(&outcomes) - 2.0).abs() < 1e-9);
        let page = html("t", "chaos run --seed=9", &outcomes);
        for part in [
            "Timeline of each process",
            "NOT valid",
            "x &lt; y",
            "<pre>proof</pre>",
            "chaos run --seed=9",
            "2.000 s",
            "<td>kill<td>kill m1",
            "<td>slow<td class=bad>slow m1",
            "not whole: 1",
        ] {
            assert!(page.contains(part), "{part}");
        }
        // An attribute without quotes would take the slash for a part of itself, and the shape would not end.
        for (at, _) in page.match_indices("/>") {
            assert!(page[..at].ends_with('\''), "{}", &page[at.saturating_sub(80)..at]);
        }
    }
}
