//! The documented rules, written down the slow and obvious way: every question looks at all nodes and all pods.
//!
//! Owns nothing shared with the core but the input types and the matching of labels, which have tests of their own.

use std::collections::{BTreeMap, BTreeSet};

use scheduler::core::labels::{Effect, Labels, Taint};
use scheduler::core::spec::{AffinityTerm, NodeInput, PodInput, PodSpec, SpreadConstraint};

/// A frozen cluster.
#[derive(Clone, Debug, Default)]
pub struct World {
    pub nodes: Vec<NodeInput>,
    /// Pods with the name of their node.
    pub pods: Vec<PodInput>,
    pub namespaces: BTreeMap<String, Labels>,
    /// Namespace and selector of services.
    pub services: Vec<(String, scheduler::core::terms::Pairs)>,
}

/// Weighted scores in the order of [`PLUGINS`].
pub type Scores = [i64; 7];

pub const PLUGINS: [(&str, i64); 7] = [
    ("TaintToleration", 3),
    ("NodeAffinity", 2),
    ("NodeResourcesFit", 1),
    ("PodTopologySpread", 2),
    ("InterPodAffinity", 2),
    ("NodeResourcesBalancedAllocation", 1),
    ("ImageLocality", 1),
];

impl World {
    fn pods_on<'a>(&'a self, node: &'a NodeInput) -> impl Iterator<Item = &'a PodInput> {
        self.pods.iter().filter(|p| *p.node_name == *node.name)
    }

    fn namespace_labels(&self, namespace: &str) -> Option<&Labels> {
        self.namespaces.get(namespace)
    }

    /// All verdicts: the refusing plugin with its reasons, or the scores.
    pub fn verdicts(&self, pod: &PodSpec) -> Vec<Result<Scores, (&'static str, String)>> {
        let refusals: Vec<_> = self.nodes.iter().map(|n| self.refusal(pod, n)).collect();
        let feasible: Vec<&NodeInput> =
            self.nodes.iter().zip(&refusals).filter(|(_, r)| r.is_none()).map(|(n, _)| n).collect();
        let mut scores = self.scores(pod, &feasible).into_iter();
        refusals
            .into_iter()
            .map(|r| match r {
                Some(refusal) => Err(refusal),
                None => Ok(scores.next().expect("a score per feasible node")),
            })
            .collect()
    }

    fn refusal(&self, pod: &PodSpec, node: &NodeInput) -> Option<(&'static str, String)> {
        let one = |plugin, reason: &str| Some((plugin, reason.to_owned()));
        let tolerated = |t: &Taint| pod.local.tolerations.iter().any(|tol| tol.tolerates(t));
        let unschedulable = Taint {
            key: "node.kubernetes.io/unschedulable".into(),
            value: "".into(),
            effect: Effect::NoSchedule,
        };
        if node.unschedulable && !tolerated(&unschedulable) {
            return one("NodeUnschedulable", "node(s) were unschedulable");
        }
        if node.taints.iter().any(|t| t.effect != Effect::PreferNoSchedule && !tolerated(t)) {
            return one("TaintToleration", "node(s) had untolerated taint(s)");
        }
        if !pod.local.admits_node(&node.name, &node.labels) {
            return one("NodeAffinity", "node(s) didn't match Pod's node affinity/selector");
        }
        let taken = self.pods_on(node).flat_map(|p| &p.spec.local.host_ports);
        if taken.into_iter().any(|t| pod.local.host_ports.iter().any(|w| w.conflicts(t))) {
            return one("NodePorts", "node(s) didn't have free ports for the requested pod ports");
        }
        if let Some(reasons) = self.fit(pod, node) {
            return Some(("NodeResourcesFit", reasons));
        }
        let disks = self.pods_on(node).flat_map(|p| &p.spec.local.disks);
        if disks.into_iter().any(|d| pod.local.disks.iter().any(|w| w.conflicts(d))) {
            return one("VolumeRestrictions", "node(s) had no available disk");
        }
        if let Some(reason) = self.spread_refusal(pod, node) {
            return one("PodTopologySpread", reason);
        }
        if let Some(reason) = self.affinity_refusal(pod, node) {
            return one("InterPodAffinity", reason);
        }
        None
    }

