//! HTTP extenders end to end: a real server on loopback filters, scores and binds; the API is a function.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use scheduler::config::Settings;
use scheduler::core::commands::{Command, Extenders, PodRef};
use scheduler::core::intake::Intake;
use scheduler::core::queue::Backoff;
use scheduler::core::scheduler::Scheduler;
use scheduler::shell::api::Api;
use scheduler::shell::extender::HttpExtenders;
use scheduler::shell::kinds::Kind;
use scheduler::shell::wire;
use serde_json::{Value, json};

type Calls = Arc<Mutex<Vec<(String, Value)>>>;

/// Answers by path and remembers what it was asked.
async fn answer(
    request: Request<Incoming>,
    calls: Calls,
) -> Result<Response<Full<bytes::Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.expect("a body").to_bytes();
    let asked: Value = serde_json::from_slice(&body).expect("JSON");
    let said = match path.as_str() {
        "/filter" => json!({"nodenames": ["b", "c"], "failedNodes": {"a": "extender says no"}}),
        "/filter-none" => json!({"nodenames": [], "failedNodes": {"a": "no", "b": "no"},
            "failedAndUnresolvableNodes": {"c": "never"}}),
        "/prioritize" => json!([{"host": "b", "score": 1}, {"host": "c", "score": 9}]),
        "/bind" => json!({}),
        "/broken" => json!({"error": "out of order"}),
        "/scores" => json!([{"host": "b", "score": i64::MAX}, {"host": "c", "score": i64::MIN}]),
        _ => Value::Null,
    };
    calls.lock().expect("not poisoned").push((path, asked));
    Ok(Response::new(Full::new(said.to_string().into())))
}

/// A server on a free port; its address and what it has been asked.
async fn serve() -> (String, Calls) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let calls: Calls = Calls::default();
    let remembered = calls.clone();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let calls = remembered.clone();
            let service = hyper::service::service_fn(move |request| answer(request, calls.clone()));
            tokio::spawn(
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service),
            );
        }
    });
    (format!("http://{address}"), calls)
}

/// An API that knows every pod; those named `gpu` ask for one.
fn client() -> kube::Client {
    let service = tower::service_fn(|request: Request<kube::client::Body>| async move {
        let limits = match request.uri().path().ends_with("/gpu") {
            true => json!({"example.com/gpu": "1"}),
            false => json!({"cpu": "1"}),
        };
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "ns"},
            "spec": {"containers": [{"name": "c", "resources": {"limits": limits}}]}});
        Ok::<_, Infallible>(Response::new(kube::client::Body::from(pod.to_string().into_bytes())))
    });
    kube::Client::new(service, "default")
}

fn extenders(url: &str, more: &str) -> Arc<HttpExtenders> {
    let text = format!(
        "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\nextenders:\n- urlPrefix: {url}\n  \
         nodeCacheCapable: true\n  httpTimeout: 2s\n{more}"
    );
    let settings = Settings::parse(&text).expect("a configuration");
    Arc::new(HttpExtenders::new(settings.file.extenders, Api::new(client())).expect("extenders"))
}

