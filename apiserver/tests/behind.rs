//! What must hold while a server's caches are behind: nothing is denied or allowed because it was not shown yet, nor given
//! away because an answer was lost.

mod common;
mod lagging;
mod waiting;

use std::collections::BTreeSet;
use std::time::Duration;

use common::{Server, Store};
use lagging::Lagging;
use serde_json::json;
use waiting::eventually;

/// What was acknowledged by one server holds on the others at once, however far their caches are: namespaces, service
/// accounts and their tokens, priority classes.
#[tokio::test(flavor = "multi_thread")]
async fn what_one_server_acknowledged_exists_on_the_others() {
    let store = Store::new().await;
    let key = store.folder.path().join("sa.key");
    std::fs::write(&key, rcgen::KeyPair::generate().expect("a key").serialize_pem()).expect("a file");
    let flags =
        [&*format!("--service-account-signing-key-file={}", key.display()), "--enable-bootstrap-token-auth"];
    let here = Server::start_with(&store, &flags).await;
    let there = Server::start_over(&store, Lagging::watches, &flags).await;
    for round in 0..5 {
        let name = format!("n{round}");
        let space = format!("/api/v1/namespaces/{name}");
        let named = json!({"metadata": {"name": name}});
        let other = json!({"metadata": {"name": "other"}});
        let class = json!({"metadata": {"name": name}, "value": 7});
        let pod = json!({"metadata": {"name": "p"}, "spec": {"serviceAccountName": "other",
            "priorityClassName": name, "containers": [{"name": "c", "image": "i"}]}});
        let steps = [
            (&here, "/api/v1/namespaces".to_owned(), &named),
            (&there, format!("{space}/configmaps"), &named),
            (&here, format!("{space}/serviceaccounts"), &named),
            (&there, format!("{space}/serviceaccounts/{name}/token"), &json!({})),
            (&here, format!("{space}/serviceaccounts"), &other),
            (&here, "/apis/scheduling.k8s.io/v1/priorityclasses".to_owned(), &class),
            (&there, format!("{space}/pods"), &pod),
        ];
        let (id, secret) = (format!("abcde{round}"), "0123456789abcdef");
        let token = json!({"metadata": {"name": format!("bootstrap-token-{id}")},
            "type": "bootstrap.kubernetes.io/token", "stringData": {"token-id": id, "token-secret": secret,
            "usage-bootstrap-authentication": "true"}});
        for (server, path, body) in steps {
            let answer = server.post(&path, body).await;
            assert_eq!(answer.code, 201, "{path}: {}", answer.text);
            if path.ends_with("/token") {
                let review = json!({"spec": {"token": answer.json["status"]["token"]}});
                let review = there.post("/apis/authentication.k8s.io/v1/tokenreviews", &review).await;
                assert_eq!(review.json["status"]["authenticated"], true, "{}", review.text);
            }
        }
        let made = here.post("/api/v1/namespaces/kube-system/secrets", &token).await;
        assert_eq!(made.code, 201, "{}", made.text);
        let review = json!({"spec": {"token": format!("{id}.{secret}")}});
        let review = there.post("/apis/authentication.k8s.io/v1/tokenreviews", &review).await;
        assert_eq!(review.json["status"]["authenticated"], true, "{}", review.text);
    }
}

/// A server that has not read the definitions yet must not say that their objects do not exist: garbage collectors and
/// operators would believe it.
#[tokio::test(flavor = "multi_thread")]
async fn a_starting_server_denies_no_custom_resource() {
    let store = Store::new().await;
    let first = Server::start_with(&store, &[]).await;
    let definition = json!({
        "metadata": {"name": "widgets.example.com"},
        "spec": {"group": "example.com", "scope": "Cluster",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object"}}}]},
    });
    let made = first.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &definition).await;
    assert_eq!(made.code, 201, "{}", made.text);
    let (widgets, group) = ("/apis/example.com/v1/widgets", "/apis/example.com");
    let widget = json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"}});
    eventually("a widget is made", async || first.post(widgets, &widget).await.code == 201).await;
    let service = "/apis/apiregistration.k8s.io/v1/apiservices/v1.example.com";
    eventually("the group is announced", async || first.get(service).await.code == 200).await;
    let uid = first.get(service).await.json["metadata"]["uid"].clone();
    let late = |store| Lagging::watches_and_reads_of("/registry/apiextensions.k8s.io/", store);
    let second = Server::launch(&store, late, &[]).await;
    let mut codes = BTreeSet::new();
    eventually("the second server shows the widget", async || {
        codes.insert(second.get(group).await.code.as_u16());
        // Who empties a namespace goes by this list.
        let groups = second.get("/apis").await;
        assert!(groups.code == 503 || groups.text.contains("example.com"), "{}", groups.text);
        let answer = second.get(&format!("{widgets}/w")).await;
        codes.insert(answer.code.as_u16());
        answer.code == 200
    })
    .await;
    assert_eq!(codes, BTreeSet::from([200, 503]));
    // The second server looks after the announcements once a second.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(second.get(service).await.json["metadata"]["uid"], uid, "it is announced as it was");
}

