//! From a profile as written to a profile as run: default plugins merged with switches, arguments resolved.
//!
//! Owns the merge rules of `plugins` (defaults, MultiPoint, `*`, explicit points) and the validation of arguments.

use std::sync::Arc;

use serde::de::DeserializeOwned;

use crate::core::profile::{
    DEFAULT_ORDER, FitStrategy, Plugin, PluginArgs, Point, Profile as CoreProfile, WeightedResource,
};
use crate::shell::convert;
use crate::shell::wire;

use super::types::{self, PluginEntry, PluginSet, Plugins, Profile, ResourceSpec, ShapePoint};
use super::validate::{Errors, Field};

/// A custom score goes to ten, ours to a hundred.
const SCORE_SCALE: i64 = 10;

/// A plugin with the weight it is enabled with.
type Enabled = (Plugin, Option<i32>);

/// The profile that runs; errors are collected under `path`.
pub fn resolve(
    profile: &Profile,
    global_percentage: Option<i32>,
    path: &Field,
    errors: &mut Errors,
) -> CoreProfile {
    let plugins = profile.plugins.clone().unwrap_or_default();
    let multi_point =
        merge(&default_multi_point(), &plugins.multi_point, &path.child("plugins.multiPoint"), errors);
    let at = |point, set: &PluginSet, name: &str, errors: &mut Errors| {
        expand(point, set, &multi_point, &path.child(&format!("plugins.{name}")), errors)
    };
    let names = |all: Vec<Enabled>| all.into_iter().map(|(p, _)| p).collect::<Vec<_>>();
    let weight = |(plugin, weight): Enabled| (plugin, i64::from(weight.filter(|w| *w != 0).unwrap_or(1)));
    let score = at(Point::Score, &plugins.score, "score", errors).into_iter().map(weight).collect();
    let queue_sort = at(Point::QueueSort, &plugins.queue_sort, "queueSort", errors);
    if queue_sort.len() != 1 {
        let why = "only one queue sort plugin can be enabled";
        errors.invalid(&path.child("plugins.queueSort.Enabled"), queue_sort.len(), why);
    }
    CoreProfile {
        scheduler_name: profile.scheduler_name.as_deref().unwrap_or_default().into(),
        pre_enqueue: names(at(Point::PreEnqueue, &plugins.pre_enqueue, "preEnqueue", errors)),
        pre_filter: names(at(Point::PreFilter, &plugins.pre_filter, "preFilter", errors)),
        filter: names(at(Point::Filter, &plugins.filter, "filter", errors)),
        post_filter: names(at(Point::PostFilter, &plugins.post_filter, "postFilter", errors)),
        pre_score: names(at(Point::PreScore, &plugins.pre_score, "preScore", errors)),
        score,
        args: arguments(profile, path, errors),
        percentage_of_nodes_to_score: profile
            .percentage_of_nodes_to_score
            .or(global_percentage)
            .filter(|p| *p != 0),
    }
}

fn default_multi_point() -> Vec<Enabled> {
    DEFAULT_ORDER.iter().map(|(p, w)| (*p, (*w != 0).then_some(*w as i32))).collect()
}

fn known(entry: &PluginEntry, path: &Field, errors: &mut Errors) -> Option<Enabled> {
    let plugin = Plugin::from_name(&entry.name);
    if plugin.is_none() {
        errors.invalid(path, &entry.name, "plugin does not exist");
    }
    Some((plugin?, entry.weight))
}

fn is_disabled(plugin: Plugin, set: &PluginSet) -> bool {
    set.disabled.iter().any(|d| d.name == "*" || d.name == plugin.name())
}

/// Defaults without the disabled ones, with those that are configured anew replaced in place, then the others.
fn merge(defaults: &[Enabled], custom: &PluginSet, path: &Field, errors: &mut Errors) -> Vec<Enabled> {
    let custom_enabled: Vec<Enabled> = custom.enabled.iter().filter_map(|e| known(e, path, errors)).collect();
    let kept = defaults.iter().filter(|(p, _)| !is_disabled(*p, custom));
    let mut all: Vec<Enabled> = Vec::new();
    let mut replaced: Vec<Plugin> = Vec::new();
    for default in kept {
        let anew = custom_enabled.iter().rev().find(|(p, _)| *p == default.0);
        all.push(*anew.unwrap_or(default));
        replaced.extend(anew.map(|(p, _)| *p));
    }
    all.extend(custom_enabled.into_iter().filter(|(p, _)| !replaced.contains(p)));
    all
}

