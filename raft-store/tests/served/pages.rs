//! Health as supervisors ask for it, and ports that serve only a part.

use proto::etcdserverpb::{
    AlarmRequest, AlarmType, HashRequest, PutRequest, RangeRequest, alarm_request::AlarmAction,
    kv_client::KvClient, maintenance_client::MaintenanceClient,
};
use serde_json::json;
use tonic::Request;

use crate::{listening::Listening, ports::free_port};

async fn set_alarm(listening: &Listening, alarm: AlarmType, action: AlarmAction) {
    let request =
        AlarmRequest { action: action as i32, member_id: listening.member.id(), alarm: alarm as i32 };
    MaintenanceClient::new(listening.channel().await).alarm(request).await.unwrap();
}

fn unwell(reason: &str) -> (u16, String) {
    (503, json!({"health": "false", "reason": reason}).to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn health_says_what_is_wrong() {
    let listening = Listening::start(|_| ()).await;
    let well = || (200, r#"{"health":"true","reason":""}"#.to_owned());
    let ok = || (200, "ok\n".to_owned());
    let put = || PutRequest { key: "a".into(), ..Default::default() };

    set_alarm(&listening, AlarmType::Nospace, AlarmAction::Activate).await;
    assert_eq!(listening.get("/health").await, unwell("ALARM NOSPACE"));
    assert_eq!(listening.get("/health?exclude=NOSPACE").await, well());
    assert_eq!(listening.get("/readyz").await, ok(), "reads go on");
    let refused = listening.member.put(put()).await.unwrap_err();
    assert_eq!(refused.text(), "etcdserver: mvcc: database space exceeded");
    set_alarm(&listening, AlarmType::Nospace, AlarmAction::Deactivate).await;
    assert_eq!(listening.get("/health").await, well());

    set_alarm(&listening, AlarmType::Corrupt, AlarmAction::Activate).await;
    assert_eq!(listening.get("/health").await, unwell("ALARM CORRUPT"));
    let (status, said) = listening.get("/readyz").await;
    assert_eq!(status, 503);
    assert!(said.starts_with("[-]data_corruption failed: alarm activated: CORRUPT\n"), "{said}");
    assert!(said.contains("[+]linearizable_read ok\n"), "{said}");
    assert_eq!(listening.get("/readyz/data_corruption?exclude=data_corruption").await.0, 503);
    assert_eq!(listening.get("/readyz?exclude=data_corruption").await, ok());
    assert_eq!(listening.get("/readyz/non_learner").await, ok());
    assert_eq!(listening.get("/livez").await, ok());
    assert_eq!(listening.get("/livez?verbose").await, (200, "[+]serializable_read ok\nok\n".to_owned()));
    assert_eq!(listening.get("/livez/linearizable_read").await.0, 404);
    assert_eq!(listening.post("/readyz", "").await.0, 405);
    assert_eq!(listening.member.put(put()).await.unwrap_err().text(), "etcdserver: corrupt cluster");
    let (_, metrics) = listening.get("/metrics").await;
    for line in [
        r#"etcd_server_healthcheck{name="linearizable_read",type="readyz"} 1"#,
        r#"etcd_server_healthchecks_total{name="data_corruption",status="error",type="readyz"}"#,
    ] {
        assert!(metrics.contains(line), "{line} is missing");
    }
    listening.member.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_and_plain_http_may_have_ports_of_their_own() {
    let [metrics_url, http_url] = [(); 2].map(|()| format!("http://127.0.0.1:{}", free_port()));
    let listening = Listening::start(|config| {
        config.listen_metrics_urls = vec![metrics_url.clone()];
        config.listen_client_http_urls = vec![http_url.clone()];
    })
    .await;
    for (url, path, status) in [
        (&metrics_url, "/metrics", 200),
        (&metrics_url, "/health", 200),
        (&metrics_url, "/v3/kv/put", 404),
        (&http_url, "/version", 200),
        (&http_url, "/health", 200),
        (&listening.url, "/version", 404),
        (&listening.url, "/health", 404),
    ] {
        assert_eq!(Listening::get_at(url, path).await.0, status, "{path} at {url}");
    }
    // The client URL still speaks gRPC; the other one does not.
    MaintenanceClient::new(listening.channel().await)
        .status(proto::etcdserverpb::StatusRequest {})
        .await
        .unwrap();
    let channel = tonic::transport::Endpoint::from_shared(http_url).unwrap().connect().await.unwrap();
    let refused = MaintenanceClient::new(channel).status(proto::etcdserverpb::StatusRequest {}).await;
    assert_eq!(refused.unwrap_err().code(), tonic::Code::Unimplemented);
    listening.member.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_counted_under_etcds_names() {
    let listening = Listening::start(|_| ()).await;
    let mut kv = KvClient::new(listening.channel().await);
    let range = RangeRequest { key: "a".into(), ..Default::default() };
    for version in ["3.98", "anything at all"] {
        let mut request = Request::new(range.clone());
        request.metadata_mut().insert("client-api-version", version.parse().unwrap());
        kv.range(request).await.unwrap();
    }
    kv.range(RangeRequest { revision: 99, ..range }).await.unwrap_err();
    MaintenanceClient::new(listening.channel().await).hash(HashRequest {}).await.unwrap();
    let (_, metrics) = listening.get("/metrics").await;
    let version = r#"etcd_server_client_requests_total{client_api_version="3.98",type="unary"} 1"#;
    assert!(metrics.lines().any(|line| line == version), "{metrics}");
    assert!(!metrics.contains("anything at all"));
    // Other tests of this process count, too.
    for name in [
        r#"etcd_server_range_duration_seconds_count{success="true"}"#,
        r#"etcd_server_range_duration_seconds_count{success="false"}"#,
        "etcd_mvcc_hash_duration_seconds_count",
    ] {
        let count = metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
        assert!(count.is_some_and(|count| count > 0), "{name}: {count:?}");
    }
    listening.member.shutdown().await;
}
