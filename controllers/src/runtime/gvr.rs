//! Names of resources and the paths at which the API serves them.

use std::borrow::Cow;
use std::fmt;

use super::store::Object;

/// Group, version, plural and kind of a resource.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Gvr {
    /// Empty for the core group.
    pub group: Cow<'static, str>,
    /// Such as `v1`.
    pub version: Cow<'static, str>,
    /// Such as `pods`.
    pub plural: Cow<'static, str>,
    /// Such as `Pod`.
    pub kind: Cow<'static, str>,
}

impl Gvr {
    /// The resource of a typed object.
    pub fn of<K: Object>() -> Self {
        Self { group: K::group(&()), version: K::version(&()), plural: K::plural(&()), kind: K::kind(&()) }
    }

    /// A resource from its parts.
    pub fn new(group: &str, version: &str, plural: &str, kind: &str) -> Self {
        let own = |text: &str| Cow::Owned(text.to_string());
        Self { group: own(group), version: own(version), plural: own(plural), kind: own(kind) }
    }

    /// The `apiVersion` of its objects.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_string()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// The path of the collection, of one namespace or (when that is empty) of all of them.
    pub fn collection(&self, namespace: &str) -> String {
        let root = if self.group.is_empty() { "/api/" } else { "/apis/" };
        let version = self.api_version();
        if namespace.is_empty() {
            format!("{root}{version}/{}", self.plural)
        } else {
            format!("{root}{version}/namespaces/{namespace}/{}", self.plural)
        }
    }

    /// The path of one object.
    pub fn object(&self, namespace: &str, name: &str) -> String {
        format!("{}/{name}", self.collection(namespace))
    }
}

impl fmt::Display for Gvr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.group.is_empty() {
            f.write_str(&self.plural)
        } else {
            write!(f, "{}.{}", self.plural, self.group)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::{apps::v1::Deployment, core::v1::Node};

    #[test]
    fn paths() {
        let deployments = Gvr::of::<Deployment>();
        let cases = [
            (deployments.object("ns", "web"), "/apis/apps/v1/namespaces/ns/deployments/web"),
            (deployments.collection(""), "/apis/apps/v1/deployments"),
            (Gvr::of::<Node>().object("", "n1"), "/api/v1/nodes/n1"),
        ];
        for (path, expected) in cases {
            assert_eq!(path, expected);
        }
        assert_eq!(deployments.to_string(), "deployments.apps");
    }
}
