//! Every built-in resource the API serves, from the embedded table (`tables/resources.tsv`), with the key prefix
//! it is stored under and its place in discovery.
//!
//! The table holds all versions, also those that upstream does not serve unless asked: see
//! [`Resource::served_by_default`].

use std::sync::OnceLock;

static TABLE: &str = include_str!("../tables/resources.tsv");

/// One resource of one group-version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Empty for core.
    pub group: &'static str,
    pub version: &'static str,
    /// Plural, lower case.
    pub resource: &'static str,
    pub kind: &'static str,
    pub singular: &'static str,
    pub namespaced: bool,
    pub short_names: Vec<&'static str>,
    pub categories: Vec<&'static str>,
    pub verbs: Vec<&'static str>,
    pub subresources: Vec<Subresource>,
}

/// A subresource and the kind its bodies have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subresource {
    pub name: &'static str,
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub verbs: Vec<&'static str>,
}

impl Resource {
    /// Whether upstream serves the version without being asked: generally available ones only.
    pub fn served_by_default(&self) -> bool {
        !self.version.contains("alpha") && !self.version.contains("beta")
    }

    pub fn has_verb(&self, verb: &str) -> bool {
        self.verbs.contains(&verb)
    }

    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// `v1`, or `group/version`.
    pub fn api_version(&self) -> String {
        api_version(self.group, self.version)
    }

    /// The store's prefix of this resource's keys, without a slash at the end: `/registry/pods`.
    pub fn key_prefix(&self) -> String {
        key_prefix(self.group, self.resource)
    }
}

/// `v1` for the core group, otherwise `group/version`.
pub fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// Splits `v1` or `group/version`; the group is empty for core.
pub fn split_api_version(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

/// The prefix of the keys of a built-in resource as upstream lays them out: the resource's name alone, but for
/// the few that kept an older name and the two API servers that delegate (definitions and aggregation).
pub fn key_prefix(group: &str, resource: &str) -> String {
    let path = match (group, resource) {
        ("", "replicationcontrollers") => "controllers",
        ("", "endpoints") => "services/endpoints",
        ("", "nodes") => "minions",
        ("", "services") => "services/specs",
        ("networking.k8s.io", "ingresses") => "ingress",
        ("apiextensions.k8s.io" | "apiregistration.k8s.io", _) => return custom_key_prefix(group, resource),
        (_, other) => other,
    };
    format!("/registry/{path}")
}

/// The prefix of the keys of a custom resource: `/registry/<group>/<resource>`.
pub fn custom_key_prefix(group: &str, resource: &str) -> String {
    format!("/registry/{group}/{resource}")
}

/// The key of one object; `namespace` is empty for cluster-scoped resources.
pub fn object_key(prefix: &str, namespace: &str, name: &str) -> String {
    if namespace.is_empty() { format!("{prefix}/{name}") } else { format!("{prefix}/{namespace}/{name}") }
}

/// Every resource, grouped by group and version in discovery's order, resources by name.
pub fn resources() -> &'static [Resource] {
    static LOADED: OnceLock<Vec<Resource>> = OnceLock::new();
    LOADED.get_or_init(|| {
        let mut all: Vec<Resource> = TABLE.lines().filter_map(parse).collect();
        all.sort_by(|a, b| order(a).cmp(&order(b)));
        all
    })
}

fn order(r: &Resource) -> (std::cmp::Reverse<u32>, &'static str, std::cmp::Reverse<u32>, &'static str) {
    let (group, version) = priority(r.group, r.version);
    (std::cmp::Reverse(group), r.group, std::cmp::Reverse(version), r.resource)
}

/// The resource of that group, version and plural name.
pub fn find(group: &str, version: &str, resource: &str) -> Option<&'static Resource> {
    resources().iter().find(|r| r.group == group && r.version == version && r.resource == resource)
}

/// The resource of a kind.
pub fn find_kind(group: &str, version: &str, kind: &str) -> Option<&'static Resource> {
    resources().iter().find(|r| r.group == group && r.version == version && r.kind == kind)
}

fn parse(line: &'static str) -> Option<Resource> {
    let mut columns = line.split('\t');
    let mut next = || columns.next().unwrap_or_default();
    let (group, version, resource, kind, singular, scope) = (next(), next(), next(), next(), next(), next());
    let (short, categories, verbs, subresources) = (next(), next(), next(), next());
    if resource.is_empty() {
        return None;
    }
    let subresources = subresources.split(';').filter_map(|s| subresource(s, group, version)).collect();
    Some(Resource {
        group,
        version,
        resource,
        kind,
        singular,
        namespaced: scope == "N",
        short_names: words(short),
        categories: words(categories),
        verbs: words(verbs),
        subresources,
    })
}

fn subresource(text: &'static str, group: &'static str, version: &'static str) -> Option<Subresource> {
    let mut parts = text.split(':');
    let name = parts.next().filter(|n| !n.is_empty())?;
    let qualified = parts.next()?;
    let verbs = words(parts.next()?);
    let (group, version, kind) = match qualified.rsplit_once('/') {
        Some((api_version, kind)) => {
            let (group, version) = split_api_version(api_version);
            (group, version, kind)
        }
        None => (group, version, qualified),
    };
    Some(Subresource { name, group, version, kind, verbs })
}

