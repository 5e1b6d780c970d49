//! Publishes the cluster's certificate authority to every namespace, as config map `kube-root-ca.crt`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::meta::{StringMap, annotation, is_terminating, name, namespace};
use crate::runtime::{Action, Context, Controller, Key, Plan, ReconcileError, Store, Wiring};

const CONFIG_MAP: &str = "kube-root-ca.crt";
const DESCRIPTION_KEY: &str = "kubernetes.io/description";
/// The text upstream publishes; tools compare the object as a whole.
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";

struct RootCa {
    namespaces: Store<Namespace>,
    maps: Store<ConfigMap>,
    wanted: Option<StringMap>,
}

/// Builds the loop; its keys are namespaces. Without a root certificate it does nothing.
pub fn build(wiring: &mut Wiring) -> Box<dyn Controller> {
    let maps = wiring.on::<ConfigMap>(|change, queue| {
        if let Some(map) = change.latest().filter(|map| name(map.as_ref()) == CONFIG_MAP) {
            queue.add(Key::cluster(namespace(map.as_ref())));
        }
    });
    let namespaces = wiring.on_self::<Namespace>();
    let root = wiring.options().root_ca.as_ref().map(|pem| String::from_utf8_lossy(pem).into_owned());
    let wanted = root.map(|pem| BTreeMap::from([("ca.crt".to_string(), pem)]));
    Box::new(RootCa { namespaces, maps, wanted })
}

impl Controller for RootCa {
    fn reconcile(&self, key: &Key, _context: &Context) -> Result<Plan, ReconcileError> {
        let mut plan = Plan::nothing();
        let (Some(space), Some(wanted)) = (self.namespaces.get(key), &self.wanted) else { return Ok(plan) };
        if is_terminating(space.as_ref()) {
            return Ok(plan);
        }
        let Some(map) = self.maps.named(&key.name, CONFIG_MAP) else {
            let metadata = ObjectMeta {
                name: Some(CONFIG_MAP.into()),
                namespace: Some(key.name.to_string()),
                annotations: Some(BTreeMap::from([(DESCRIPTION_KEY.into(), DESCRIPTION.into())])),
                ..ObjectMeta::default()
            };
            let map = ConfigMap { metadata, data: Some(wanted.clone()), ..ConfigMap::default() };
            plan.act(Action::create(&map).tolerating(&[409]));
            return Ok(plan);
        };
        if map.data.as_ref() != Some(wanted) || annotation(map.as_ref(), DESCRIPTION_KEY).is_none() {
            let mut map = map.as_ref().clone();
            map.data = Some(wanted.clone());
            let annotations = map.metadata.annotations.get_or_insert_default();
            annotations.insert(DESCRIPTION_KEY.into(), DESCRIPTION.into());
            plan.act(Action::update(&map));
        }
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use crate::options::Options;
    use crate::testing::check_with;
    use crate::testing::crash::check_crashes;
    use crate::testing::model::Model;
    use crate::testing::world::Scenario;
    use serde_json::json;

    #[test]
    fn a_changed_map_is_restored_whatever_dies() {
        let mut scenario =
            Scenario::new(&[super::build], &[json!({"kind": "Namespace", "metadata": {"name": "ns"}})]);
        scenario.options = Options { root_ca: Some(b"PEM".to_vec()), ..Options::default() };
        let change: fn(&mut Model) = |model| {
            model.edit("ConfigMap", "ns", super::CONFIG_MAP, |map| map["data"]["ca.crt"] = "forged".into());
        };
        scenario.steps = vec![change];
        assert_eq!(check_crashes(&scenario), 2);
    }

    #[test]
    fn cases() {
        let options = Options { root_ca: Some(b"PEM".to_vec()), ..Options::default() };
        let space = json!({"kind": "Namespace", "metadata": {"name": "ns"}});
        let map = |pem: &str| {
            json!({"kind": "ConfigMap", "metadata": {"name": super::CONFIG_MAP, "namespace": "ns",
                "annotations": {"kubernetes.io/description": "x"}}, "data": {"ca.crt": pem}})
        };
        let path = "/api/v1/namespaces/ns/configmaps/kube-root-ca.crt";
        check_with(super::build, &options, "ns", std::slice::from_ref(&space), &format!("create {path}"));
        check_with(super::build, &options, "ns", &[space.clone(), map("old")], &format!("update {path}"));
        check_with(super::build, &options, "ns", &[space.clone(), map("PEM")], "");
        check_with(super::build, &Options::default(), "ns", &[space], "");
    }
}
