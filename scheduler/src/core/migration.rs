//! In-tree volume sources that CSI drivers have taken over: which driver, under which handle, in which topology.
//!
//! Owns the table of plugins whose migration kube-scheduler 1.36 has on. The other in-tree sources count as written.

use super::labels::{Labels, NodeSelector, NodeSelectorTerm, Op, Requirement};

const ZONE: &str = "topology.kubernetes.io/zone";
const REGION: &str = "topology.kubernetes.io/region";
const BETA_ZONE: &str = "failure-domain.beta.kubernetes.io/zone";
const BETA_REGION: &str = "failure-domain.beta.kubernetes.io/region";
/// Between the zones of a regional volume's label.
const ZONES_DELIMITER: &str = "__";

/// An in-tree plugin and what took its place.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Plugin {
    /// As provisioners and the migrated-plugins annotation have it.
    pub name: &'static str,
    pub driver: &'static str,
    /// The node label that takes the zone's place, where the driver has one.
    topology_key: Option<&'static str>,
}

pub static AWS_EBS: Plugin = Plugin {
    name: "kubernetes.io/aws-ebs",
    driver: "ebs.csi.aws.com",
    topology_key: Some("topology.ebs.csi.aws.com/zone"),
};
pub static GCE_PD: Plugin = Plugin {
    name: "kubernetes.io/gce-pd",
    driver: "pd.csi.storage.gke.io",
    topology_key: Some("topology.gke.io/zone"),
};
pub static CINDER: Plugin = Plugin {
    name: "kubernetes.io/cinder",
    driver: "cinder.csi.openstack.org",
    topology_key: Some("topology.cinder.csi.openstack.org/zone"),
};
pub static AZURE_DISK: Plugin =
    Plugin { name: "kubernetes.io/azure-disk", driver: "disk.csi.azure.com", topology_key: None };
pub static PORTWORX: Plugin =
    Plugin { name: "kubernetes.io/portworx-volume", driver: "pxd.portworx.com", topology_key: None };

static ALL: [&Plugin; 5] = [&AWS_EBS, &GCE_PD, &CINDER, &AZURE_DISK, &PORTWORX];

/// A volume as its CSI driver knows it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Migrated {
    pub plugin: &'static Plugin,
    pub handle: Box<str>,
    /// Where the driver says the volume is; only for persistent volumes.
    pub nodes: Option<NodeSelector>,
}

impl Plugin {
    /// The plugin of an in-tree provisioner.
    pub fn of_provisioner(name: &str) -> Option<&'static Plugin> {
        ALL.into_iter().find(|p| p.name == name)
    }

    /// Whether the node's kubelet has handed the plugin over, by its migrated-plugins annotation.
    pub fn is_migrated_on(&self, annotation: &str) -> bool {
        annotation.split(',').any(|name| name == self.name)
    }

    /// The driver's view of where a persistent volume is: zones under the driver's own label, beta region labels
    /// under their final name.
    pub fn topology(&self, nodes: Option<&NodeSelector>, labels: &Labels) -> Option<NodeSelector> {
        let Some(key) = self.topology_key else { return nodes.cloned() };
        let mut terms = nodes.cloned().unwrap_or_default();
        let used =
            |terms: &NodeSelector, key: &str| terms.iter().any(|t| t.labels.iter().any(|r| &*r.key == key));
        let is_beta = !used(&terms, ZONE)
            && (used(&terms, BETA_ZONE) || (labels.get(ZONE).is_none() && labels.get(BETA_ZONE).is_some()));
        let zone = if is_beta { BETA_ZONE } else { ZONE };
        if used(&terms, zone) {
            rename(&mut terms, zone, key);
        } else if let Some(zones) = labels.get(zone) {
            add_zones(&mut terms, key, zones);
        }
        if is_beta {
            rename(&mut terms, BETA_REGION, REGION);
        }
        (!terms.is_empty()).then_some(terms)
    }
}

fn rename(terms: &mut NodeSelector, from: &str, to: &str) {
    for requirement in terms.iter_mut().flat_map(|t| &mut t.labels).filter(|r| &*r.key == from) {
        requirement.key = to.into();
    }
}

fn add_zones(terms: &mut NodeSelector, key: &str, zones: &str) {
    let mut values: Vec<Box<str>> =
        zones.split(ZONES_DELIMITER).map(str::trim).filter(|z| !z.is_empty()).map(Box::from).collect();
    values.sort();
    values.dedup();
    if values.is_empty() {
        return;
    }
    if terms.is_empty() {
        terms.push(NodeSelectorTerm { labels: Vec::new(), fields: Vec::new() });
    }
    for term in terms {
        term.labels.push(Requirement { key: key.into(), op: Op::In, values: values.clone() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn term(key: &str, value: &str) -> NodeSelectorTerm {
        let requirement = Requirement { key: key.into(), op: Op::In, values: vec![value.into()] };
        NodeSelectorTerm { labels: vec![requirement], fields: vec![] }
    }

    #[track_caller]
    fn check(
        plugin: &Plugin,
        nodes: &[(&str, &str)],
        labels: &[(&str, &str)],
        node: (&str, &str),
        fits: bool,
    ) {
        let terms: NodeSelector = nodes.iter().map(|(k, v)| term(k, v)).collect();
        let labels: Labels = labels.iter().copied().collect();
        let found = plugin.topology(Some(&terms).filter(|t| !t.is_empty()), &labels);
        let node: Labels = [node].into_iter().collect();
        let got = found.is_none_or(|terms| terms.iter().any(|t| t.matches("", &node)));
        assert_eq!(got, fits, "{nodes:?} {labels:?} {node:?}");
    }

    #[test]
    fn zones_move_to_the_drivers_label() {
        let key = "topology.ebs.csi.aws.com/zone";
        check(&AWS_EBS, &[(ZONE, "a")], &[], (key, "a"), true);
        check(&AWS_EBS, &[(ZONE, "a")], &[], (ZONE, "a"), false);
        check(&AWS_EBS, &[(BETA_ZONE, "a")], &[], (key, "a"), true);
        check(&AWS_EBS, &[], &[(BETA_ZONE, "a__b")], (key, "b"), true);
        check(&AWS_EBS, &[], &[(ZONE, "a")], (key, "b"), false);
        check(&AWS_EBS, &[(BETA_REGION, "r")], &[(BETA_ZONE, "")], (REGION, "r"), true);
        check(&AWS_EBS, &[], &[], (key, "anything"), true);
        check(&AZURE_DISK, &[(ZONE, "a")], &[], (ZONE, "a"), true);
    }

    #[test]
    fn nodes_say_which_plugins_they_have_handed_over() {
        assert!(GCE_PD.is_migrated_on("kubernetes.io/aws-ebs,kubernetes.io/gce-pd"));
        assert!(!GCE_PD.is_migrated_on("") && Plugin::of_provisioner("kubernetes.io/rbd").is_none());
    }
}
