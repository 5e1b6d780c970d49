//! A scheduling profile as the core uses it: which plugins run at which point, with which weights and arguments.
//!
//! Owns plugin names, their default order and weights. It does not read configuration files; `config` does.

use std::sync::Arc;

use super::labels::NodeSelector;
use super::spec::{PreferredNode, SpreadConstraint};

/// Plugins, numbered so that a set of them is a bit mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Plugin {
    SchedulingGates,
    PrioritySort,
    NodeUnschedulable,
    NodeName,
    TaintToleration,
    NodeAffinity,
    NodePorts,
    NodeResourcesFit,
    VolumeRestrictions,
    NodeVolumeLimits,
    VolumeBinding,
    VolumeZone,
    PodTopologySpread,
    InterPodAffinity,
    DynamicResources,
    DefaultPreemption,
    NodeResourcesBalancedAllocation,
    ImageLocality,
    DefaultBinder,
    NodeDeclaredFeatures,
    /// Not a plugin: stands for HTTP extenders among the rejectors of a pod.
    Extender,
}

use Plugin::*;

/// Every plugin that a configuration can name, in the default order of MultiPoint.
pub const DEFAULT_ORDER: [(Plugin, i64); 20] = [
    (SchedulingGates, 0),
    (PrioritySort, 0),
    (NodeUnschedulable, 0),
    (NodeName, 0),
    (TaintToleration, 3),
    (NodeAffinity, 2),
    (NodePorts, 0),
    (NodeResourcesFit, 1),
    (VolumeRestrictions, 0),
    (NodeVolumeLimits, 0),
    (VolumeBinding, 0),
    (VolumeZone, 0),
    (PodTopologySpread, 2),
    (InterPodAffinity, 2),
    (DynamicResources, 2),
    (DefaultPreemption, 0),
    (NodeResourcesBalancedAllocation, 1),
    (ImageLocality, 1),
    (DefaultBinder, 0),
    (NodeDeclaredFeatures, 0),
];

/// The extension points at which a plugin of the core can stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    PreEnqueue,
    QueueSort,
    PreFilter,
    Filter,
    PostFilter,
    PreScore,
    Score,
    Reserve,
    Permit,
    PreBind,
    Bind,
    PostBind,
}

impl Plugin {
    /// The plugin's name in configurations, metrics and messages.
    pub fn name(self) -> &'static str {
        match self {
            SchedulingGates => "SchedulingGates",
            PrioritySort => "PrioritySort",
            NodeUnschedulable => "NodeUnschedulable",
            NodeName => "NodeName",
            TaintToleration => "TaintToleration",
            NodeAffinity => "NodeAffinity",
            NodePorts => "NodePorts",
            NodeResourcesFit => "NodeResourcesFit",
            VolumeRestrictions => "VolumeRestrictions",
            NodeVolumeLimits => "NodeVolumeLimits",
            VolumeBinding => "VolumeBinding",
            VolumeZone => "VolumeZone",
            PodTopologySpread => "PodTopologySpread",
            InterPodAffinity => "InterPodAffinity",
            DynamicResources => "DynamicResources",
            DefaultPreemption => "DefaultPreemption",
            NodeResourcesBalancedAllocation => "NodeResourcesBalancedAllocation",
            ImageLocality => "ImageLocality",
            DefaultBinder => "DefaultBinder",
            NodeDeclaredFeatures => "NodeDeclaredFeatures",
            Extender => "Extender",
        }
    }

    /// The plugin of a name.
    pub fn from_name(name: &str) -> Option<Plugin> {
        DEFAULT_ORDER.iter().map(|(p, _)| *p).find(|p| p.name() == name)
    }

    /// Whether the plugin takes part at an extension point.
    pub fn implements(self, point: Point) -> bool {
        let points: &[Point] = match self {
            SchedulingGates => &[Point::PreEnqueue],
            PrioritySort => &[Point::QueueSort],
            NodeUnschedulable | NodeName => &[Point::Filter],
            TaintToleration => &[Point::Filter, Point::PreScore, Point::Score],
            NodeAffinity | NodeResourcesFit | PodTopologySpread | InterPodAffinity => {
                &[Point::PreFilter, Point::Filter, Point::PreScore, Point::Score]
            }
            NodePorts | VolumeRestrictions | NodeVolumeLimits | VolumeZone | NodeDeclaredFeatures => {
                &[Point::PreFilter, Point::Filter]
            }
            VolumeBinding => &[
                Point::PreFilter,
                Point::Filter,
                Point::Reserve,
                Point::PreBind,
                Point::PreScore,
                Point::Score,
            ],
            DynamicResources => &[
                Point::PreEnqueue,
                Point::PreFilter,
                Point::Filter,
                Point::PostFilter,
                Point::PreScore,
                Point::Score,
                Point::Reserve,
                Point::PreBind,
            ],
            DefaultPreemption => &[Point::PreEnqueue, Point::PostFilter],
            NodeResourcesBalancedAllocation => &[Point::PreScore, Point::Score],
            ImageLocality => &[Point::Score],
            DefaultBinder => &[Point::Bind],
            Extender => &[],
        };
        points.contains(&point)
    }
}

/// A set of plugins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PluginSet(pub u32);

impl PluginSet {
    /// Adds a plugin.
    pub fn insert(&mut self, plugin: Plugin) {
        self.0 |= 1 << plugin as u8;
    }

    /// Whether the plugin is in the set.
    pub fn has(self, plugin: Plugin) -> bool {
        self.0 & (1 << plugin as u8) != 0
    }

