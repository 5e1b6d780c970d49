//! Reads what a kubelet serves at `/metrics/resource`. Pure.

use std::collections::BTreeMap;

/// CPU time and memory of one thing at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sample {
    /// When it was measured, milliseconds since the epoch.
    pub at_millis: i64,
    /// CPU time used so far, nanoseconds.
    pub cpu_nanos: u64,
    /// Memory that cannot be taken back, bytes.
    pub memory_bytes: u64,
    /// When it started, milliseconds since the epoch; 0 where that is not told.
    pub start_millis: i64,
}

/// A container: namespace, pod, name.
pub type ContainerKey = (String, String, String);

/// One page.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scrape {
    /// The machine.
    pub node: Option<Sample>,
    /// Its containers.
    pub containers: BTreeMap<ContainerKey, Sample>,
}

/// Parses a page. Lines of other metrics and lines that make no sense are left out.
pub fn parse(text: &str) -> Scrape {
    let mut scrape = Scrape::default();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if let Some((name, labels, value, at_millis)) = split(line) {
            note(&mut scrape, name, labels, value, at_millis);
        }
    }
    scrape
}

fn note(scrape: &mut Scrape, name: &str, labels: &str, value: f64, at_millis: i64) {
    let sample = if let Some(rest) = name.strip_prefix("node_") {
        let sample = scrape.node.get_or_insert_default();
        Some((sample, rest))
    } else if let Some(rest) = name.strip_prefix("container_") {
        let label = |key: &str| label(labels, key);
        let key = match (label("namespace"), label("pod"), label("container")) {
            (Some(namespace), Some(pod), Some(container)) => (namespace, pod, container),
            _ => return,
        };
        Some((scrape.containers.entry(key).or_default(), rest))
    } else {
        None
    };
    let Some((sample, what)) = sample else { return };
    match what {
        "cpu_usage_seconds_total" => {
            sample.cpu_nanos = (value * 1e9) as u64;
            sample.at_millis = at_millis;
        }
        "memory_working_set_bytes" => sample.memory_bytes = value as u64,
        "start_time_seconds" => sample.start_millis = (value * 1e3) as i64,
        _ => {}
    }
}

/// `name{labels} value [millis]`.
fn split(line: &str) -> Option<(&str, &str, f64, i64)> {
    let (head, tail) = match line.split_once('}') {
        Some((head, tail)) => (head, tail),
        None => line.split_at(line.find(' ')?),
    };
    let (name, labels) = head.split_once('{').unwrap_or((head, ""));
    let mut rest = tail.split_whitespace();
    let value = rest.next()?.parse().ok()?;
    let at_millis = rest.next().and_then(|t| t.parse().ok()).unwrap_or(0);
    Some((name, labels, value, at_millis))
}

/// Names of Kubernetes objects hold nothing that would be escaped.
fn label(labels: &str, key: &str) -> Option<String> {
    labels.split(',').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        (name.trim() == key).then(|| value.trim_matches('"').to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_upstreams_kubelet() {
        let text = "# HELP container_cpu_usage_seconds_total [STABLE] x\n\
            container_cpu_usage_seconds_total{container=\"c\",namespace=\"n\",pod=\"p\"} 1.5 1000\n\
            container_memory_working_set_bytes{container=\"c\",namespace=\"n\",pod=\"p\"} 2.048e+06 1000\n\
            container_start_time_seconds{container=\"c\",namespace=\"n\",pod=\"p\"} 0.5\n\
            container_memory_working_set_bytes{container=\"c\"} 5\n\
            node_cpu_usage_seconds_total 3 2000\nnode_memory_working_set_bytes 7 2000\n\
            node_swap_usage_bytes 1 2000\nnonsense\n";
        let scrape = parse(text);
        let node = Sample { at_millis: 2000, cpu_nanos: 3_000_000_000, memory_bytes: 7, start_millis: 0 };
        assert_eq!(scrape.node, Some(node));
        let key = ("n".to_owned(), "p".to_owned(), "c".to_owned());
        let sample =
            Sample { at_millis: 1000, cpu_nanos: 1_500_000_000, memory_bytes: 2_048_000, start_millis: 500 };
        assert_eq!(scrape.containers, BTreeMap::from([(key, sample)]));
    }
}