/// Three equal nodes and one pod.
fn core(extenders: Arc<HttpExtenders>) -> Scheduler {
    let settings = Settings::defaults();
    let mut core = Scheduler::new(settings.profiles, Backoff::default(), 1);
    core.set_extenders(Box::new(extenders));
    for name in ["a", "b", "c"] {
        let node = json!({"metadata": {"name": name}, "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "9"}}});
        let node: wire::Node = serde_json::from_value(node).expect("a node");
        core.apply(node.present(), 0);
    }
    let pod = json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": {"containers": [{}]}});
    let pod: wire::Pod = serde_json::from_value(pod).expect("a pod");
    core.apply(pod.present(), 0);
    core
}

fn only(commands: &[Command]) -> String {
    match commands {
        [Command::Bind { node, .. }] => format!("bound to {node}"),
        [Command::Report { reason, message, .. }, ..] => format!("{reason}: {message}"),
        other => format!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn extenders_filter_and_score() {
    let (url, calls) = serve().await;
    let more = "  filterVerb: filter\n  prioritizeVerb: prioritize\n  weight: 1\n";
    let mut core = core(extenders(&url, more));
    let commands = core.schedule_one(0).expect("a pod waits");
    assert_eq!(only(&commands), "bound to c");
    let calls = calls.lock().expect("not poisoned");
    let asked: Vec<(&str, &Value)> =
        calls.iter().map(|(path, body)| (path.as_str(), &body["nodenames"])).collect();
    assert_eq!(asked, [("/filter", &json!(["a", "b", "c"])), ("/prioritize", &json!(["b", "c"]))]);
    assert_eq!(calls[0].1["pod"]["metadata"]["name"], "p");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_the_extender_refuses_everywhere_is_unschedulable() {
    let (url, _) = serve().await;
    let mut core = core(extenders(&url, "  filterVerb: filter-none\n"));
    let said = only(&core.schedule_one(0).expect("a pod waits"));
    assert!(said.starts_with("Unschedulable: 0/3 nodes are available: 1 never, 2 no."), "{said}");
    core.apply(Intake::NodeDeleted { name: "a".into() }, 0);
    assert_eq!(core.queue.pending().unschedulable, 0, "any event may help where an extender refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_stop_the_attempt_unless_they_are_ignorable() {
    let (url, _) = serve().await;
    let mut strict = core(extenders(&url, "  filterVerb: broken\n"));
    assert_eq!(only(&strict.schedule_one(0).expect("a pod waits")), "SchedulerError: out of order");
    let mut lenient = core(extenders(&url, "  filterVerb: broken\n  ignorable: true\n"));
    assert!(only(&lenient.schedule_one(0).expect("a pod waits")).starts_with("bound to"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binder_binds() {
    let (url, calls) = serve().await;
    let extenders = extenders(&url, "  bindVerb: bind\n");
    let pod = PodRef { uid: "u".into(), namespace: "ns".into(), name: "p".into(), generation: 0 };
    assert_eq!(extenders.bind(&pod, "b").await, Ok(true));
    let expected = json!({"PodName": "p", "PodNamespace": "ns", "PodUID": "u", "Node": "b"});
    assert_eq!(calls.lock().expect("not poisoned")[0], ("/bind".to_owned(), expected));
}

#[tokio::test(flavor = "multi_thread")]
async fn extenders_see_only_pods_with_their_resources() {
    let (url, _) = serve().await;
    let managed = "  filterVerb: filter\n  managedResources: [{name: example.com/gpu}]\n";
    let extenders = extenders(&url, managed);
    let input = |requests: Value| {
        let pod = json!({"metadata": {"uid": "u"}, "spec": {"containers": [{"resources": {"requests": requests}}]}});
        let pod: wire::Pod = serde_json::from_value(pod).expect("a pod");
        scheduler::shell::convert::pod(&pod).expect("a waiting pod")
    };
    assert!(!Extenders::interested(&extenders, &input(json!({"cpu": "1"}))));
    assert!(Extenders::interested(&extenders, &input(json!({"example.com/gpu": "1"}))));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_extender_is_asked_about_the_pods_of_its_resources_alone() {
    let (url, calls) = serve().await;
    // The first wants every pod; the second would refuse and bind, but only those with its resource.
    let more = format!(
        "  filterVerb: filter\n- urlPrefix: {url}\n  nodeCacheCapable: true\n  filterVerb: filter-none\n  \
         prioritizeVerb: prioritize\n  weight: 1\n  bindVerb: bind\n  managedResources: [{{name: example.com/gpu}}]\n"
    );
    let extenders = extenders(&url, &more);
    for (name, asked, bound) in
        [("plain", &["/filter"][..], false), ("gpu", &["/filter", "/filter-none", "/bind"], true)]
    {
        let pod = PodRef { uid: "u".into(), namespace: "ns".into(), name: name.into(), generation: 0 };
        calls.lock().expect("not poisoned").clear();
        let names = ["a", "b", "c"].map(Into::into);
        let left = Extenders::rate(&mut extenders.clone(), &pod, &names).expect("an answer").nodes.len();
        assert_eq!(left, if bound { 0 } else { 2 }, "{name}");
        assert_eq!(extenders.bind(&pod, "b").await, Ok(bound), "{name}");
        let calls = calls.lock().expect("not poisoned");
        let paths: Vec<&str> = calls.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(paths, asked, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binder_that_may_be_ignored_leaves_the_binding_to_the_scheduler() {
    let (url, _) = serve().await;
    let pod = PodRef { uid: "u".into(), namespace: "ns".into(), name: "p".into(), generation: 0 };
    let strict = extenders(&url, "  bindVerb: broken\n");
    assert_eq!(strict.bind(&pod, "b").await, Err("out of order".to_owned()));
    let lenient = extenders(&url, "  bindVerb: broken\n  ignorable: true\n");
    assert_eq!(lenient.bind(&pod, "b").await, Ok(false));
}

#[tokio::test(flavor = "multi_thread")]
async fn scores_beyond_all_bounds_still_rank() {
    let (url, _) = serve().await;
    let more = format!("  filterVerb: filter\n  prioritizeVerb: scores\n  weight: {}\n", i64::MAX);
    let mut core = core(extenders(&url, &more));
    assert_eq!(only(&core.schedule_one(0).expect("a pod waits")), "bound to b");
}