    fn used(&self, node: &NodeInput, amount: impl Fn(&PodSpec) -> i64) -> i64 {
        self.pods_on(node).map(|p| amount(&p.spec)).sum()
    }

    fn fit(&self, pod: &PodSpec, node: &NodeInput) -> Option<String> {
        let mut reasons = Vec::new();
        if self.pods_on(node).count() as i64 + 1 > node.pods {
            reasons.push("Too many pods".to_owned());
        }
        let wants = &pod.local.requests;
        let mut names = vec!["cpu".to_owned(), "memory".to_owned(), "ephemeral-storage".to_owned()];
        names.extend(wants.scalars.iter().map(|(n, _)| n.to_string()));
        for name in names {
            let free = node.allocatable.get(&name) - self.used(node, |s| s.local.requests.get(&name));
            if wants.get(&name) > 0 && wants.get(&name) > free {
                reasons.push(format!("Insufficient {name}"));
            }
        }
        (!reasons.is_empty()).then(|| reasons.join(", "))
    }

    fn constraints(&self, pod: &PodSpec, hard: bool) -> (Vec<SpreadConstraint>, bool) {
        if !pod.spread.is_empty() {
            return (pod.spread.iter().filter(|c| c.hard == hard).cloned().collect(), true);
        }
        let labels = &pod.class.labels;
        let mut pairs: BTreeSet<(&str, &str)> = BTreeSet::new();
        for (namespace, selector) in &self.services {
            if **namespace == *pod.class.namespace && selector.iter().all(|(k, v)| labels.get(k) == Some(v)) {
                pairs.extend(selector.iter().map(|(k, v)| (&**k, &**v)));
            }
        }
        if pairs.is_empty() || hard {
            return (Vec::new(), true);
        }
        let selector = scheduler::core::labels::Selector::from_map(pairs);
        let soft = |key: &str, max_skew| SpreadConstraint {
            topology_key: key.into(),
            max_skew,
            min_domains: 1,
            hard: false,
            selector: selector.clone(),
            honor_affinity: true,
            honor_taints: false,
        };
        (vec![soft("kubernetes.io/hostname", 3), soft("topology.kubernetes.io/zone", 5)], false)
    }

    fn counts_in(&self, pod: &PodSpec, constraint: &SpreadConstraint, node: &NodeInput) -> i64 {
        let counts = |p: &&PodInput| {
            !p.terminating
                && p.spec.class.namespace == pod.class.namespace
                && !constraint.selector.is_everything()
                && constraint.selector.matches(&p.spec.class.labels)
        };
        self.pods_on(node).filter(counts).count() as i64
    }

    fn includes(&self, pod: &PodSpec, constraint: &SpreadConstraint, node: &NodeInput) -> bool {
        let untolerated = node.taints.iter().any(|t| {
            t.effect != Effect::PreferNoSchedule && !pod.local.tolerations.iter().any(|tol| tol.tolerates(t))
        });
        (!constraint.honor_affinity || pod.local.admits_node(&node.name, &node.labels))
            && (!constraint.honor_taints || !untolerated)
    }

