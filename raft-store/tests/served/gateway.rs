//! The JSON gateway at each of etcd's paths; locks and elections stand beside their services.

use base64::{Engine, engine::general_purpose::STANDARD};
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::listening::Listening;

fn b64(text: &str) -> String {
    STANDARD.encode(text)
}

/// Posts, and expects an answer.
async fn answered(listening: &Listening, path: &str, body: Value) -> Value {
    let (status, answer) = listening.post(path, &body.to_string()).await;
    assert_eq!(status, 200, "{path}: {answer}");
    answer
}

/// Posts, and expects this refusal.
async fn refused(listening: &Listening, path: &str, body: Value, expected: (u16, &str)) {
    let (status, answer) = listening.post(path, &body.to_string()).await;
    assert_eq!((status, answer["message"].as_str().unwrap_or_default()), expected, "{path}");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_watches_and_leases() {
    let listening = Listening::start(|_| ()).await;
    let (key, value) = (b64("k"), b64("v"));
    let put = answered(&listening, "/v3/kv/put", json!({"key": key, "value": value})).await;
    assert_eq!(put["header"]["revision"], "2");
    let range = answered(&listening, "/v3/kv/range", json!({ "key": key })).await;
    assert_eq!(range["kvs"][0]["value"], value);
    let txn = json!({
        "compare": [{"key": key, "target": "VERSION", "version": "1"}],
        "success": [{"request_range": {"key": key}}],
    });
    let txn = answered(&listening, "/v3/kv/txn", txn).await;
    assert_eq!(
        (&txn["succeeded"], &txn["responses"][0]["response_range"]["count"]),
        (&json!(true), &json!("1"))
    );
    let deleted = answered(&listening, "/v3/kv/deleterange", json!({"key": key, "prev_kv": true})).await;
    assert_eq!((&deleted["deleted"], &deleted["prev_kvs"][0]["value"]), (&json!("1"), &json!(value)));
    answered(&listening, "/v3/kv/compaction", json!({"revision": "2"})).await;
    let gone = "etcdserver: mvcc: required revision has been compacted";
    refused(&listening, "/v3/kv/range", json!({"key": key, "revision": "1"}), (400, gone)).await;

    let watch = json!({"create_request": {"key": key, "start_revision": "3"}}).to_string();
    let mut watch = listening.posted("", "/v3/watch", &watch).await.into_body();
    let mut said = String::new();
    while !said.contains(r#""type":"DELETE""#) {
        let frame = watch.frame().await.expect("the watch goes on").unwrap();
        said += &String::from_utf8_lossy(frame.data_ref().unwrap());
    }
    assert!(said.starts_with(r#"{"result":{"#), "{said}");
    drop(watch);

    let lease = answered(&listening, "/v3/lease/grant", json!({"ID": "7", "TTL": "600"})).await;
    assert_eq!((&lease["ID"], &lease["TTL"]), (&json!("7"), &json!("600")));
    answered(&listening, "/v3/kv/put", json!({"key": key, "lease": "7"})).await;
    let kept = answered(&listening, "/v3/lease/keepalive", json!({"ID": "7"})).await;
    assert_eq!(kept["result"]["TTL"], "600");
    for prefix in ["/v3/lease", "/v3/kv/lease"] {
        let left =
            answered(&listening, &format!("{prefix}/timetolive"), json!({"ID": "7", "keys": true})).await;
        assert_eq!((&left["grantedTTL"], &left["keys"][0]), (&json!("600"), &json!(key)));
        let all = answered(&listening, &format!("{prefix}/leases"), json!({})).await;
        assert_eq!(all["leases"][0]["ID"], "7");
    }
    answered(&listening, "/v3/lease/revoke", json!({"ID": "7"})).await;
    let missing = "etcdserver: requested lease not found";
    refused(&listening, "/v3/kv/lease/revoke", json!({"ID": "7"}), (404, missing)).await;
    listening.member.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_and_maintenance() {
    let listening = Listening::start(|_| ()).await;
    let list = answered(&listening, "/v3/cluster/member/list", json!({})).await;
    let own = list["members"][0]["ID"].clone();
    let learner = json!({"peerURLs": ["http://127.0.0.1:9"], "isLearner": true});
    let added = answered(&listening, "/v3/cluster/member/add", learner).await["member"].clone();
    assert_eq!(added["isLearner"], true);
    let behind = "etcdserver: can only promote a learner member which is in sync with leader";
    refused(&listening, "/v3/cluster/member/promote", json!({"ID": added["ID"]}), (400, behind)).await;
    let moved = json!({"ID": added["ID"], "peerURLs": ["http://127.0.0.1:10"]});
    let updated = answered(&listening, "/v3/cluster/member/update", moved).await;
    assert_eq!(updated["members"].as_array().unwrap().len(), 2);
    let removed = answered(&listening, "/v3/cluster/member/remove", json!({"ID": added["ID"]})).await;
    assert_eq!(removed["members"].as_array().unwrap().len(), 1);

    let status = answered(&listening, "/v3/maintenance/status", json!({})).await;
    assert_eq!(status["leader"], own);
    let alarm = json!({"action": "ACTIVATE", "memberID": own, "alarm": "NOSPACE"});
    let raised = answered(&listening, "/v3/maintenance/alarm", alarm).await;
    assert_eq!(raised["alarms"][0]["alarm"], "NOSPACE");
    answered(&listening, "/v3/maintenance/defragment", json!({})).await;
    let hash = answered(&listening, "/v3/maintenance/hash", json!({})).await;
    let hash_kv = answered(&listening, "/v3/maintenance/hashkv", json!({})).await;
    assert_eq!(hash["hash"], hash_kv["hash"]);
    let snapshot = listening.posted("", "/v3/maintenance/snapshot", "{}").await;
    assert_eq!(snapshot.status(), 200);
    let snapshot = snapshot.into_body().collect().await.unwrap().to_bytes();
    assert!(snapshot.starts_with(br#"{"result":{"#));
    answered(&listening, "/v3/maintenance/transfer-leadership", json!({"targetID": own})).await;
    let target = json!({"action": "VALIDATE", "version": "3.6"});
    assert!(answered(&listening, "/v3/maintenance/downgrade", target).await["version"].is_string());
    let enabled = json!({"action": "ENABLE", "version": "3.6"});
    answered(&listening, "/v3/maintenance/downgrade", enabled.clone()).await;
    let twice = "etcdserver: cluster has a downgrade job in progress";
    refused(&listening, "/v3/maintenance/downgrade", enabled, (400, twice)).await;
    answered(&listening, "/v3/maintenance/downgrade", json!({"action": "CANCEL"})).await;
    // With nothing to take back there is nothing to do.
    answered(&listening, "/v3/maintenance/downgrade", json!({"action": "CANCEL"})).await;
    let unknown = "etcdserver: unknown method";
    refused(&listening, "/v3/maintenance/downgrade", json!({"action": 9}), (500, unknown)).await;
    let far = json!({"action": "VALIDATE", "version": "3.4"});
    let wrong = "etcdserver: invalid downgrade target version";
    refused(&listening, "/v3/maintenance/downgrade", far, (400, wrong)).await;
    listening.member.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn users_and_roles() {
    let listening = Listening::start(|config| config.bcrypt_cost = 4).await;
    for name in ["root", "reader"] {
        answered(&listening, "/v3/auth/role/add", json!({ "name": name })).await;
    }
    for name in ["root", "ann"] {
        answered(&listening, "/v3/auth/user/add", json!({"name": name, "password": "pw"})).await;
    }
    let perm = json!({"permType": "READ", "key": b64("a"), "range_end": b64("b")});
    answered(&listening, "/v3/auth/role/grant", json!({"name": "reader", "perm": perm})).await;
    let role = answered(&listening, "/v3/auth/role/get", json!({"role": "reader"})).await;
    assert_eq!(role["perm"][0]["key"], b64("a"));
    let roles = answered(&listening, "/v3/auth/role/list", json!({})).await;
    assert_eq!(roles["roles"], json!(["reader", "root"]));
    for (user, role) in [("root", "root"), ("ann", "reader")] {
        answered(&listening, "/v3/auth/user/grant", json!({"user": user, "role": role})).await;
    }
    let user = answered(&listening, "/v3/auth/user/get", json!({"name": "ann"})).await;
    assert_eq!(user["roles"], json!(["reader"]));
    let users = answered(&listening, "/v3/auth/user/list", json!({})).await;
    assert_eq!(users["users"], json!(["ann", "root"]));
    answered(&listening, "/v3/auth/user/changepw", json!({"name": "ann", "password": "new"})).await;
    answered(&listening, "/v3/auth/enable", json!({})).await;

    let nobody = "etcdserver: user name is empty";
    refused(&listening, "/v3/kv/range", json!({"key": b64("a")}), (400, nobody)).await;
    let token = async |name: &str, password: &str| {
        let body = json!({"name": name, "password": password});
        answered(&listening, "/v3/auth/authenticate", body).await["token"].as_str().unwrap().to_owned()
    };
    let (ann, root) = (token("ann", "new").await, token("root", "pw").await);
    let get = json!({"key": b64("a")}).to_string();
    assert_eq!(listening.post_as(&ann, "/v3/kv/range", &get).await.0, 200);
    let put = json!({"key": b64("a"), "value": b64("x")}).to_string();
    let (status, answer) = listening.post_as(&ann, "/v3/kv/put", &put).await;
    assert_eq!((status, answer["message"].as_str()), (403, Some("etcdserver: permission denied")));
    for (path, body) in [
        ("/v3/auth/user/revoke", json!({"name": "ann", "role": "reader"})),
        ("/v3/auth/role/revoke", json!({"role": "reader", "key": b64("a"), "range_end": b64("b")})),
        ("/v3/auth/user/delete", json!({"name": "ann"})),
        ("/v3/auth/role/delete", json!({"role": "reader"})),
        ("/v3/auth/status", json!({})),
        ("/v3/auth/disable", json!({})),
    ] {
        let (status, answer) = listening.post_as(&root, path, &body.to_string()).await;
        assert_eq!(status, 200, "{path}: {answer}");
    }
    assert_eq!(answered(&listening, "/v3/auth/status", json!({})).await.get("enabled"), None);
    listening.member.shutdown().await;
}
