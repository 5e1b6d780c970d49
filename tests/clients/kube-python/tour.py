"""A tour of the API server with the official Python client: objects, errors, patches, apply, watches, custom resources.

usage: tour.py KUBECONFIG
"""

import base64
import sys
import time

from kubernetes import client, config, dynamic, watch
from kubernetes.client.exceptions import ApiException
from kubernetes.informer import ADDED, DELETED, MODIFIED, SharedInformer

PATIENCE_SECS = 20
NAMESPACE = f"tour-python-{time.time_ns()}"

config.load_kube_config(config_file=sys.argv[1])
core, apps = client.CoreV1Api(), client.AppsV1Api()


def refused(code, reason, call, *args, **kwargs):
    """The call fails with this code and reason."""
    try:
        call(*args, **kwargs)
    except ApiException as error:
        assert error.status == code and reason in error.body, f"{error.status} {error.body}"
        return
    raise AssertionError(f"should have been refused with {code} {reason}")


def eventually(what, condition):
    deadline = time.monotonic() + PATIENCE_SECS
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.05)


def config_map(name, data=None, labels=None):
    return client.V1ConfigMap(metadata=client.V1ObjectMeta(name=name, labels=labels), data=data)


def discovery():
    assert client.VersionApi().get_code().minor == "36"
    groups = {g.name for g in client.ApisApi().get_api_versions().groups}
    assert {"apps", "batch", "rbac.authorization.k8s.io"} <= groups, groups
    assert any(r.name == "pods" for r in core.get_api_resources().resources)


def objects():
    made = core.create_namespaced_config_map(NAMESPACE, config_map("one", {"a": "1"}))
    assert made.metadata.uid and core.read_namespaced_config_map("one", NAMESPACE).data == {"a": "1"}
    made.data["a"] = "2"
    core.replace_namespaced_config_map("one", NAMESPACE, made)
    secret = client.V1Secret(metadata=client.V1ObjectMeta(name="s"), string_data={"k": "v"})
    read = core.create_namespaced_secret(NAMESPACE, secret)
    assert base64.b64decode(read.data["k"]) == b"v"
    template = client.V1PodTemplateSpec(
        metadata=client.V1ObjectMeta(labels={"app": "web"}),
        spec=client.V1PodSpec(containers=[client.V1Container(name="web", image="registry.invalid/web:1")]),
    )
    spec = client.V1DeploymentSpec(replicas=1, selector=client.V1LabelSelector(match_labels={"app": "web"}), template=template)
    made = apps.create_namespaced_deployment(NAMESPACE, client.V1Deployment(metadata=client.V1ObjectMeta(name="web"), spec=spec))
    assert made.spec.revision_history_limit == 10
    core.create_namespaced_config_map(NAMESPACE, config_map("dry"), dry_run="All")
    refused(404, "NotFound", core.read_namespaced_config_map, "dry", NAMESPACE)


def errors():
    refused(409, "AlreadyExists", core.create_namespaced_config_map, NAMESPACE, config_map("one"))
    refused(422, "Invalid", core.create_namespaced_config_map, NAMESPACE, config_map("Not_A_Name"))
    stale = core.read_namespaced_config_map("one", NAMESPACE)
    stale.metadata.resource_version = "1"
    refused(409, "the object has been modified", core.replace_namespaced_config_map, "one", NAMESPACE, stale)


def patches():
    merged = core.patch_namespaced_config_map("one", NAMESPACE, {"data": {"a": None, "b": "2"}})
    assert merged.data == {"b": "2"}
    operations = [{"op": "add", "path": "/data/c", "value": "3"}]
    assert core.patch_namespaced_config_map("one", NAMESPACE, operations).data == {"b": "2", "c": "3"}
    body = {"spec": {"template": {"spec": {"containers": [{"name": "web", "env": [{"name": "A", "value": "1"}]}]}}}}
    patched = apps.patch_namespaced_deployment("web", NAMESPACE, body)
    assert patched.spec.template.spec.containers[0].image == "registry.invalid/web:1"
    scaled = apps.patch_namespaced_deployment_scale("web", NAMESPACE, {"spec": {"replicas": 2}})
    assert scaled.spec.replicas == 2


def apply():
    maps = dynamic.DynamicClient(client.ApiClient()).resources.get(api_version="v1", kind="ConfigMap")
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied"}, "data": {"a": "1"}}
    maps.server_side_apply(body, namespace=NAMESPACE, field_manager="one")
    body["data"]["a"] = "2"
    refused(409, "Apply failed with 1 conflict", maps.server_side_apply, body, namespace=NAMESPACE, field_manager="two")
    forced = maps.server_side_apply(body, namespace=NAMESPACE, field_manager="two", force_conflicts=True)
    assert forced.data.a == "2"


