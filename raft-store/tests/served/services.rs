//! The services beside KV, watch and lease, as their own clients see them: range streams, locks, elections,
//! reflection, health, and the JSON gateway.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use futures::StreamExt;
use proto::{
    etcdserverpb::{LeaseGrantRequest, LeaseRevokeRequest, PutRequest, RangeRequest, kv_client::KvClient},
    v3electionpb::{
        CampaignRequest, LeaderRequest, ProclaimRequest, ResignRequest, election_client::ElectionClient,
    },
    v3lockpb::{LockRequest, UnlockRequest, lock_client::LockClient},
};
use serde_json::json;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use crate::listening::Listening;

fn range(key: &str, end: &str) -> RangeRequest {
    RangeRequest { key: key.to_owned().into(), range_end: end.to_owned().into(), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_stream_gives_what_a_range_gives_in_pieces() {
    let listening = Listening::start(|_| ()).await;
    let mut client = KvClient::new(listening.channel().await);
    for number in 0..2_500 {
        let put =
            PutRequest { key: format!("s/{number:04}").into(), value: "v".into(), ..Default::default() };
        listening.member.put(put).await.unwrap();
    }
    for limit in [0, 1, 1_000, 1_700, 2_500, 9_000] {
        let request = RangeRequest { limit, ..range("s/", "s0") };
        let whole = client.range(request.clone()).await.unwrap().into_inner();
        let mut pieces = client.range_stream(request).await.unwrap().into_inner();
        let (mut keys, mut last) = (Vec::new(), None);
        while let Some(piece) = pieces.message().await.unwrap() {
            let piece = piece.range_response.unwrap();
            keys.extend(piece.kvs.iter().map(|kv| kv.key.clone()));
            last = Some(piece);
        }
        let last = last.unwrap();
        assert_eq!(keys, whole.kvs.iter().map(|kv| kv.key.clone()).collect::<Vec<_>>(), "limit {limit}");
        assert_eq!((last.count, last.more), (whole.count, whole.more), "limit {limit}");
        assert_eq!(last.header.unwrap().revision, whole.header.unwrap().revision);
    }
    let sorted = RangeRequest { sort_order: 2, ..range("s/", "s0") };
    assert_eq!(client.range_stream(sorted).await.unwrap_err().code(), tonic::Code::Unimplemented);
    drop(client);
    listening.member.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_is_held_by_one_and_passes_on() {
    let listening = Listening::start(|_| ()).await;
    let channel = listening.channel().await;
    let mut client = LockClient::new(channel.clone());
    let request = || LockRequest { name: "door".into(), lease: 0 };
    let held = client.lock(request()).await.unwrap().into_inner();
    assert!(held.key.starts_with(b"door/"));
    let mut other = LockClient::new(channel);
    let waiting = tokio::spawn(async move { other.lock(request()).await.map(tonic::Response::into_inner) });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!waiting.is_finished(), "a taken lock is waited for");
    client.unlock(UnlockRequest { key: held.key.clone() }).await.unwrap();
    let next = tokio::time::timeout(Duration::from_secs(60), waiting).await.unwrap().unwrap().unwrap();
    assert_ne!(next.key, held.key);

    // A lease that ends while its holder waits takes the place along.
    let lease = listening.member.lease_grant(LeaseGrantRequest { ttl: 600, id: 0 }).await.unwrap().id;
    let mut late = LockClient::new(listening.channel().await);
    let waiting = tokio::spawn(async move { late.lock(LockRequest { name: "door".into(), lease }).await });
    let place = format!("door/{lease:x}");
    while listening.member.range(range(&place, "")).await.unwrap().count == 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    listening.member.lease_revoke(LeaseRevokeRequest { id: lease }).await.unwrap();
    client.unlock(UnlockRequest { key: next.key.clone() }).await.unwrap();
    let expired = tokio::time::timeout(Duration::from_secs(60), waiting).await.unwrap().unwrap();
    assert_eq!(expired.unwrap_err().message(), "mutex: session is expired");
    let next = client.lock(request()).await.unwrap().into_inner();

    // The same over the gateway: the second gives up, and leaves the line.
    let name = STANDARD.encode("door");
    let body = json!({ "name": name }).to_string();
    let give_up = listening.post("/v3/lock/lock", &body);
    assert!(tokio::time::timeout(Duration::from_millis(300), give_up).await.is_err());
    client.unlock(UnlockRequest { key: next.key }).await.unwrap();
    let (status, locked) = listening.post("/v3/lock/lock", &body).await;
    assert_eq!(status, 200, "{locked}");
    let (status, _) = listening.post("/v3/lock/unlock", &json!({ "key": locked["key"] }).to_string()).await;
    assert_eq!(status, 200);
    drop(client);
    listening.member.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_election_has_one_leader_whom_observers_see() {
    let listening = Listening::start(|_| ()).await;
    let channel = listening.channel().await;
    let mut client = ElectionClient::new(channel.clone());
    let who = || LeaderRequest { name: "boss".into() };
    let nobody = client.leader(who()).await.unwrap_err();
    assert_eq!(nobody.message(), "election: no leader");
    let mut observed = client.observe(who()).await.unwrap().into_inner();
    let campaign =
        |value: &'static str| CampaignRequest { name: "boss".into(), lease: 0, value: value.into() };
    let first = client.campaign(campaign("one")).await.unwrap().into_inner().leader.unwrap();
    let mut other = ElectionClient::new(channel);
    let second = tokio::spawn(async move { other.campaign(campaign("two")).await });
    let seen = observed.message().await.unwrap().unwrap().kv.unwrap();
    assert_eq!(seen.value, "one");
    let proclaim = ProclaimRequest { leader: Some(first.clone()), value: "uno".into() };
    client.proclaim(proclaim.clone()).await.unwrap();
    assert_eq!(observed.message().await.unwrap().unwrap().kv.unwrap().value, "uno");
    // However fast they come, an observer is told of each.
    for number in 0..200 {
        let value = number.to_string().into();
        client.proclaim(ProclaimRequest { leader: Some(first.clone()), value }).await.unwrap();
    }
    client.proclaim(proclaim.clone()).await.unwrap();
    for number in 0..200 {
        let seen = observed.message().await.unwrap().unwrap().kv.unwrap();
        assert_eq!(seen.value, number.to_string());
    }
    assert_eq!(observed.message().await.unwrap().unwrap().kv.unwrap().value, "uno");
    assert_eq!(client.leader(who()).await.unwrap().into_inner().kv.unwrap().value, "uno");
    client.resign(ResignRequest { leader: Some(first) }).await.unwrap();
    second.await.unwrap().unwrap();
    assert_eq!(observed.message().await.unwrap().unwrap().kv.unwrap().value, "two");
    assert_eq!(client.proclaim(proclaim).await.unwrap_err().message(), "election: not leader");

    let name = STANDARD.encode("committee");
    let body = json!({"name": name, "value": STANDARD.encode("chair")}).to_string();
    let (status, elected) = listening.post("/v3/election/campaign", &body).await;
    assert_eq!(status, 200, "{elected}");
    let (_, leader) = listening.post("/v3/election/leader", &json!({ "name": name }).to_string()).await;
    assert_eq!(leader["kv"]["value"], STANDARD.encode("chair"));
    let body = json!({"leader": elected["leader"], "value": STANDARD.encode("head")}).to_string();
    assert_eq!(listening.post("/v3/election/proclaim", &body).await.0, 200);
    let resigned = json!({"leader": elected["leader"]}).to_string();
    assert_eq!(listening.post("/v3/election/resign", &resigned).await.0, 200);
    let (_, gone) = listening.post("/v3/election/leader", &json!({ "name": name }).to_string()).await;
    assert_eq!(gone["message"], "election: no leader");
    drop((client, observed));
    listening.member.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_names_the_services_and_health_answers() {
    let listening = Listening::start(|_| ()).await;
    let channel = listening.channel().await;
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(channel.clone());
    let mut answers = client.server_reflection_info(futures::stream::iter([ask])).await.unwrap().into_inner();
    let Some(MessageResponse::ListServicesResponse(list)) =
        answers.next().await.unwrap().unwrap().message_response
    else {
        panic!("no list of services")
    };
    let names: Vec<String> = list.service.into_iter().map(|service| service.name).collect();
    for wanted in ["KV", "Watch", "Lease", "Cluster", "Maintenance", "Auth"] {
        assert!(names.contains(&format!("etcdserverpb.{wanted}")), "{wanted} in {names:?}");
    }
    assert!(!names.iter().any(|name| name.starts_with("runtime.v1")), "only what is served: {names:?}");
    let mut health = HealthClient::new(channel);
    let request = HealthCheckRequest { service: String::new() };
    assert_eq!(health.check(request).await.unwrap().into_inner().status, 1);
    drop((client, health, answers));
    listening.member.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_and_the_pages_answer_as_etcds() {
    let listening = Listening::start(|_| ()).await;
    let (key, value) = (STANDARD.encode("foo"), STANDARD.encode("bar"));
    let (status, put) = listening.post("/v3/kv/put", &json!({"key": key, "value": value}).to_string()).await;
    assert_eq!((status, &put["header"]["revision"]), (200, &json!("2")));
    let (_, got) = listening.post("/v3/kv/range", &json!({ "key": key }).to_string()).await;
    assert_eq!((&got["kvs"][0]["value"], &got["count"]), (&json!(value), &json!("1")));
    let (status, refused) = listening.post("/v3/kv/put", "{}").await;
    assert_eq!((status, &refused["message"]), (400, &json!("etcdserver: key is not provided")));
    let compact = json!({"revision": "99"}).to_string();
    let (_, refused) = listening.post("/v3/kv/compaction", &compact).await;
    assert_eq!(refused["message"], "etcdserver: mvcc: required revision is a future revision");
    assert_eq!(listening.get("/health").await, (200, r#"{"health":"true","reason":""}"#.to_owned()));
    for page in ["/livez", "/readyz"] {
        assert_eq!(listening.get(page).await, (200, "ok\n".to_owned()), "{page}");
    }
    let (_, version) = listening.get("/version").await;
    assert!(version.contains("etcdserver") && version.contains("etcdcluster"), "{version}");
    let (_, metrics) = listening.get("/metrics").await;
    for name in ["etcd_server_has_leader 1", "etcd_mvcc_db_total_size_in_bytes", "grpc_server_handled_total"]
    {
        assert!(metrics.contains(name), "{name} is missing");
    }
    listening.member.shutdown().await;
}
