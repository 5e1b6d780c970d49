//! The tour with kube-rs: reflectors, every form of patch, apply, custom resources, waiting.

use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::runtime::wait::{await_condition, conditions};
use kube::runtime::{WatchStreamExt as _, reflector, watcher};
use kube::{Client, ResourceExt as _};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

const NAMESPACE: &str = "tour-kube-rs";
/// Longest wait for anything that happens by itself.
const PATIENCE: Duration = Duration::from_secs(20);

fn object<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).expect("a well-formed object")
}

pub async fn tour(client: Client) {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace = object(json!({"metadata": {"name": NAMESPACE}}));
    namespaces.create(&PostParams::default(), &namespace).await.expect("a namespace");
    patches(&client).await;
    reflects(&client).await;
    custom_resources(&client).await;
    namespaces.delete(NAMESPACE, &DeleteParams::default()).await.expect("deleted");
}

async fn patches(client: &Client) {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    let web = object(json!({
        "metadata": {"name": "web"},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "web", "image": "registry.invalid/web:1"}]},
            },
        },
    }));
    let made = deployments.create(&PostParams::default(), &web).await.expect("created");
    assert_eq!(made.spec.as_ref().and_then(|s| s.replicas), Some(1));
    let strategic = json!({"spec": {"template": {"spec": {"containers": [{"name": "web", "env": [{"name": "A", "value": "1"}]}]}}}});
    let merge = json!({"spec": {"replicas": 2}});
    for patch in [Patch::Strategic(strategic), Patch::Merge(merge)] {
        deployments.patch("web", &PatchParams::default(), &patch).await.expect("patched");
    }
    let operations = json!([{"op": "replace", "path": "/spec/replicas", "value": 3}]);
    let request = http::Request::patch(format!("/apis/apps/v1/namespaces/{NAMESPACE}/deployments/web"))
        .header("content-type", "application/json-patch+json")
        .body(operations.to_string().into_bytes());
    client.request::<Deployment>(request.expect("a request")).await.expect("patched");
    let patched = deployments.get("web").await.expect("there");
    let spec = patched.spec.expect("a spec");
    let container = &spec.template.spec.expect("a pod").containers[0];
    assert_eq!((spec.replicas, container.env.as_ref().map(Vec::len)), (Some(3), Some(1)));
    let applied = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {"replicas": 4}});
    let refused = deployments.patch("web", &PatchParams::apply("tour"), &Patch::Apply(&applied)).await;
    assert!(matches!(refused, Err(kube::Error::Api(status)) if status.code == 409));
    let forced = PatchParams::apply("tour").force();
    deployments.patch("web", &forced, &Patch::Apply(&applied)).await.expect("applied");
    assert_eq!(deployments.get_scale("web").await.expect("a scale").spec.and_then(|s| s.replicas), Some(4));
    deployments.delete("web", &DeleteParams::foreground()).await.expect("deleted");
}

async fn reflects(client: &Client) {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
    let (reader, writer) = reflector::store();
    let config = watcher::Config::default().labels("tour=yes").streaming_lists();
    let stream = watcher(maps.clone(), config).default_backoff().reflect(writer).applied_objects();
    let follow = tokio::spawn(stream.for_each(|_| std::future::ready(())));
    reader.wait_until_ready().await.expect("the writer lives");
    for i in 0..5 {
        let map = object(json!({"metadata": {"name": format!("m{i}"), "labels": {"tour": "yes"}}}));
        maps.create(&PostParams::default(), &map).await.expect("created");
    }
    maps.delete("m0", &DeleteParams::default()).await.expect("deleted");
    let settled = async {
        while reader.state().len() != 4 || reader.state().iter().any(|m| m.name_any() == "m0") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, settled).await.expect("the reflector follows");
    follow.abort();
    let page = maps.list(&ListParams::default().labels("tour=yes").limit(3)).await.expect("a page");
    assert_eq!((page.items.len(), page.metadata.remaining_item_count), (3, None));
    assert!(page.metadata.continue_.is_some_and(|token| !token.is_empty()));
}

async fn custom_resources(client: &Client) {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let definition = object(json!({
        "metadata": {"name": "kettles.rs.example.com"},
        "spec": {
            "group": "rs.example.com", "scope": "Namespaced", "names": {"plural": "kettles", "kind": "Kettle"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object",
                "properties": {"spec": {"type": "object", "properties": {"litres": {"type": "integer", "default": 1}}}},
            }}}],
        },
    }));
    let definition = definitions.create(&PostParams::default(), &definition).await.expect("created");
    let name = "kettles.rs.example.com";
    let established = await_condition(definitions.clone(), name, conditions::is_crd_established());
    tokio::time::timeout(PATIENCE, established).await.expect("in time").expect("established");
    let resource = ApiResource::from_gvk_with_plural(
        &GroupVersionKind::gvk("rs.example.com", "v1", "Kettle"),
        "kettles",
    );
    let kettles: Api<DynamicObject> = Api::namespaced_with(client.clone(), NAMESPACE, &resource);
    let kettle = DynamicObject::new("k", &resource).data(json!({"spec": {}}));
    let made = kettles.create(&PostParams::default(), &kettle).await.expect("created");
    assert_eq!(made.data["spec"]["litres"], 1);
    let patch = json!({"spec": {"litres": "many"}});
    let refused = kettles.patch("k", &PatchParams::default(), &Patch::Merge(patch)).await;
    assert!(matches!(refused, Err(kube::Error::Api(status)) if status.code == 422));
    definitions.delete(name, &DeleteParams::default()).await.expect("deleted");
    let uid = definition.uid().expect("a uid");
    let gone = await_condition(definitions, name, conditions::is_deleted(&uid));
    tokio::time::timeout(PATIENCE, gone).await.expect("in time").expect("gone");
}
