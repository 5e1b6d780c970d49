//! Random clusters and pods: small vocabularies, so that rules meet often.

use std::sync::Arc;

use scheduler::core::evaluate::Dice;
use scheduler::core::labels::{
    Effect, Labels, NodeSelectorTerm, Op, Requirement, Selector, Taint, Toleration,
};
use scheduler::core::spec::{
    AffinityTerm, HostPort, LocalSpec, NodeImage, NodeInput, PodAffinity, PodClass, PodInput, PodSpec,
    PreferredNode, Resources, SpreadConstraint, WeightedTerm,
};

pub const NAMESPACES: [&str; 3] = ["red", "green", "blue"];
const KEYS: [&str; 3] = ["kubernetes.io/hostname", "topology.kubernetes.io/zone", "rack"];
const APPS: [&str; 3] = ["web", "db", "cache"];

/// Dice with words for what is asked of them.
pub struct Source(pub Dice);

impl Source {
    pub fn below(&mut self, limit: usize) -> usize {
        self.0.below(limit)
    }

    pub fn chance(&mut self, percent: usize) -> bool {
        self.0.below(100) < percent
    }

    fn pick<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.0.below(all.len())]
    }

    pub fn node(&mut self, number: usize) -> NodeInput {
        let name = format!("n{number}");
        let mut labels = vec![("size".to_owned(), self.pick(&["1", "2", "3"]).to_owned())];
        if self.chance(90) {
            let unique = self.chance(95);
            labels.push((KEYS[0].to_owned(), if unique { name.clone() } else { "shared".to_owned() }));
        }
        if self.chance(90) {
            labels.push((KEYS[1].to_owned(), format!("z{}", self.below(3))));
        }
        if self.chance(70) {
            labels.push((KEYS[2].to_owned(), format!("r{}", self.below(5))));
        }
        let mut allocatable = Resources {
            milli_cpu: [0, 1000, 2000, 4000][1 + self.below(3)],
            memory: [1, 2, 4][self.below(3)] << 30,
            ephemeral: if self.chance(50) { 10 << 30 } else { 0 },
            scalars: Vec::new(),
        };
        if self.chance(40) {
            allocatable.scalars.push(("example.com/gpu".into(), 1 + self.below(3) as i64));
        }
        NodeInput {
            name: name.as_str().into(),
            labels: labels.into_iter().collect(),
            taints: self.taints(),
            unschedulable: self.chance(8),
            allocatable,
            pods: 3 + self.below(6) as i64,
            images: self.images(),
            features: Vec::new(),
        }
    }

    fn taints(&mut self) -> Vec<Taint> {
        let mut taints = Vec::new();
        for key in ["a", "b"] {
            if self.chance(20) {
                let effect = [Effect::NoSchedule, Effect::PreferNoSchedule, Effect::NoExecute][self.below(3)];
                taints.push(Taint { key: key.into(), value: self.pick(&["x", "y"]).into(), effect });
            }
        }
        taints
    }

    fn images(&mut self) -> Vec<NodeImage> {
        let mut images = Vec::new();
        for (name, mib) in [("img-a:1", 50), ("img-b:1", 400), ("img-c:1", 2000)] {
            if self.chance(40) {
                images.push(NodeImage { names: vec![name.into()], size_bytes: mib << 20 });
            }
        }
        images
    }

    fn tolerations(&mut self) -> Vec<Toleration> {
        let mut all = Vec::new();
        for key in ["a", "b", ""] {
            if self.chance(25) {
                let effects =
                    [None, Some(Effect::NoSchedule), Some(Effect::PreferNoSchedule), Some(Effect::NoExecute)];
                all.push(Toleration {
                    key: key.into(),
                    value: self.pick(&["x", "y"]).into(),
                    effect: effects[self.below(4)],
                    exists: Some(key.is_empty() || self.chance(40)),
                });
            }
        }
        all
    }

    fn node_term(&mut self) -> NodeSelectorTerm {
        let requirement = match self.below(4) {
            0 => Requirement { key: "size".into(), op: Op::Gt, values: vec!["1".into()] },
            1 => Requirement { key: KEYS[1].into(), op: Op::NotIn, values: vec!["z0".into()] },
            2 => Requirement { key: KEYS[2].into(), op: Op::Exists, values: vec![] },
            _ => Requirement { key: "size".into(), op: Op::In, values: vec!["2".into(), "3".into()] },
        };
        NodeSelectorTerm { labels: vec![requirement], fields: vec![] }
    }

    fn selector(&mut self) -> Selector {
        match self.below(8) {
            0 => Selector::All(vec![]),
            1 => Selector::Nothing,
            2 => Selector::All(vec![Requirement { key: "app".into(), op: Op::Exists, values: vec![] }]),
            _ => {
                let app = self.pick(&APPS);
                Selector::from_map([("app", app)])
            }
        }
    }

    fn term(&mut self, namespace: &Arc<str>) -> AffinityTerm {
        let namespace_selector = match self.below(6) {
            0 => Selector::All(vec![]),
            1 => Selector::from_map([("team", "one")]),
            _ => Selector::Nothing,
        };
        let namespaces =
            if self.chance(80) { vec![namespace.clone()] } else { vec![self.pick(&NAMESPACES).into()] };
        AffinityTerm {
            topology_key: self.pick(&KEYS).into(),
            namespaces,
            namespace_selector,
            selector: self.selector(),
        }
    }

    fn terms(&mut self, percent: usize, namespace: &Arc<str>) -> Vec<AffinityTerm> {
        let count = if self.chance(percent) { 1 + self.below(2) } else { 0 };
        (0..count).map(|_| self.term(namespace)).collect()
    }

    fn affinity(&mut self, namespace: &Arc<str>) -> PodAffinity {
        let mut preferred = Vec::new();
        while self.chance(15) {
            let weight = 1 + self.below(100) as i32;
            let weight = if self.chance(50) { weight } else { -weight };
            preferred.push(WeightedTerm { weight, term: self.term(namespace) });
        }
        PodAffinity {
            required: self.terms(10, namespace),
            required_anti: self.terms(12, namespace),
            preferred,
        }
    }

    fn spread(&mut self) -> Vec<SpreadConstraint> {
        let mut all: Vec<SpreadConstraint> = Vec::new();
        while self.chance(25) {
            let (key, hard) = (self.pick(&KEYS), self.chance(50));
            if !all.iter().any(|c| *c.topology_key == *key && c.hard == hard) {
                all.push(SpreadConstraint {
                    topology_key: key.into(),
                    max_skew: 1 + self.below(3) as i32,
                    min_domains: if hard && self.chance(20) { 3 } else { 1 },
                    hard,
                    selector: self.selector(),
                    honor_affinity: self.chance(70),
                    honor_taints: self.chance(40),
                });
            }
        }
        all
    }

    fn local(&mut self) -> LocalSpec {
        let mut requests = Resources::default();
        if self.chance(80) {
            requests.milli_cpu = 50 * (1 + self.below(12) as i64);
        }
        if self.chance(80) {
            requests.memory = (64 << 20) * (1 + self.below(8) as i64);
        }
        if self.chance(15) {
            requests.ephemeral = 2 << 30;
        }
        if self.chance(10) {
            requests.scalars.push(("example.com/gpu".into(), 1));
        }
        let cpu = if requests.milli_cpu == 0 { 100 } else { requests.milli_cpu };
        let memory = if requests.memory == 0 { 200 << 20 } else { requests.memory };
        let mut preferred_nodes = Vec::new();
        while self.chance(20) {
            preferred_nodes.push(PreferredNode { weight: 1 + self.below(50) as i32, term: self.node_term() });
        }
        let port =
            |n: usize| HostPort { ip: "0.0.0.0".into(), protocol: "TCP".into(), port: 8000 + n as i32 };
        LocalSpec {
            requests,
            score_milli_cpu: cpu,
            score_memory: memory,
            nonzero_milli_cpu: cpu,
            nonzero_memory: memory,
            tolerations: self.tolerations(),
            node_selector: if self.chance(10) { vec![("size".into(), "2".into())] } else { vec![] },
            required_nodes: self.chance(15).then(|| vec![self.node_term(), self.node_term()]),
            preferred_nodes,
            host_ports: if self.chance(10) { vec![port(self.below(2))] } else { vec![] },
            disks: Vec::new(),
            images: vec![self.pick(&["img-a:1", "img-b:1", "img-c:1", "img-d:1"]).into()],
            container_count: 1,
            features: Vec::new(),
        }
    }

    pub fn pod(&mut self, number: usize) -> PodInput {
        let namespace: Arc<str> = self.pick(&NAMESPACES).into();
        let labels: Labels = if self.chance(90) {
            [("app", self.pick(&APPS))].into_iter().collect()
        } else {
            Labels::default()
        };
        let affinity = self.affinity(&namespace);
        let spec = PodSpec {
            local: Arc::new(self.local()),
            spread: self.spread(),
            class: Arc::new(PodClass { namespace, labels, affinity }),
            scheduler_name: "default-scheduler".into(),
            priority: self.below(3) as i32,
            ..PodSpec::default()
        };
        PodInput {
            uid: format!("00000000-0000-0000-0000-{number:012x}").into(),
            name: format!("p{number}").into(),
            spec,
            start_ms: self.below(1000) as i64,
            terminating: false,
            version: 1,
            ..PodInput::default()
        }
    }
}
