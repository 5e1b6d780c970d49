//! Method, path and query to [`RequestInfo`]. Pure.
//!
//! Source: apiserver `endpoints/request/requestinfo.go`.

use http::Method;
use percent_encoding::percent_decode_str;

use crate::contract::RequestInfo;
use crate::registry::options::Query;

/// Parts of a namespace that are its subresources and not resources inside it.
const NAMESPACE_SUBRESOURCES: [&str; 2] = ["status", "finalize"];

/// A parsed request: what it asks for, and what follows the subresource (the path that `proxy` passes on).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    pub info: RequestInfo,
    /// Starts with a slash when there is anything after `proxy`.
    pub rest: String,
}

/// Reads one request line.
pub fn parse(method: &Method, path: &str, query: &Query) -> Parsed {
    let decoded: Vec<String> = path
        .split('/')
        .filter(|p| !p.is_empty())
        .map(|p| percent_decode_str(p).decode_utf8_lossy().into_owned())
        .collect();
    let mut parts: Vec<&str> = decoded.iter().map(String::as_str).collect();
    let mut info =
        RequestInfo { path: path.to_owned(), verb: method.as_str().to_lowercase(), ..Default::default() };
    let core = match parts.first() {
        Some(&"api") => true,
        Some(&"apis") => false,
        _ => return Parsed { info, rest: String::new() },
    };
    // `/api/v1/x` and `/apis/group/version/x` name resources, anything shorter is discovery.
    let head = if core { 2 } else { 3 };
    if parts.len() <= head {
        return Parsed { info, rest: String::new() };
    }
    info.is_resource = true;
    if !core {
        info.group = parts[1].to_owned();
    }
    info.version = parts[head - 1].to_owned();
    parts.drain(..head);
    info.verb = verb_of(method).to_owned();
    let forced_watch = parts.first() == Some(&"watch") && parts.len() > 1;
    if forced_watch {
        parts.remove(0);
    }
    take_namespace(&mut info, &mut parts);
    info.resource = parts.first().map_or(String::new(), |p| (*p).to_owned());
    info.name = parts.get(1).map_or(String::new(), |p| (*p).to_owned());
    info.subresource = parts.get(2).map_or(String::new(), |p| (*p).to_owned());
    let rest = match info.subresource.as_str() {
        "proxy" => after(path, decoded.len() + SEGMENTS_OF_SUBRESOURCE - parts.len()).to_owned(),
        _ => String::new(),
    };
    finish_verb(&mut info, query, forced_watch);
    Parsed { info, rest }
}

/// `resource/name/subresource`.
const SEGMENTS_OF_SUBRESOURCE: usize = 3;

fn verb_of(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::GET | Method::HEAD => "get",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    }
}

fn take_namespace(info: &mut RequestInfo, parts: &mut Vec<&str>) {
    if parts.first() != Some(&"namespaces") || parts.len() < 2 {
        return;
    }
    info.namespace = parts[1].to_owned();
    // Anything longer than `namespaces/x` names something inside, except the namespace's own subresources.
    if parts.len() > 2 && !NAMESPACE_SUBRESOURCES.contains(&parts[2]) {
        parts.drain(..2);
    }
}

/// What is left of an undecoded path after so many segments.
fn after(path: &str, segments: usize) -> &str {
    (0..segments).fold(path, |rest, _| {
        let rest = rest.trim_start_matches('/');
        rest.find('/').map_or("", |end| &rest[end..])
    })
}

fn finish_verb(info: &mut RequestInfo, query: &Query, forced_watch: bool) {
    let is_collection = info.name.is_empty();
    match info.verb.as_str() {
        "get" if forced_watch => info.verb = "watch".to_owned(),
        "get" if is_collection => {
            info.verb = if query.flag("watch") { "watch" } else { "list" }.to_owned();
        }
        "delete" if is_collection => info.verb = "deletecollection".to_owned(),
        _ => {}
    }
    if matches!(info.verb.as_str(), "list" | "watch" | "deletecollection") {
        info.field_selector = query.get("fieldSelector").unwrap_or_default().to_owned();
        info.label_selector = query.get("labelSelector").unwrap_or_default().to_owned();
        // A selector that fixes the name is authorized as a request for that name.
        if let Some(name) = selected_name(&info.field_selector).filter(|_| info.name.is_empty()) {
            info.name = name.to_owned();
        }
    }
}

/// The name that a field selector fixes.
pub fn selected_name(selector: &str) -> Option<&str> {
    let mut parts = selector.split(',').filter_map(|p| p.split_once('='));
    let (_, name) = parts.find(|(k, _)| *k == "metadata.name")?;
    Some(name.strip_prefix('=').unwrap_or(name)).filter(|n| !n.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// verb group/version namespace resource/name/subresource
    fn line(p: &Parsed) -> String {
        let i = &p.info;
        let text = format!(
            "{} {}/{} {} {}/{}/{} {}",
            i.verb, i.group, i.version, i.namespace, i.resource, i.name, i.subresource, p.rest
        );
        text.trim().to_owned()
    }

    #[track_caller]
    fn check(method: Method, target: &str, expected: &str) {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        assert_eq!(line(&parse(&method, path, &Query::parse(query))), expected, "{target}");
    }

    #[test]
    fn resources() {
        check(Method::GET, "/api/v1/pods", "list /v1  pods//");
        check(Method::GET, "/api/v1/pods?watch=1", "watch /v1  pods//");
        check(Method::GET, "/api/v1/namespaces/a/pods/b", "get /v1 a pods/b/");
        check(Method::PUT, "/api/v1/namespaces/a/pods/b/status", "update /v1 a pods/b/status");
        check(Method::GET, "/api/v1/namespaces/a", "get /v1 a namespaces/a/");
        check(Method::PUT, "/api/v1/namespaces/a/finalize", "update /v1 a namespaces/a/finalize");
        check(
            Method::DELETE,
            "/apis/apps/v1/namespaces/a/deployments",
            "deletecollection apps/v1 a deployments//",
        );
        check(Method::GET, "/api/v1/watch/pods", "watch /v1  pods//");
        check(Method::GET, "/api/v1/nodes?fieldSelector=metadata.name%3Dx", "list /v1  nodes/x/");
        check(
            Method::GET,
            "/api/v1/namespaces/a/services/https:b:1/proxy/x%2Fy/",
            "get /v1 a services/https:b:1/proxy /x%2Fy/",
        );
        // Namespace and name may look like the subresource.
        check(
            Method::GET,
            "/api/v1/namespaces/proxy/services/proxy-1:a/proxy/",
            "get /v1 proxy services/proxy-1:a/proxy /",
        );
        check(Method::GET, "/api/v1/nodes/proxy/proxy", "get /v1  nodes/proxy/proxy");
    }

    #[test]
    fn non_resources() {
        for path in ["/healthz", "/api", "/api/v1", "/apis/apps", "/apis/apps/v1", "/"] {
            let parsed = parse(&Method::GET, path, &Query::default());
            assert!(!parsed.info.is_resource, "{path}");
            assert_eq!(parsed.info.verb, "get");
        }
    }
}