    /// Whether the set is empty.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The plugins in numeric order.
    pub fn iter(self) -> impl Iterator<Item = Plugin> {
        let all = DEFAULT_ORDER.iter().map(|(p, _)| *p).chain([Extender]);
        all.filter(move |p| self.has(*p))
    }
}

impl FromIterator<Plugin> for PluginSet {
    fn from_iter<T: IntoIterator<Item = Plugin>>(plugins: T) -> Self {
        let mut set = PluginSet::default();
        plugins.into_iter().for_each(|p| set.insert(p));
        set
    }
}

/// How NodeResourcesFit scores.
#[derive(Clone, Debug, PartialEq)]
pub enum FitStrategy {
    LeastAllocated,
    MostAllocated,
    /// Points of utilization (0..=100) and score (already scaled to 0..=100).
    RequestedToCapacityRatio(Vec<(i64, i64)>),
}

/// A resource with the weight it has in a score.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightedResource {
    pub name: Arc<str>,
    pub weight: i64,
}

/// The arguments of all plugins of a profile.
#[derive(Clone, Debug)]
pub struct PluginArgs {
    pub ignored_resources: Vec<Arc<str>>,
    pub ignored_resource_groups: Vec<Arc<str>>,
    pub fit_strategy: FitStrategy,
    pub fit_resources: Vec<WeightedResource>,
    pub balanced_resources: Vec<WeightedResource>,
    pub hard_pod_affinity_weight: i32,
    pub ignore_preferred_terms_of_existing_pods: bool,
    pub default_constraints: Vec<SpreadConstraint>,
    /// The default constraints are the built-in ones: nodes may lack their labels.
    pub system_defaulted: bool,
    pub added_required_nodes: Option<NodeSelector>,
    pub added_preferred_nodes: Vec<PreferredNode>,
    pub min_candidate_nodes_percentage: i32,
    pub min_candidate_nodes_absolute: i32,
    pub volume_bind_timeout_secs: i64,
}

impl Default for PluginArgs {
    fn default() -> Self {
        let cpu_and_memory =
            || ["cpu", "memory"].iter().map(|n| WeightedResource { name: (*n).into(), weight: 1 }).collect();
        PluginArgs {
            ignored_resources: Vec::new(),
            ignored_resource_groups: Vec::new(),
            fit_strategy: FitStrategy::LeastAllocated,
            fit_resources: cpu_and_memory(),
            balanced_resources: cpu_and_memory(),
            hard_pod_affinity_weight: 1,
            ignore_preferred_terms_of_existing_pods: false,
            default_constraints: system_default_constraints(),
            system_defaulted: true,
            added_required_nodes: None,
            added_preferred_nodes: Vec::new(),
            min_candidate_nodes_percentage: 10,
            min_candidate_nodes_absolute: 100,
            volume_bind_timeout_secs: 600,
        }
    }
}

/// The label whose domains are single nodes.
pub const HOSTNAME_LABEL: &str = "kubernetes.io/hostname";
/// The label of zones.
pub const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// The constraints of `defaultingType: System`.
pub fn system_default_constraints() -> Vec<SpreadConstraint> {
    let soft = |key: &str, max_skew| SpreadConstraint {
        topology_key: key.into(),
        max_skew,
        min_domains: 1,
        hard: false,
        selector: Default::default(),
        honor_affinity: true,
        honor_taints: false,
    };
    vec![soft(HOSTNAME_LABEL, 3), soft(ZONE_LABEL, 5)]
}

/// A profile: the scheduler name it answers to and what it runs.
#[derive(Clone, Debug)]
pub struct Profile {
    pub scheduler_name: Arc<str>,
    /// Enabled plugins by extension point, in the order in which they run.
    pub pre_enqueue: Vec<Plugin>,
    pub pre_filter: Vec<Plugin>,
    pub filter: Vec<Plugin>,
    pub post_filter: Vec<Plugin>,
    pub pre_score: Vec<Plugin>,
    pub score: Vec<(Plugin, i64)>,
    pub args: PluginArgs,
    /// Sample this share of the nodes; `None` examines all of them.
    pub percentage_of_nodes_to_score: Option<i32>,
}

impl Profile {
    /// The profile without any configuration.
    pub fn default_for(scheduler_name: &str) -> Self {
        let at =
            |point| DEFAULT_ORDER.iter().map(|(p, _)| *p).filter(|p| p.implements(point)).collect::<Vec<_>>();
        let weight = |p: Plugin| DEFAULT_ORDER.iter().find(|(q, _)| *q == p).map_or(0, |(_, w)| (*w).max(1));
        Profile {
            scheduler_name: scheduler_name.into(),
            pre_enqueue: at(Point::PreEnqueue),
            pre_filter: at(Point::PreFilter),
            filter: at(Point::Filter),
            post_filter: at(Point::PostFilter),
            pre_score: at(Point::PreScore),
            score: at(Point::Score).into_iter().map(|p| (p, weight(p))).collect(),
            args: PluginArgs::default(),
            percentage_of_nodes_to_score: None,
        }
    }

    /// The weight of a score plugin, zero when it does not run.
    pub fn weight(&self, plugin: Plugin) -> i64 {
        self.score.iter().find(|(p, _)| *p == plugin).map_or(0, |(_, w)| *w)
    }

    /// Whether the plugin filters.
    pub fn filters(&self, plugin: Plugin) -> bool {
        self.filter.contains(&plugin)
    }
}
