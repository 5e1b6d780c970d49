//! Request lines, queries, headers, options, and what kubelets tell about resources.

use apiserver::http::negotiate::{self, Offer};
use apiserver::http::{request_info, watch::WatchOptions};
use apiserver::metrics_api;
use apiserver::registry::options::{DeleteOptions, Query, WriteOptions};
use apiserver::registry::read::{self, ListOptions};

use super::texts;

pub fn examples() -> Vec<Vec<u8>> {
    texts(&[
        "/api/v1/namespaces/a/pods/b/proxy/c%2fd?watch=true&limit=5&continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MX0",
        "/apis/apps/v1/watch/namespaces/x/deployments?fieldSelector=metadata.name%3Da,b!=c&labelSelector=a+in+(b)&timeoutSeconds=9",
        "/api/v1/pods?resourceVersion=5&resourceVersionMatch=Exact&sendInitialEvents=true&allowWatchBookmarks=1",
        "application/json;as=Table;v=v1;g=meta.k8s.io,application/vnd.kubernetes.protobuf;q=0.5,*/*",
        r#"{"gracePeriodSeconds":5,"preconditions":{"uid":"u"},"propagationPolicy":"Orphan","dryRun":["All"]}"#,
        "?dryRun=All&fieldValidation=Strict&fieldManager=m&force=true&propagationPolicy=Background",
    ])
}

/// The same text as request line, header, options and continue token.
pub fn request(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (path, query) = text.split_once('?').unwrap_or((&text, ""));
    let query = Query::parse(query);
    for method in [http::Method::GET, http::Method::DELETE, http::Method::PATCH, http::Method::POST] {
        request_info::parse(&method, path, &query);
    }
    let _ = request_info::selected_name(&text);
    let _ = ListOptions::from_query(&query);
    let _ = WatchOptions::from_query(&query);
    let _ = WriteOptions::from_query(&query, &text, "PatchOptions");
    let _ = DeleteOptions::parse(&query, serde_json::from_str(&text).ok().as_ref());
    let _ = negotiate::form(Some(&text), Offer { protobuf: true, transforms: true, yaml: true });
    let _ = negotiate::body_format(Some(&text), true);
    let _ = read::Token::decode(query.get("continue").unwrap_or(&text));
}

pub fn scrape_examples() -> Vec<Vec<u8>> {
    texts(&[
        "# HELP a b\nnode_cpu_usage_seconds_total 1.5 1700000000000\ncontainer_memory_working_set_bytes{container=\"c\",namespace=\"n\",pod=\"p\"} 5e6 1700000000000\n",
    ])
}

/// A page of a kubelet's resource metrics.
pub fn scrape(bytes: &[u8]) {
    metrics_api::parse::parse(&String::from_utf8_lossy(bytes));
}