def watches():
    version = core.list_namespaced_config_map(NAMESPACE).metadata.resource_version
    core.create_namespaced_config_map(NAMESPACE, config_map("seen", labels={"watched": "yes"}))
    core.patch_namespaced_config_map("seen", NAMESPACE, {"data": {"x": "y"}})
    core.delete_namespaced_config_map("seen", NAMESPACE)
    events = watch.Watch().stream(
        core.list_namespaced_config_map, NAMESPACE, resource_version=version, label_selector="watched=yes", timeout_seconds=5
    )
    kinds = [event["type"] for event, _ in zip(events, range(3))]
    assert kinds == ["ADDED", "MODIFIED", "DELETED"], kinds


def informers():
    seen = []
    informer = SharedInformer(core.list_namespaced_config_map, namespace=NAMESPACE, label_selector="informed=yes", resync_period=2)
    for kind in (ADDED, MODIFIED, DELETED):
        informer.add_event_handler(kind, lambda found, kind=kind: seen.append((kind, found.metadata.name)))
    core.create_namespaced_config_map(NAMESPACE, config_map("early", labels={"informed": "yes"}))
    informer.start()
    names = lambda: sorted(found.metadata.name for found in informer.cache.list())
    try:
        eventually("the cache fills", lambda: names() == ["early"])
        core.create_namespaced_config_map(NAMESPACE, config_map("late", labels={"informed": "yes"}))
        eventually("the cache follows", lambda: names() == ["early", "late"])
        core.patch_namespaced_config_map("late", NAMESPACE, {"data": {"x": "y"}})
        core.delete_namespaced_config_map("early", NAMESPACE)
        eventually("what is gone leaves the cache", lambda: names() == ["late"])
        told = {(ADDED, "early"), (ADDED, "late"), (MODIFIED, "late"), (DELETED, "early")}
        eventually("the handlers are told", lambda: told <= set(seen))
    finally:
        informer.stop()


def paging():
    for i in range(5):
        core.create_namespaced_config_map(NAMESPACE, config_map(f"page-{i}", labels={"page": "yes"}))
    first = core.list_namespaced_config_map(NAMESPACE, label_selector="page=yes", limit=3)
    rest = core.list_namespaced_config_map(NAMESPACE, label_selector="page=yes", limit=3, _continue=first.metadata._continue)
    assert [m.metadata.name for m in first.items + rest.items] == [f"page-{i}" for i in range(5)]
    core.delete_collection_namespaced_config_map(NAMESPACE, label_selector="page")
    assert not core.list_namespaced_config_map(NAMESPACE, label_selector="page").items


DEFINITION = {
    "metadata": {"name": "kites.python.example.com"},
    "spec": {
        "group": "python.example.com", "scope": "Namespaced", "names": {"plural": "kites", "kind": "Kite"},
        "versions": [{
            "name": "v1", "served": True, "storage": True, "subresources": {"status": {}},
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                "spec": {"type": "object", "required": ["tail"], "properties": {
                    "tail": {"type": "integer", "maximum": 9}, "string": {"type": "string", "default": "long"}}},
                "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}}},
        }],
    },
}


def custom_resources():
    definitions, kites = client.ApiextensionsV1Api(), client.CustomObjectsApi()
    definitions.create_custom_resource_definition({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", **DEFINITION})
    where = ("python.example.com", "v1", NAMESPACE, "kites")

    def established():
        status = definitions.read_custom_resource_definition("kites.python.example.com").status
        return any(c.type == "Established" and c.status == "True" for c in (status and status.conditions) or [])

    try:
        eventually("the definition is established", established)
        kite = {"apiVersion": "python.example.com/v1", "kind": "Kite", "metadata": {"name": "k"}, "spec": {"tail": 3}}
        made = kites.create_namespaced_custom_object(*where, kite)
        assert made["spec"]["string"] == "long"
        refused(422, "should be less than or equal to 9", kites.patch_namespaced_custom_object, *where, "k", {"spec": {"tail": 10}})
        kites.patch_namespaced_custom_object_status(*where, "k", {"status": {"flies": True}})
        read = kites.get_namespaced_custom_object(*where, "k")
        assert read["status"] == {"flies": True} and read["metadata"]["generation"] == 1
    finally:
        definitions.delete_custom_resource_definition("kites.python.example.com")


def main():
    core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=NAMESPACE)))
    try:
        for step in (discovery, objects, errors, patches, apply, watches, informers, paging, custom_resources):
            step()
            print("ok  ", step.__name__)
    finally:
        core.delete_namespace(NAMESPACE)


main()