/// The plugins of one point: MultiPoint's that stand there, unless disabled or configured for the point itself.
fn expand(
    point: Point,
    set: &PluginSet,
    multi_point: &[Enabled],
    path: &Field,
    errors: &mut Errors,
) -> Vec<Enabled> {
    let explicit: Vec<Enabled> = set.enabled.iter().filter_map(|e| known(e, path, errors)).collect();
    for (plugin, _) in &explicit {
        if !plugin.implements(point) {
            errors.invalid(path, plugin.name(), "plugin does not take part at this extension point");
        }
    }
    let from_multi_point: Vec<Enabled> =
        multi_point.iter().copied().filter(|(p, _)| p.implements(point) && !is_disabled(*p, set)).collect();
    let overrides = |p: Plugin| from_multi_point.iter().any(|(q, _)| *q == p);
    let mut all: Vec<Enabled> = explicit.iter().copied().filter(|(p, _)| overrides(*p)).collect();
    all.extend(from_multi_point.iter().filter(|(p, _)| !explicit.iter().any(|(q, _)| q == p)));
    all.extend(explicit.iter().filter(|(p, _)| !overrides(*p)));
    all
}

fn arguments(profile: &Profile, path: &Field, errors: &mut Errors) -> PluginArgs {
    let mut args = PluginArgs::default();
    let mut seen: Vec<&str> = Vec::new();
    for (i, config) in profile.plugin_config.iter().enumerate() {
        let at = path.child(&format!("pluginConfig[{i}]"));
        if seen.contains(&config.name.as_str()) {
            errors.duplicate(&at, &config.name);
            continue;
        }
        seen.push(&config.name);
        one_argument(config, &mut args, &at.child("args"), errors);
    }
    args
}

fn read<T: DeserializeOwned + Default>(
    config: &types::PluginConfig,
    path: &Field,
    errors: &mut Errors,
) -> Option<T> {
    if config.args.is_null() {
        return Some(T::default());
    }
    match serde_json::from_value(config.args.clone()) {
        Ok(args) => Some(args),
        Err(error) => {
            errors.invalid(path, &config.name, &format!("has to match plugin args: {error}"));
            None
        }
    }
}

fn one_argument(config: &types::PluginConfig, args: &mut PluginArgs, path: &Field, errors: &mut Errors) {
    match &*config.name {
        "DefaultPreemption" => {
            if let Some(given) = read::<types::DefaultPreemptionArgs>(config, path, errors) {
                preemption(&given, args, path, errors);
            }
        }
        "InterPodAffinity" => {
            if let Some(given) = read::<types::InterPodAffinityArgs>(config, path, errors) {
                let weight = given.hard_pod_affinity_weight.unwrap_or(1);
                errors.range(&path.child("hardPodAffinityWeight"), weight, 0, 100);
                args.hard_pod_affinity_weight = weight;
                args.ignore_preferred_terms_of_existing_pods = given.ignore_preferred_terms_of_existing_pods;
            }
        }
        "NodeAffinity" => {
            if let Some(affinity) =
                read::<types::NodeAffinityArgs>(config, path, errors).and_then(|a| a.added_affinity)
            {
                args.added_required_nodes = affinity.required.as_ref().map(convert::node_selector);
                args.added_preferred_nodes = affinity.preferred.iter().map(convert::preferred_node).collect();
            }
        }
        "NodeResourcesFit" => {
            if let Some(given) = read::<types::NodeResourcesFitArgs>(config, path, errors) {
                fit(&given, args, path, errors);
            }
        }
        "NodeResourcesBalancedAllocation" => {
            if let Some(given) = read::<types::NodeResourcesBalancedAllocationArgs>(config, path, errors)
                && !given.resources.is_empty()
            {
                balanced(&given.resources, args, path, errors);
            }
        }
        "PodTopologySpread" => {
            if let Some(given) = read::<types::PodTopologySpreadArgs>(config, path, errors) {
                spread(&given, args, path, errors);
            }
        }
        "VolumeBinding" => {
            if let Some(given) = read::<types::VolumeBindingArgs>(config, path, errors) {
                volume_binding(&given, args, path, errors);
            }
        }
        "DynamicResources" => drop(read::<types::DynamicResourcesArgs>(config, path, errors)),
        name if Plugin::from_name(name).is_none() => errors.invalid(path, name, "plugin does not exist"),
        _ => {}
    }
}