    fn spread_refusal(&self, pod: &PodSpec, node: &NodeInput) -> Option<&'static str> {
        let (constraints, _) = self.constraints(pod, true);
        let has_all = |n: &NodeInput| constraints.iter().all(|c| n.labels.get(&c.topology_key).is_some());
        for constraint in &constraints {
            let Some(here) = node.labels.get(&constraint.topology_key) else {
                return Some("node(s) didn't match pod topology spread constraints (missing required label)");
            };
            let mut domains: BTreeMap<&str, i64> = BTreeMap::new();
            for other in self.nodes.iter().filter(|n| has_all(n) && self.includes(pod, constraint, n)) {
                let value = other.labels.get(&constraint.topology_key).expect("has all labels");
                *domains.entry(value).or_default() += self.counts_in(pod, constraint, other);
            }
            let mut least = domains.values().copied().min().unwrap_or(0);
            if (domains.len() as i64) < i64::from(constraint.min_domains) {
                least = 0;
            }
            let own = i64::from(constraint.selector.matches(&pod.class.labels));
            if domains.get(here).copied().unwrap_or(0) + own - least > i64::from(constraint.max_skew) {
                return Some("node(s) didn't match pod topology spread constraints");
            }
        }
        None
    }

    fn selects(&self, term: &AffinityTerm, pod: &PodSpec) -> bool {
        term.matches(&pod.class.namespace, &pod.class.labels, self.namespace_labels(&pod.class.namespace))
    }

    /// As [`World::selects`], for terms of existing pods on an incoming one of an unknown namespace.
    fn selects_incoming(&self, term: &AffinityTerm, pod: &PodSpec) -> bool {
        let none = Labels::default();
        let labels = self.namespace_labels(&pod.class.namespace).unwrap_or(&none);
        term.matches(&pod.class.namespace, &pod.class.labels, Some(labels))
    }

    /// Pods on nodes of the same domain as `node`.
    fn in_domain<'a>(&'a self, key: &'a str, node: &'a NodeInput) -> impl Iterator<Item = &'a PodInput> {
        let here = node.labels.get(key);
        self.nodes
            .iter()
            .filter(move |n| here.is_some() && n.labels.get(key) == here)
            .flat_map(move |n| self.pods_on(n))
    }

    fn affinity_refusal(&self, pod: &PodSpec, node: &NodeInput) -> Option<&'static str> {
        let affinity = &pod.class.affinity;
        let matches_all = |p: &PodSpec| affinity.required.iter().all(|t| self.selects(t, p));
        if !affinity.required.is_empty() {
            let has_labels = affinity.required.iter().all(|t| node.labels.get(&t.topology_key).is_some());
            let near = |t: &AffinityTerm| self.in_domain(&t.topology_key, node).any(|p| matches_all(&p.spec));
            let anywhere = self.nodes.iter().any(|n| {
                affinity.required.iter().any(|t| n.labels.get(&t.topology_key).is_some())
                    && self.pods_on(n).any(|p| matches_all(&p.spec))
            });
            let first = !anywhere && matches_all(pod);
            if !has_labels || !(affinity.required.iter().all(near) || first) {
                return Some("node(s) didn't match pod affinity rules");
            }
        }
        let hated =
            |t: &AffinityTerm| self.in_domain(&t.topology_key, node).any(|p| self.selects(t, &p.spec));
        if affinity.required_anti.iter().any(hated) {
            return Some("node(s) didn't match pod anti-affinity rules");
        }
        let hates = |p: &PodInput, home: &NodeInput| {
            p.spec.class.affinity.required_anti.iter().any(|t| {
                let here = node.labels.get(&t.topology_key);
                here.is_some() && home.labels.get(&t.topology_key) == here && self.selects_incoming(t, pod)
            })
        };
        if self.nodes.iter().any(|home| self.pods_on(home).any(|p| hates(p, home))) {
            return Some("node(s) didn't satisfy existing pods anti-affinity rules");
        }
        None
    }

    fn scores(&self, pod: &PodSpec, feasible: &[&NodeInput]) -> Vec<Scores> {
        let per_plugin = [
            self.taint_scores(pod, feasible),
            self.preference_scores(pod, feasible),
            feasible.iter().map(|n| self.fit_score(pod, n)).collect(),
            self.spread_scores(pod, feasible),
            self.affinity_scores(pod, feasible),
            feasible.iter().map(|n| self.balance_score(pod, n)).collect(),
            feasible.iter().map(|n| self.image_score(pod, n)).collect::<Vec<i64>>(),
        ];
        (0..feasible.len()).map(|i| std::array::from_fn(|p| per_plugin[p][i] * PLUGINS[p].1)).collect()
    }

    fn taint_scores(&self, pod: &PodSpec, feasible: &[&NodeInput]) -> Vec<i64> {
        let bad = |n: &NodeInput| {
            let soft = n.taints.iter().filter(|t| t.effect == Effect::PreferNoSchedule);
            soft.filter(|t| !pod.local.tolerations.iter().any(|tol| tol.tolerates(t))).count() as i64
        };
        let raw: Vec<i64> = feasible.iter().map(|n| bad(n)).collect();
        let most = raw.iter().copied().max().unwrap_or(0);
        raw.iter().map(|r| if most == 0 { 100 } else { 100 - 100 * r / most }).collect()
    }

    fn preference_scores(&self, pod: &PodSpec, feasible: &[&NodeInput]) -> Vec<i64> {
        let raw: Vec<i64> = feasible.iter().map(|n| pod.local.node_preference(&n.name, &n.labels)).collect();
        let most = raw.iter().copied().max().unwrap_or(0);
        raw.iter().map(|r| if most == 0 { 0 } else { 100 * r / most }).collect()
    }

    fn fit_score(&self, pod: &PodSpec, node: &NodeInput) -> i64 {
        let cpu = self.used(node, |s| s.local.nonzero_milli_cpu) + pod.local.score_milli_cpu;
        let memory = self.used(node, |s| s.local.nonzero_memory) + pod.local.score_memory;
        let parts = [(cpu, node.allocatable.milli_cpu), (memory, node.allocatable.memory)];
        let parts: Vec<i64> = parts
            .iter()
            .filter(|(_, capacity)| *capacity != 0)
            .map(|(used, capacity)| if used > capacity { 0 } else { (capacity - used) * 100 / capacity })
            .collect();
        if parts.is_empty() { 0 } else { parts.iter().sum::<i64>() / parts.len() as i64 }
    }

    fn balance_score(&self, pod: &PodSpec, node: &NodeInput) -> i64 {
        let wants = &pod.local.requests;
        if wants.milli_cpu == 0 && wants.memory == 0 {
            return 0;
        }
        let balance = |cpu: i64, memory: i64| {
            let share = |used: i64, capacity: i64| (used as f64 / capacity as f64).min(1.0);
            let (a, b) = (node.allocatable.milli_cpu, node.allocatable.memory);
            let deviation =
                if a == 0 || b == 0 { 0.0 } else { ((share(cpu, a) - share(memory, b)) / 2.0).abs() };
            ((1.0 - deviation) * 100.0) as i64
        };
        let cpu = self.used(node, |s| s.local.requests.milli_cpu);
        let memory = self.used(node, |s| s.local.requests.memory);
        50 + (50 + balance(cpu + wants.milli_cpu, memory + wants.memory) - balance(cpu, memory)) / 2
    }

    fn image_score(&self, pod: &PodSpec, node: &NodeInput) -> i64 {
        const MIB: i64 = 1024 * 1024;
        let holds = |n: &NodeInput, name: &str| n.images.iter().any(|i| i.names.iter().any(|x| **x == *name));
        let size = |name: &str| {
            self.nodes
                .iter()
                .flat_map(|n| &n.images)
                .find(|i| i.names.iter().any(|x| **x == *name))
                .map(|i| i.size_bytes)
        };
        let mut sum = 0;
        for image in pod.local.images.iter().filter(|i| holds(node, i)) {
            let spread =
                self.nodes.iter().filter(|n| holds(n, image)).count() as f64 / self.nodes.len() as f64;
            sum += (size(image).unwrap_or(0) as f64 * spread) as i64;
        }
        let most = 1000 * MIB * i64::from(pod.local.container_count);
        100 * (sum.max(23 * MIB).min(most.max(23 * MIB)) - 23 * MIB) / (most - 23 * MIB)
    }

    fn spread_scores(&self, pod: &PodSpec, feasible: &[&NodeInput]) -> Vec<i64> {
        let (constraints, require_all) = self.constraints(pod, false);
        if constraints.is_empty() || feasible.len() <= 1 {
            return vec![0; feasible.len()];
        }
        let has_all = |n: &NodeInput| constraints.iter().all(|c| n.labels.get(&c.topology_key).is_some());
        let ignored = |n: &NodeInput| require_all && !has_all(n);
        let mut raw: Vec<f64> = vec![0.0; feasible.len()];
        for constraint in &constraints {
            let key = &*constraint.topology_key;
            let by_host = key == "kubernetes.io/hostname";
            let scored = || feasible.iter().filter(|n| !ignored(n));
            let values: BTreeSet<&str> = scored().map(|n| n.labels.get(key).unwrap_or("")).collect();
            let size = if by_host { scored().count() } else { values.len() };
            let weight = ((size + 2) as f64).ln();
            for (i, node) in feasible.iter().enumerate().filter(|(_, n)| !ignored(n)) {
                let Some(here) = node.labels.get(key) else { continue };
                let count = if by_host {
                    self.counts_in(pod, constraint, node)
                } else {
                    let counted = self.nodes.iter().filter(|n| {
                        n.labels.get(key) == Some(here) && !ignored(n) && self.includes(pod, constraint, n)
                    });
                    counted.map(|n| self.counts_in(pod, constraint, n)).sum()
                };
                raw[i] += count as f64 * weight + f64::from(constraint.max_skew - 1);
            }
        }
        let raw: Vec<Option<i64>> =
            feasible.iter().zip(raw).map(|(n, r)| (!ignored(n)).then(|| r.round() as i64)).collect();
        let most = raw.iter().flatten().copied().max().unwrap_or(0);
        let least = raw.iter().flatten().copied().min().unwrap_or(0);
        let normal = |r: &Option<i64>| match r {
            None => 0,
            Some(_) if most == 0 => 100,
            Some(r) => 100 * (most + least - r) / most,
        };
        raw.iter().map(normal).collect()
    }

    fn affinity_scores(&self, pod: &PodSpec, feasible: &[&NodeInput]) -> Vec<i64> {
        let mut by_domain: BTreeMap<(&str, &str), i64> = BTreeMap::new();
        for home in &self.nodes {
            for existing in self.pods_on(home) {
                let mut add = |key: &'_ std::sync::Arc<str>, weight: i64| {
                    if let Some((key, value)) = home.labels.iter().find(|(k, _)| **k == **key) {
                        *by_domain.entry((key, value)).or_default() += weight;
                    }
                };
                for own in
                    pod.class.affinity.preferred.iter().filter(|w| self.selects(&w.term, &existing.spec))
                {
                    add(&own.term.topology_key, i64::from(own.weight));
                }
                let theirs = &existing.spec.class.affinity;
                for term in theirs.required.iter().filter(|t| self.selects_incoming(t, pod)) {
                    add(&term.topology_key, 1);
                }
                for w in theirs.preferred.iter().filter(|w| self.selects_incoming(&w.term, pod)) {
                    add(&w.term.topology_key, i64::from(w.weight));
                }
            }
        }
        let sum = |n: &NodeInput| {
            let here = by_domain.iter().filter(|((key, value), _)| n.labels.get(key) == Some(value));
            here.map(|(_, weight)| weight).sum::<i64>()
        };
        let raw: Vec<i64> = feasible.iter().map(|n| sum(n)).collect();
        let most = raw.iter().copied().max().unwrap_or(0);
        let least = raw.iter().copied().min().unwrap_or(0);
        let share = |r: i64| (100.0 * ((r - least) as f64 / (most - least) as f64)) as i64;
        raw.iter().map(|r| if most > least { share(*r) } else { 0 }).collect()
    }
}
