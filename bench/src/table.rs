//! Results as a Markdown table: both sides, and how many times better ours is.

use std::fmt::Write as _;

/// One measurement of one side.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Operations (or events) a second; for memory, MiB. Not a number where nothing could be measured.
    pub value: f64,
    /// Milliseconds; none where latency means nothing.
    pub p50_ms: Option<f64>,
    pub p99_ms: Option<f64>,
}

impl Sample {
    /// A value without latencies.
    pub fn plain(value: f64) -> Self {
        Self { value, p50_ms: None, p99_ms: None }
    }
}

/// One row.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub name: String,
    pub unit: &'static str,
    /// Whether less is better, as for memory.
    pub less_is_better: bool,
    pub upstream: Sample,
    pub ours: Sample,
}

/// The table. A ratio above 1 is in our favour.
pub fn markdown(upstream: &str, rows: &[Row]) -> String {
    let mut out = format!(
        "| | {upstream} | p50 / p99 ms | quarterdeck | p50 / p99 ms | ratio | p99 ratio |\n|---|--:|--:|--:|--:|--:|--:|\n"
    );
    for row in rows {
        let ratio = match row.less_is_better {
            true => row.upstream.value / row.ours.value,
            false => row.ours.value / row.upstream.value,
        };
        let p99 = match (row.upstream.p99_ms, row.ours.p99_ms) {
            (Some(upstream), Some(ours)) if ours > 0.0 => format!("{:.2}", upstream / ours),
            _ => String::new(),
        };
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {p99} |",
            row.name,
            value(&row.upstream, row.unit),
            latency(&row.upstream),
            value(&row.ours, row.unit),
            latency(&row.ours),
            if ratio.is_nan() { String::new() } else { format!("{ratio:.2}") },
        );
    }
    out
}

/// With two decimals where whole numbers would say nothing.
fn value(sample: &Sample, unit: &str) -> String {
    match sample.value {
        value if value.is_nan() => "none".into(),
        value if value < 20.0 => format!("{value:.2} {unit}"),
        value => format!("{value:.0} {unit}"),
    }
}

fn latency(sample: &Sample) -> String {
    match (sample.p50_ms, sample.p99_ms) {
        (Some(p50), Some(p99)) => format!("{p50:.2} / {p99:.2}"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_in_our_favour_above_one() {
        let sample = |value, p99| Sample { value, p50_ms: Some(1.0), p99_ms: Some(p99) };
        let row = |name: &str, less_is_better, upstream, ours| Row {
            name: name.into(),
            unit: "/s",
            less_is_better,
            upstream,
            ours,
        };
        let rows = [
            row("put", false, sample(100.0, 8.0), sample(300.0, 2.0)),
            row("memory", true, sample(130.0, 1.0), sample(65.0, 1.0)),
            row("start", true, sample(f64::NAN, 1.0), sample(1.5, 1.0)),
        ];
        expect_test::expect![[r#"
            | | etcd | p50 / p99 ms | quarterdeck | p50 / p99 ms | ratio | p99 ratio |
            |---|--:|--:|--:|--:|--:|--:|
            | put | 100 /s | 1.00 / 8.00 | 300 /s | 1.00 / 2.00 | 3.00 | 4.00 |
            | memory | 130 /s | 1.00 / 1.00 | 65 /s | 1.00 / 1.00 | 2.00 | 1.00 |
            | start | none | 1.00 / 1.00 | 1.50 /s | 1.00 / 1.00 |  | 1.00 |
        "#]]
        .assert_eq(&markdown("etcd", &rows));
    }
}
