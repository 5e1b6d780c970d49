//! Configurations: what is accepted and what it comes to, what is refused and with which words.

use super::*;
use crate::core::profile::{FitStrategy, Plugin};

const HEAD: &str = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n";

fn parse(body: &str) -> Result<Settings, ConfigError> {
    Settings::parse(&format!("{HEAD}{body}"))
}

fn refused(body: &str) -> String {
    parse(body).err().map_or_else(String::new, |e| e.to_string())
}

#[test]
fn an_empty_file_is_the_default_profile() {
    let settings = parse("").expect("an empty configuration");
    let [profile] = &*settings.profiles else { panic!("one profile") };
    assert_eq!(format!("{profile:?}"), format!("{:?}", Profile::default_for("default-scheduler")));
    let weights: Vec<(&str, i64)> = profile.score.iter().map(|(p, w)| (p.name(), *w)).collect();
    let expected = [
        ("TaintToleration", 3),
        ("NodeAffinity", 2),
        ("NodeResourcesFit", 1),
        ("VolumeBinding", 1),
        ("PodTopologySpread", 2),
        ("InterPodAffinity", 2),
        ("DynamicResources", 2),
        ("NodeResourcesBalancedAllocation", 1),
        ("ImageLocality", 1),
    ];
    assert_eq!(weights, expected);
}

#[test]
fn plugins_are_switched_off_on_and_weighed() {
    let settings = parse(
        "profiles:\n- schedulerName: a\n  plugins:\n    score:\n      disabled: [{name: '*'}]\n      enabled:\n      \
         - {name: NodeResourcesFit, weight: 7}\n- schedulerName: b\n  plugins:\n    multiPoint:\n      disabled: \
         [{name: ImageLocality}]\n      enabled: [{name: TaintToleration, weight: 9}]\n    filter:\n      \
         disabled: [{name: NodePorts}]\n",
    )
    .expect("two profiles");
    let [a, b] = &*settings.profiles else { panic!("two profiles") };
    assert_eq!(a.score, [(Plugin::NodeResourcesFit, 7)]);
    assert!(a.filters(Plugin::NodePorts));
    assert_eq!((b.weight(Plugin::TaintToleration), b.weight(Plugin::ImageLocality)), (9, 0));
    assert!(!b.filters(Plugin::NodePorts) && b.filters(Plugin::TaintToleration));
    assert_eq!(b.filter.iter().position(|p| *p == Plugin::TaintToleration), Some(2), "the order stays");
}

#[test]
fn plugins_enabled_at_their_point_come_first() {
    let settings = parse("profiles:\n- plugins:\n    filter:\n      enabled: [{name: PodTopologySpread}]\n");
    let settings = settings.expect("one profile");
    let filter = &settings.profiles[0].filter;
    assert_eq!(filter[0], Plugin::PodTopologySpread);
    assert_eq!(filter.iter().filter(|p| **p == Plugin::PodTopologySpread).count(), 1);
}

#[test]
fn arguments_are_read() {
    let settings = parse(
        "profiles:\n- pluginConfig:\n  - name: NodeResourcesFit\n    args:\n      ignoredResourceGroups: \
         [example.com]\n      scoringStrategy:\n        type: RequestedToCapacityRatio\n        resources: \
         [{name: cpu, weight: 3}]\n        requestedToCapacityRatio: {shape: [{utilization: 0, score: 0}, \
         {utilization: 100, score: 10}]}\n  - name: InterPodAffinity\n    args: {hardPodAffinityWeight: 5}\n  \
         - name: PodTopologySpread\n    args:\n      defaultingType: List\n      defaultConstraints: \
         [{maxSkew: 2, topologyKey: rack, whenUnsatisfiable: ScheduleAnyway}]\n",
    )
    .expect("arguments");
    let args = &settings.profiles[0].args;
    assert_eq!(args.fit_strategy, FitStrategy::RequestedToCapacityRatio(vec![(0, 0), (100, 100)]));
    assert_eq!((args.fit_resources.len(), args.fit_resources[0].weight), (1, 3));
    assert_eq!(args.hard_pod_affinity_weight, 5);
    assert!(!args.system_defaulted);
    assert_eq!(&*args.default_constraints[0].topology_key, "rack");
}

#[test]
fn an_explicit_percentage_samples_and_zero_does_not() {
    let percentage = |body| parse(body).expect(body).profiles[0].percentage_of_nodes_to_score;
    assert_eq!(percentage("percentageOfNodesToScore: 30\n"), Some(30));
    assert_eq!(percentage("percentageOfNodesToScore: 0\n"), None);
    assert_eq!(
        percentage("percentageOfNodesToScore: 30\nprofiles: [{percentageOfNodesToScore: 50}]\n"),
        Some(50)
    );
}

#[test]
fn what_does_not_hold_is_refused_with_its_path() {
    for (body, expected) in [
        ("parallelism: 0\n", "parallelism: Invalid value: 0: should be an integer value greater than zero"),
        (
            "podMaxBackoffSeconds: 0\n",
            "podMaxBackoffSeconds: Invalid value: 0: must be greater than or equal",
        ),
        (
            "percentageOfNodesToScore: 101\n",
            "percentageOfNodesToScore: Invalid value: 101: not in valid range [0-100]",
        ),
        (
            "profiles: [{schedulerName: a}, {schedulerName: a}]\n",
            "profiles[1].schedulerName: Duplicate value: \"a\"",
        ),
        ("profiles: [{schedulerName: a}, {}]\n", "profiles[1].schedulerName: Required value"),
        ("leaderElection: {resourceLock: endpoints}\n", "resourceLock value must be \"leases\""),
        (
            "extenders: [{prioritizeVerb: p}]\n",
            "extenders[0].weight: Invalid value: 0: must have a positive weight",
        ),
        ("extenders: [{bindVerb: a}, {bindVerb: b}]\n", "only one extender can implement bind"),
        ("profiles: [{plugins: {filter: {enabled: [{name: X}]}}}]\n", "plugin does not exist"),
        (
            "profiles: [{pluginConfig: [{name: InterPodAffinity, args: {hardPodAffinityWeight: 101}}]}]\n",
            "profiles[0].pluginConfig[0].args.hardPodAffinityWeight: Invalid value: 101: not in valid range [0, 100]",
        ),
        ("unknownField: 1\n", "unknown field `unknownField`"),
    ] {
        let said = refused(body);
        assert!(said.contains(expected), "{body:?} should say {expected:?}, says {said:?}");
    }
    let wrong = Settings::parse(
        "apiVersion: kubescheduler.config.k8s.io/v1beta3\nkind: KubeSchedulerConfiguration\n",
    );
    assert!(wrong.err().is_some_and(|e| e.to_string().contains("v1beta3")));
}