/// Limits and quotas hold on every server as soon as one has acknowledged them.
#[tokio::test(flavor = "multi_thread")]
async fn limits_of_another_server_hold_at_once() {
    let store = Store::new().await;
    let here = Server::start_with(&store, &[]).await;
    let there = Server::start_over(&store, Lagging::watches, &[]).await;
    let range = json!({"metadata": {"name": "l"},
        "spec": {"limits": [{"type": "Container", "max": {"cpu": "1"}, "default": {"cpu": "500m"}}]}});
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": "0"}}});
    let counted = json!({"status": {"hard": {"pods": "0"}, "used": {"pods": "0"}}});
    for round in 0..3 {
        for (what, body) in [("limitranges", &range), ("resourcequotas", &quota)] {
            let name = format!("{what}-{round}");
            let space = format!("/api/v1/namespaces/{name}");
            let pod = json!({"metadata": {"name": "p"},
                "spec": {"containers": [{"name": "c", "image": "i", "resources": {"limits": {"cpu": "2"}}}]}});
            let made = here.post("/api/v1/namespaces", &json!({"metadata": {"name": name}})).await;
            assert_eq!(made.code, 201, "{}", made.text);
            let account = json!({"metadata": {"name": "default"}});
            let made = here.post(&format!("{space}/serviceaccounts"), &account).await;
            assert_eq!(made.code, 201, "{}", made.text);
            // The other server knows all of this, and nothing of what follows.
            assert_eq!(there.get(&format!("{space}/serviceaccounts/default")).await.code, 200);
            let made = here.post(&format!("{space}/{what}"), body).await;
            assert_eq!(made.code, 201, "{}", made.text);
            if what == "resourcequotas" {
                let merge = "application/merge-patch+json";
                let path = format!("{space}/{what}/q/status");
                let told = here.send(http::Method::PATCH, &path, merge, &counted.to_string()).await;
                assert_eq!(told.code, 200, "{}", told.text);
            }
            let refused = there.post(&format!("{space}/pods"), &pod).await;
            assert_eq!(refused.code, 403, "{what}: {}", refused.text);
        }
    }
}

/// An address belongs to whoever may have it: a service whose write was not answered.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_gives_no_address_away() {
    let store = Store::new().await;
    let mute = |store| Lagging::watches_and_answers_lost_of("/registry/services/specs/default/lost", store);
    // The start-up objects come from another server: they would keep the late watch of this one busy for seconds.
    let _first = Server::start_with(&store, &[]).await;
    let server = Server::start_over(&store, mute, &[]).await;
    let services = "/api/v1/namespaces/default/services";
    let lost = json!({"metadata": {"name": "lost"}, "spec": {"ports": [{"port": 80}]}});
    let path = format!("{services}/lost");
    eventually("the service is written", async || {
        // The first attempt is answered with 504; a later one would find the service there.
        let unknown = server.post(services, &lost).await;
        assert!([504, 409].contains(&unknown.code.as_u16()), "{}", unknown.text);
        server.get(&path).await.code == 200
    })
    .await;
    let stored = server.get(&path).await;
    let address = stored.json["spec"]["clusterIP"].as_str().unwrap_or_default().to_owned();
    let held = server.get(&format!("/apis/networking.k8s.io/v1/ipaddresses/{address}")).await;
    assert_eq!(held.code, 200, "{address}: {}", held.text);
    // By this label clients, and the controller that ends address ranges, know whose it is.
    let by = &held.json["metadata"]["labels"]["ipaddress.kubernetes.io/managed-by"];
    assert_eq!(by, "ipallocator.k8s.io");
}

/// Once everything is served, what is not there is not there.
#[tokio::test(flavor = "multi_thread")]
async fn a_ready_server_says_what_it_does_not_serve() {
    let server = Server::start().await;
    for (path, code) in [("/apis", 200), ("/apis/example.com", 404), ("/apis/example.com/v1/widgets/w", 404)]
    {
        let answer = server.get(path).await;
        assert_eq!(answer.code, code, "{path}: {}", answer.text);
    }
}