fn preemption(
    given: &types::DefaultPreemptionArgs,
    args: &mut PluginArgs,
    path: &Field,
    errors: &mut Errors,
) {
    let percentage = given.min_candidate_nodes_percentage.unwrap_or(10);
    let absolute = given.min_candidate_nodes_absolute.unwrap_or(100);
    errors.range(&path.child("minCandidateNodesPercentage"), percentage, 0, 100);
    if absolute < 0 {
        errors.invalid(&path.child("minCandidateNodesAbsolute"), absolute, "not in valid range [0, inf)");
    }
    if percentage == 0 && absolute == 0 {
        let why = "cannot be zero at the same time as minCandidateNodesAbsolute";
        errors.invalid(&path.child("minCandidateNodesPercentage"), percentage, why);
    }
    args.min_candidate_nodes_percentage = percentage;
    args.min_candidate_nodes_absolute = absolute;
}

fn weighted(resources: &[ResourceSpec]) -> Vec<WeightedResource> {
    let weight = |r: &ResourceSpec| if r.weight == 0 { 1 } else { r.weight };
    resources.iter().map(|r| WeightedResource { name: r.name.as_str().into(), weight: weight(r) }).collect()
}

fn fit(given: &types::NodeResourcesFitArgs, args: &mut PluginArgs, path: &Field, errors: &mut Errors) {
    let texts = |list: &[String]| list.iter().map(|s| Arc::from(s.as_str())).collect();
    args.ignored_resources = texts(&given.ignored_resources);
    args.ignored_resource_groups = texts(&given.ignored_resource_groups);
    for (i, group) in given.ignored_resource_groups.iter().enumerate().filter(|(_, g)| g.contains('/')) {
        let at = path.child(&format!("ignoredResourceGroups[{i}]"));
        errors.invalid(&at, group, "resource group name can't contain '/'");
    }
    let Some(strategy) = &given.scoring_strategy else { return };
    let at = path.child("scoringStrategy");
    if !strategy.resources.is_empty() {
        args.fit_resources = weighted(&strategy.resources);
    }
    for (i, resource) in args.fit_resources.iter().enumerate() {
        if !(1..=100).contains(&resource.weight) {
            let why = format!("resource weight of {} not in valid range (0, 100]", resource.name);
            errors.invalid(&at.child(&format!("resources[{i}].weight")), resource.weight, &why);
        }
    }
    let ratio = strategy.requested_to_capacity_ratio.as_ref();
    args.fit_strategy = match (&*strategy.kind, ratio) {
        ("RequestedToCapacityRatio", Some(ratio)) => {
            let at = at.child("requestedToCapacityRatio.shape");
            FitStrategy::RequestedToCapacityRatio(shape(&ratio.shape, &at, errors))
        }
        ("RequestedToCapacityRatio", None) => {
            let why = "must be specified when type is RequestedToCapacityRatio";
            errors.required(&at.child("requestedToCapacityRatio"), why);
            FitStrategy::LeastAllocated
        }
        (kind, ratio) => {
            if ratio.is_some() {
                let why = "must be nil when type is not RequestedToCapacityRatio";
                errors.forbidden(&at.child("requestedToCapacityRatio"), why);
            }
            match kind {
                "LeastAllocated" => FitStrategy::LeastAllocated,
                "MostAllocated" => FitStrategy::MostAllocated,
                _ => {
                    let kinds = ["LeastAllocated", "MostAllocated", "RequestedToCapacityRatio"];
                    errors.unsupported(&at.child("type"), kind, &kinds);
                    FitStrategy::LeastAllocated
                }
            }
        }
    };
}

