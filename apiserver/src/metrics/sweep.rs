//! Drops the label sets of kinds that are no longer served: prometheus keeps every set for ever, and a server sees many
//! short-lived kinds, of each of which it would keep dozens of histograms.

use std::collections::HashMap;

use prometheus::core::{Collector as _, MetricVec, MetricVecBuilder};

use crate::registry::catalog::Snapshot;

/// Whether a label set is about a custom kind that is not served. Groups of custom kinds are domains.
fn is_gone(served: &Snapshot, labels: &HashMap<&str, &str>) -> bool {
    let (resource, group) = match (labels.get("resource"), labels.get("group")) {
        (Some(resource), Some(group)) => (*resource, *group),
        // `widgets.example.com`
        (Some(dotted), None) => dotted.split_once('.').unwrap_or((dotted, "")),
        (None, _) => return false,
    };
    if resource.is_empty() || !group.contains('.') {
        return false;
    }
    match labels.get("version") {
        Some(version) => served.find(group, version, resource).is_none(),
        None => served.storage(group, resource).is_none(),
    }
}

/// Drops what is gone from one family, and says how many label sets went.
pub fn sweep<T: MetricVecBuilder>(family: &MetricVec<T>, served: &Snapshot) -> usize {
    let mut dropped = 0;
    for metric in family.collect().iter().flat_map(|family| family.get_metric()) {
        let labels = metric.get_label().iter().map(|label| (label.name(), label.value())).collect();
        if is_gone(served, &labels) && family.remove(&labels).is_ok() {
            dropped += 1;
        }
    }
    dropped
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::proto::LabelPair;
    use prometheus::{IntCounterVec, Opts};

    #[test]
    fn only_custom_kinds_that_are_gone_are_dropped() {
        let nothing = Snapshot::default();
        let check = |names: &[&str], sets: &[&[&str]], left: &[&str]| {
            let family = IntCounterVec::new(Opts::new("n", "h"), names).expect("a family");
            sets.iter().for_each(|set| family.with_label_values(set).inc());
            let dropped = sweep(&family, &nothing);
            let metrics = family.collect();
            let first = |labels: &[LabelPair]| {
                labels.iter().find(|l| l.name() == names[0]).map(|l| l.value().to_owned())
            };
            let rows = metrics.iter().flat_map(|m| m.get_metric()).filter_map(|m| first(m.get_label()));
            let mut rows: Vec<String> = rows.collect();
            rows.sort();
            assert_eq!(
                (rows, dropped),
                (left.iter().map(|row| (*row).to_owned()).collect(), sets.len() - left.len())
            );
        };
        let custom = ["a", "example.com", "v1", "cups"];
        let rows: [&[&str]; 4] =
            [&custom, &["b", "", "v1", "pods"], &["c", "apps", "v1", "deployments"], &["d", "", "", ""]];
        check(&["verb", "group", "version", "resource"], &rows, &["b", "c", "d"]);
        check(
            &["resource"],
            &[&["cups.example.com"], &["pods"], &["deployments.apps"]],
            &["deployments.apps", "pods"],
        );
        check(&["verb"], &[&["a"]], &["a"]);
    }
}
