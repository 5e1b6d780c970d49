//! What the API serves right now: one aggregated request per root, or the older protocol where that is missing.
//! Groups that cannot be asked (an aggregated server that is down) are reported, not ignored: deleting a namespace
//! must not be called complete while one of its groups is unknown.

use serde_json::Value;

use super::client::ApiClient;
use super::gvr::Gvr;
use super::plan::{Discovery, Failure, ServedResource};

const ACCEPT_AGGREGATED: &str =
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";

/// Asks for everything that is served.
pub async fn discover(api: &ApiClient) -> Result<Discovery, Failure> {
    let (core, groups) = futures::try_join!(root(api, "/api"), root(api, "/apis"))?;
    let mut found = Discovery::default();
    for body in [core, groups] {
        if body["kind"] == "APIGroupDiscoveryList" {
            aggregated(&body, &mut found);
        } else {
            each_version(api, &body, &mut found).await;
        }
    }
    Ok(found)
}

async fn root(api: &ApiClient, path: &str) -> Result<Value, Failure> {
    api.send(http::Request::get(path).header(http::header::ACCEPT, ACCEPT_AGGREGATED), Vec::new()).await
}

fn items<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    value[field].as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("")
}

fn verbs(resource: &Value) -> Vec<String> {
    items(resource, "verbs").map(|verb| text(verb).to_string()).collect()
}

/// Adds a resource unless an earlier (preferred) version of its group has it.
fn add(found: &mut Discovery, resource: ServedResource) {
    let same = |have: &ServedResource| {
        have.gvr.group == resource.gvr.group && have.gvr.plural == resource.gvr.plural
    };
    if !found.resources.iter().any(same) {
        found.resources.push(resource);
    }
}

fn aggregated(body: &Value, found: &mut Discovery) {
    for group in items(body, "items") {
        let name = text(&group["metadata"]["name"]);
        for version in items(group, "versions") {
            let version_name = text(&version["version"]);
            if version["freshness"] == "Stale" {
                let why = "stale GroupVersion discovery".to_string();
                found.failed.push((join(name, version_name), why));
            }
            for resource in items(version, "resources") {
                let kind = text(&resource["responseKind"]["kind"]);
                let gvr = Gvr::new(name, version_name, text(&resource["resource"]), kind);
                let namespaced = resource["scope"] == "Namespaced";
                add(found, ServedResource { gvr, namespaced, verbs: verbs(resource) });
            }
        }
    }
}

fn join(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_string() } else { format!("{group}/{version}") }
}

/// The older protocol: one request per group version.
async fn each_version(api: &ApiClient, body: &Value, found: &mut Discovery) {
    let mut wanted: Vec<(String, String)> =
        items(body, "versions").map(|version| (String::new(), text(version).to_string())).collect();
    for group in items(body, "groups") {
        let preferred = text(&group["preferredVersion"]["version"]);
        let mut versions: Vec<&str> =
            items(group, "versions").map(|version| text(&version["version"])).collect();
        versions.sort_by_key(|version| *version != preferred);
        let name = text(&group["name"]);
        wanted.extend(versions.into_iter().map(|version| (name.to_string(), version.to_string())));
    }
    let asked = wanted.iter().map(|(group, version)| {
        let root = if group.is_empty() { "/api" } else { "/apis" };
        let path = format!("{root}/{}", join(group, version));
        async move { api.send(http::Request::get(path), Vec::new()).await }
    });
    let answers = futures::future::join_all(asked).await;
    for ((group, version), answer) in wanted.iter().zip(answers) {
        match answer {
            Ok(list) => add_list(&list, group, version, found),
            Err(failure) => found.failed.push((join(group, version), failure.message)),
        }
    }
}

fn add_list(list: &Value, group: &str, version: &str, found: &mut Discovery) {
    for resource in items(list, "resources").filter(|resource| !text(&resource["name"]).contains('/')) {
        let gvr = Gvr::new(group, version, text(&resource["name"]), text(&resource["kind"]));
        let namespaced = resource["namespaced"] == true;
        add(found, ServedResource { gvr, namespaced, verbs: verbs(resource) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_preferred_version_wins_and_stale_groups_are_reported() {
        let resource = |name: &str| json!({"resource": name, "responseKind": {"kind": "K"}, "scope": "Namespaced", "verbs": ["list"]});
        let body = json!({"kind": "APIGroupDiscoveryList", "items": [{"metadata": {"name": "g"}, "versions": [
            {"version": "v2", "resources": [resource("a")]},
            {"version": "v1", "resources": [resource("a"), resource("b")], "freshness": "Stale"}]}]});
        let mut found = Discovery::default();
        aggregated(&body, &mut found);
        let names: Vec<_> = found.resources.iter().map(|r| r.gvr.collection("ns")).collect();
        assert_eq!(names, ["/apis/g/v2/namespaces/ns/a", "/apis/g/v1/namespaces/ns/b"]);
        assert_eq!(found.failed[0].0, "g/v1");
    }
}