fn shape(points: &[ShapePoint], path: &Field, errors: &mut Errors) -> Vec<(i64, i64)> {
    if points.is_empty() {
        errors.required(path, "at least one point must be specified");
    }
    for (i, pair) in points.windows(2).enumerate() {
        if pair[0].utilization >= pair[1].utilization {
            let at = path.child(&format!("[{}].utilization", i + 1));
            errors.invalid(&at, pair[1].utilization, "values must be sorted in increasing order");
            break;
        }
    }
    for (i, point) in points.iter().enumerate() {
        errors.range(&path.child(&format!("[{i}].utilization")), point.utilization, 0, 100);
        errors.range(&path.child(&format!("[{i}].score")), point.score, 0, 10);
    }
    points.iter().map(|p| (i64::from(p.utilization), i64::from(p.score) * SCORE_SCALE)).collect()
}

fn balanced(resources: &[ResourceSpec], args: &mut PluginArgs, path: &Field, errors: &mut Errors) {
    args.balanced_resources = weighted(resources);
    for (i, resource) in args.balanced_resources.iter().enumerate() {
        let at = path.child(&format!("resources[{i}]"));
        if args.balanced_resources[..i].iter().any(|r| r.name == resource.name) {
            errors.duplicate(&at.child("name"), &resource.name);
        }
        if resource.weight != 1 {
            errors.invalid(&at.child("weight"), resource.weight, "must be 1");
        }
    }
}

fn spread(given: &types::PodTopologySpreadArgs, args: &mut PluginArgs, path: &Field, errors: &mut Errors) {
    let at = path.child("defaultingType");
    match &*given.defaulting_type {
        "" | "System" => {
            if !given.default_constraints.is_empty() {
                errors.invalid(&at, "System", "when .defaultConstraints are not empty");
            }
            return;
        }
        "List" => {}
        other => return errors.unsupported(&at, other, &["System", "List"]),
    }
    for (i, constraint) in given.default_constraints.iter().enumerate() {
        check_constraint(
            constraint,
            &given.default_constraints[..i],
            &path.child(&format!("defaultConstraints[{i}]")),
            errors,
        );
    }
    let none = crate::core::labels::Labels::default();
    args.system_defaulted = false;
    args.default_constraints =
        given.default_constraints.iter().map(|c| convert::spread_constraint(c, &none)).collect();
}

fn check_constraint(
    constraint: &wire::SpreadConstraint,
    before: &[wire::SpreadConstraint],
    path: &Field,
    errors: &mut Errors,
) {
    if constraint.max_skew <= 0 {
        errors.invalid(&path.child("maxSkew"), constraint.max_skew, "not in valid range (0, inf)");
    }
    if constraint.topology_key.is_empty() {
        errors.required(&path.child("topologyKey"), "can not be empty");
    }
    match &*constraint.when_unsatisfiable {
        "DoNotSchedule" | "ScheduleAnyway" => {}
        "" => errors.required(&path.child("whenUnsatisfiable"), "can not be empty"),
        other => {
            errors.unsupported(&path.child("whenUnsatisfiable"), other, &["DoNotSchedule", "ScheduleAnyway"]);
        }
    }
    if constraint.label_selector.is_some() {
        let why = "constraint must not define a selector, as they deduced for each pod";
        errors.forbidden(&path.child("labelSelector"), why);
    }
    let same = |c: &&wire::SpreadConstraint| {
        c.topology_key == constraint.topology_key && c.when_unsatisfiable == constraint.when_unsatisfiable
    };
    if before.iter().any(|c| same(&c)) {
        let pair = format!("{{{}, {}}}", constraint.topology_key, constraint.when_unsatisfiable);
        errors.duplicate(path, &pair);
    }
}

fn volume_binding(
    given: &types::VolumeBindingArgs,
    args: &mut PluginArgs,
    path: &Field,
    errors: &mut Errors,
) {
    let timeout = given.bind_timeout_seconds.unwrap_or(600);
    if timeout < 0 {
        let why = "invalid BindTimeoutSeconds, should not be a negative value";
        errors.invalid(&path.child("bindTimeoutSeconds"), timeout, why);
    }
    if given.shape.is_some() {
        let why = "unexpected field `shape`, remove it or turn on the feature gate StorageCapacityScoring";
        errors.invalid(&path.child("shape"), "shape", why);
    }
    args.volume_bind_timeout_secs = timeout;
}

/// Names of all points of a plugin table, for the rule that queue sorting is common to all profiles.
pub fn queue_sort(plugins: Option<&Plugins>) -> PluginSet {
    plugins.map(|p| p.queue_sort.clone()).unwrap_or_default()
}
