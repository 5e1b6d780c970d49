//! Answers in which random programs of requests, sent to etcd 3.6.16 and to this store, once differed: each is etcd's.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::listening::Listening;

fn b64(text: &str) -> String {
    STANDARD.encode(text)
}

/// Path, body, status, and what the answer holds at a place in it.
type Step = (&'static str, Value, u16, &'static str, Value);

async fn check(listening: &Listening, steps: &[Step]) {
    for (number, (path, body, status, place, expected)) in steps.iter().enumerate() {
        let (found, answer) = listening.post(path, &body.to_string()).await;
        let held = answer.pointer(place).cloned().unwrap_or_default();
        assert_eq!((found, &held), (*status, expected), "step {number}, {path} {body}: {answer}");
    }
}

fn refused(path: &'static str, body: Value, status: u16, text: &str) -> Step {
    (path, body, status, "/message", json!(text))
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_transactions() {
    let listening = Listening::start(|_| ()).await;
    let put = |key: &str| json!({"key": b64(key), "value": b64("v"), "unknown": {"field": 1}});
    let all = |more: Value| {
        let mut range = json!({"key": b64("a"), "range_end": b64("z")});
        range.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        range
    };
    let ops = |ops: Value| json!({ "success": ops });
    let gone = "etcdserver: mvcc: required revision has been compacted";
    check(
        &listening,
        &[
            ("/v3/kv/put", put("a"), 200, "/header/revision", json!("2")),
            ("/v3beta/kv/put", put("b"), 200, "/header/revision", json!("3")),
            ("/v3/kv/put", put("c"), 200, "/header/revision", json!("4")),
            ("/v3/kv/put", put("a"), 200, "/header/revision", json!("5")),
            // A target without an order sorts the first rows and one more; with an order, all of them.
            (
                "/v3/kv/range",
                all(json!({"limit": 1, "sort_target": "MOD"})),
                200,
                "/kvs",
                json!([{"key": b64("b"), "create_revision": "3", "mod_revision": "3", "version": "1", "value": b64("v")}]),
            ),
            ("/v3/kv/range", all(json!({"limit": 1, "sort_target": "MOD"})), 200, "/count", json!("3")),
            (
                "/v3/kv/range",
                all(json!({"limit": 1, "sort_target": "MOD", "sort_order": "DESCEND"})),
                200,
                "/kvs/0/key",
                json!(b64("a")),
            ),
            // Once a transaction has written, its reads of the past tell of its own revision.
            (
                "/v3/kv/txn",
                ops(json!([{"request_put": put("d")}, {"request_range": {"key": b64("a"), "revision": 2}}])),
                200,
                "/responses/1/response_range/header/revision",
                json!("6"),
            ),
            ("/v3/kv/txn", ops(json!([{"request_txn": {}}])), 200, "/responses/0/response_txn/header", json!({})),
            ("/v3/kv/compaction", json!({"revision": 3}), 200, "/header/revision", json!("6")),
            ("/v3/kv/range", json!({"key": b64("a"), "revision": -1}), 200, "/count", json!("1")),
            refused("/v3/kv/txn", ops(json!([{"request_range": {"key": b64("a"), "revision": -1}}])), 400, gone),
            // A put on its own misses its lease first, one in a transaction its key.
            refused(
                "/v3/kv/put",
                json!({"key": b64("none"), "lease": 9, "ignore_value": true}),
                404,
                "etcdserver: requested lease not found",
            ),
            refused(
                "/v3/kv/txn",
                ops(json!([{"request_put": {"key": b64("none"), "lease": 9, "ignore_value": true}}])),
                400,
                "etcdserver: key not found",
            ),
            refused("/v3/kv/none", json!({}), 404, "Not Found"),
        ],
    )
    .await;
    listening.member.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn users_and_alarms() {
    let listening = Listening::start(|config| config.bcrypt_cost = 4).await;
    let user = |name: &str, password: &str| json!({"name": name, "password": password});
    let (whole, long) = ("x".repeat(72), "x".repeat(73));
    let too_long = "bcrypt: password length exceeds 72 bytes";
    let root = || json!({"user": "root", "role": "root"});
    check(
        &listening,
        &[
            refused("/v3/auth/user/add", user("root", &long), 500, too_long),
            ("/v3/auth/user/add", user("root", "secret"), 200, "/header/revision", json!("1")),
            refused("/v3/auth/user/changepw", user("root", &long), 500, too_long),
            refused("/v3/auth/user/changepw", user("none", &long), 500, too_long),
            ("/v3/auth/user/changepw", user("root", &whole), 200, "/header/revision", json!("1")),
            (
                "/v3/auth/user/add",
                json!({"name": "cert", "options": {"no_password": true}}),
                200,
                "/header/revision",
                json!("1"),
            ),
            refused(
                "/v3/auth/role/grant",
                json!({"name": "none", "perm": {"key": "", "range_end": b64("c")}}),
                400,
                "etcdserver: invalid auth management",
            ),
            (
                "/v3/maintenance/alarm",
                json!({"action": "ACTIVATE", "alarm": "CORRUPT", "memberID": 1}),
                200,
                "/alarms/0/alarm",
                json!("CORRUPT"),
            ),
            (
                "/v3/maintenance/alarm",
                json!({"action": "ACTIVATE", "alarm": "NONE"}),
                200,
                "/alarms",
                json!(null),
            ),
            (
                "/v3/maintenance/alarm",
                json!({"action": "DEACTIVATE", "alarm": "CORRUPT", "memberID": 1}),
                200,
                "/alarms/0/alarm",
                json!("CORRUPT"),
            ),
            ("/v3/auth/user/grant", root(), 200, "/header/revision", json!("1")),
            ("/v3/auth/enable", json!({}), 200, "/header/revision", json!("1")),
            refused(
                "/v3/auth/authenticate",
                user("cert", "any"),
                500,
                "auth: authentication failed, password was given for no password user",
            ),
            // Older versions let users have longer passwords, of which bcrypt took the beginning.
            ("/v3/auth/authenticate", user("root", &long), 200, "/header/revision", json!("1")),
            // A stream that does not begin says so in its status.
            (
                "/v3/lease/keepalive",
                json!({"ID": 1}),
                400,
                "/error/message",
                json!("etcdserver: user name is empty"),
            ),
        ],
    )
    .await;
    listening.member.shutdown().await;
}