fn words(text: &'static str) -> Vec<&'static str> {
    text.split(',').filter(|w| !w.is_empty()).collect()
}

/// Discovery's priority of a group and of a version inside it; larger comes first (upstream's registration of
/// the built-in groups as APIServices). Custom groups have 1000 and 100.
pub fn priority(group: &str, version: &str) -> (u32, u32) {
    match PRIORITIES.iter().find(|p| p.0 == group) {
        Some((_, group, versions)) => {
            let version = versions.iter().find(|v| v.0 == version).map_or(1, |v| v.1);
            (*group, version)
        }
        None => (1000, 100),
    }
}

/// Group, its priority, and its versions with theirs.
type GroupPriority = (&'static str, u32, &'static [(&'static str, u32)]);

#[rustfmt::skip]
const PRIORITIES: &[GroupPriority] = &[
    // The aggregator lists its own group before those it serves for others.
    ("apiregistration.k8s.io", 20000, &[("v1", 18)]),
    ("", 18000, &[("v1", 1)]),
    ("apps", 17800, &[("v1", 15)]),
    ("events.k8s.io", 17750, &[("v1", 15), ("v1beta1", 5)]),
    ("authentication.k8s.io", 17700, &[("v1", 15), ("v1beta1", 9), ("v1alpha1", 1)]),
    ("authorization.k8s.io", 17600, &[("v1", 15)]),
    ("autoscaling", 17500, &[("v2", 30), ("v1", 15)]),
    ("batch", 17400, &[("v1", 15), ("v1beta1", 9)]),
    ("certificates.k8s.io", 17300, &[("v1", 15), ("v1beta1", 9), ("v1alpha1", 1)]),
    ("networking.k8s.io", 17200, &[("v1", 15), ("v1beta1", 9)]),
    ("policy", 17100, &[("v1", 15), ("v1beta1", 9)]),
    ("rbac.authorization.k8s.io", 17000, &[("v1", 15)]),
    ("storage.k8s.io", 16800, &[("v1", 15), ("v1beta1", 9), ("v1alpha1", 1)]),
    ("admissionregistration.k8s.io", 16700, &[("v1", 15), ("v1beta1", 12), ("v1alpha1", 9)]),
    ("apiextensions.k8s.io", 16700, &[("v1", 15)]),
    ("scheduling.k8s.io", 16600, &[("v1", 15), ("v1alpha2", 2)]),
    ("coordination.k8s.io", 16500, &[("v1", 15), ("v1beta1", 13), ("v1alpha2", 12)]),
    ("node.k8s.io", 16300, &[("v1", 15), ("v1beta1", 9), ("v1alpha1", 1)]),
    ("discovery.k8s.io", 16200, &[("v1", 15), ("v1beta1", 12)]),
    ("resource.k8s.io", 16200, &[("v1", 21), ("v1beta2", 15), ("v1beta1", 9), ("v1alpha3", 1)]),
    ("flowcontrol.apiserver.k8s.io", 16100, &[("v1", 21)]),
    ("internal.apiserver.k8s.io", 16000, &[("v1alpha1", 9)]),
    ("storagemigration.k8s.io", 15800, &[("v1beta1", 9)]),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_complete() {
        assert_eq!(resources().len(), TABLE.lines().count());
        for r in resources() {
            assert!(
                PRIORITIES.iter().any(|p| p.0 == r.group && p.2.iter().any(|v| v.0 == r.version)),
                "{r:?}"
            );
            assert!(crate::schema::for_kind(r.group, r.version, r.kind).is_some(), "{r:?}");
            for s in &r.subresources {
                let known = crate::schema::for_kind(s.group, s.version, s.kind).is_some();
                assert!(known || s.kind.ends_with("Options"), "{s:?}");
            }
        }
    }

    #[test]
    fn pods_and_deployments() {
        let pods = find("", "v1", "pods").unwrap();
        assert_eq!((pods.kind, pods.namespaced, pods.short_names.as_slice()), ("Pod", true, &["po"][..]));
        let eviction = pods.subresource("eviction").unwrap();
        assert_eq!((eviction.group, eviction.version, eviction.kind), ("policy", "v1", "Eviction"));
        assert_eq!(
            find_kind("apps", "v1", "Deployment").unwrap().subresource("scale").unwrap().group,
            "autoscaling"
        );
    }

    #[test]
    fn prefixes() {
        for (group, resource, prefix) in [
            ("", "nodes", "/registry/minions"),
            ("", "services", "/registry/services/specs"),
            ("", "endpoints", "/registry/services/endpoints"),
            ("networking.k8s.io", "ingresses", "/registry/ingress"),
            ("coordination.k8s.io", "leases", "/registry/leases"),
            ("apps", "deployments", "/registry/deployments"),
            ("events.k8s.io", "events", "/registry/events"),
            (
                "apiextensions.k8s.io",
                "customresourcedefinitions",
                "/registry/apiextensions.k8s.io/customresourcedefinitions",
            ),
        ] {
            assert_eq!(key_prefix(group, resource), prefix);
        }
    }
}
