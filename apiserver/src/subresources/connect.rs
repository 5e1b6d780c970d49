//! Which server answers log, exec, attach, port-forward and proxy requests, and under which path.

use std::sync::Arc;

use http::Response;
use machinery::status::StatusError;
use serde_json::{Value, json};

use super::endpoints::{self, Endpoint};
use super::kubelet::Destination;
use super::{streams, tunnel};
use crate::contract::{Admission, Operation};
use crate::http::Api;
use crate::http::body::Body;
use crate::http::chain::RoutedRequest;
use crate::registry::kind::Kind;
use crate::registry::meta;
use crate::registry::options::Query;
use crate::registry::update::{Target, served};
use crate::table::cells::{int, list, text};

/// Where kubelets listen when the node does not say.
const KUBELET_PORT: u16 = 10250;

/// A name in a proxy path: `[scheme:]name[:port]`.
#[derive(Debug, PartialEq, Eq)]
struct ProxyName<'a> {
    tls: bool,
    name: &'a str,
    port: &'a str,
}

fn proxy_name(text: &str) -> Result<ProxyName<'_>, StatusError> {
    let parts: Vec<&str> = text.split(':').collect();
    let (scheme, name, port) = match parts[..] {
        [name] => ("", name, ""),
        [name, port] => ("", name, port),
        [scheme, name, port] => (scheme, name, port),
        _ => return Err(StatusError::bad_request(format!("invalid proxy target {text:?}"))),
    };
    match scheme {
        "" | "http" | "https" => Ok(ProxyName { tls: scheme == "https", name, port }),
        _ => Err(StatusError::bad_request(format!("invalid scheme in {text:?}"))),
    }
}

fn port_number(text: &str, default: u16) -> Result<u16, StatusError> {
    if text.is_empty() {
        return Ok(default);
    }
    text.parse().map_err(|_| StatusError::bad_request(format!("invalid port {text:?}")))
}

/// The container that a request means, checked against the pod.
fn container<'a>(pod: &'a Value, query: &'a Query) -> Result<&'a str, StatusError> {
    let all = || {
        ["containers", "initContainers", "ephemeralContainers"]
            .into_iter()
            .flat_map(|f| list(&pod["spec"], f))
    };
    let pod_name = meta::name(pod);
    if let Some(wanted) = query.get("container") {
        if all().any(|c| c["name"] == wanted) {
            return Ok(wanted);
        }
        return Err(StatusError::bad_request(format!("container {wanted} is not valid for pod {pod_name}")));
    }
    let containers = list(&pod["spec"], "containers");
    if let [only] = containers
        && list(&pod["spec"], "initContainers").is_empty()
        && list(&pod["spec"], "ephemeralContainers").is_empty()
    {
        return Ok(text(only, "name"));
    }
    let names =
        |field: &str| list(&pod["spec"], field).iter().map(|c| text(c, "name")).collect::<Vec<_>>().join(" ");
    let (main, init) = (names("containers"), names("initContainers"));
    let mut message =
        format!("a container name must be specified for pod {pod_name}, choose one of: [{main}]");
    if !init.is_empty() {
        message.push_str(&format!(" or one of the init containers: [{init}]"));
    }
    Err(StatusError::bad_request(message))
}

/// Parameters of the client that the kubelet understands too.
fn pass_query(query: &Query, names: &[&str]) -> String {
    let mut out = url::form_urlencoded::Serializer::new(String::new());
    for name in names {
        for value in query.all(name) {
            let value = match value.as_str() {
                "true" if matches!(*name, "stdin" | "stdout" | "stderr" | "tty") => "1",
                other => other,
            };
            let name = match *name {
                "stdin" => "input",
                "stdout" => "output",
                "stderr" => "error",
                other => other,
            };
            out.append_pair(name, value);
        }
    }
    out.finish()
}

/// Path and query on the kubelet.
fn kubelet_path(subresource: &str, pod: &Value, query: &Query) -> Result<String, StatusError> {
    let (namespace, name) = (meta::namespace(pod), meta::name(pod));
    let with = |path: String, query: String| if query.is_empty() { path } else { format!("{path}?{query}") };
    Ok(match subresource {
        "log" => {
            let container = container(pod, query)?;
            let names = [
                "follow",
                "previous",
                "sinceSeconds",
                "sinceTime",
                "timestamps",
                "tailLines",
                "limitBytes",
                "stream",
            ];
            with(format!("/containerLogs/{namespace}/{name}/{container}"), pass_query(query, &names))
        }
        "portforward" => {
            let uid = meta::text(pod, "uid");
            let names = ["ports", "port"];
            with(format!("/portForward/{namespace}/{name}/{uid}"), pass_query(query, &names))
        }
        verb => {
            let container = container(pod, query)?;
            let uid = meta::text(pod, "uid");
            let names = ["stdin", "stdout", "stderr", "tty", "command"];
            with(format!("/{verb}/{namespace}/{name}/{uid}/{container}"), pass_query(query, &names))
        }
    })
}

impl Api {
    /// Answers a request by passing it on.
    pub async fn connect(
        &self,
        kind: Arc<Kind>,
        incoming: RoutedRequest,
    ) -> Result<Response<Body>, StatusError> {
        let info = &incoming.ctx.info;
        self.admit_connect(&kind, &incoming).await?;
        let rest = incoming.parsed.rest.clone();
        if info.subresource == "proxy" && rest.is_empty() && reads(&incoming.request) {
            return Ok(with_slash(&incoming.request));
        }
        let query = incoming.request.uri().query().map_or(String::new(), |q| format!("?{q}"));
        let rest = format!("{}{query}", if rest.is_empty() { "/" } else { &rest });
        let (to, path) = match (info.resource.as_str(), info.subresource.as_str()) {
            ("nodes", _) => self.node_proxy(&info.name, &rest).await?,
            ("services", _) => (self.service_destination(&info.namespace, &info.name).await?, rest),
            (_, "proxy") => (self.pod_destination(&info.namespace, &info.name).await?, rest),
            (_, subresource) => {
                let pod = self.object("pods", &info.namespace, &info.name).await?;
                let node = text(&pod, "spec.nodeName");
                if node.is_empty() {
                    if subresource == "log" {
                        return Ok(crate::http::routes::code_only(http::StatusCode::NO_CONTENT));
                    }
                    return Err(StatusError::bad_request(format!(
                        "pod {} does not have a host assigned",
                        info.name
                    )));
                }
                let path = kubelet_path(subresource, &pod, &incoming.query)?;
                (self.kubelet_destination(node).await?, path)
            }
        };
        let kubelet = &self.subresources.kubelet;
        if let Some(translation) = streams::wanted(&info.subresource, incoming.request.headers()) {
            return streams::translate(kubelet, &to, incoming.request, &path, translation).await;
        }
        tunnel::pass(kubelet, &to, incoming.request, &path).await
    }

    async fn admit_connect(&self, kind: &Kind, incoming: &RoutedRequest) -> Result<(), StatusError> {
        let name = format!("Pod{}Options", incoming.ctx.info.subresource);
        let options = json!({"kind": name, "apiVersion": "v1"});
        let mut request = Admission {
            ctx: &incoming.ctx,
            operation: Operation::Connect,
            kind: &kind.kind,
            object: None,
            old: None,
            options: &options,
        };
        let chain = self.registry.admission();
        chain.mutate(&mut request).await?;
        chain.validate(&request).await
    }

    async fn object(&self, resource: &str, namespace: &str, name: &str) -> Result<Value, StatusError> {
        let found = self.registry.catalog.snapshot().find("", "v1", resource).cloned();
        let kind = found.ok_or_else(StatusError::not_found_path)?;
        let target = Target { namespace, name, subresource: "" };
        Ok(served(&kind, &*self.registry.get(&kind, target, "").await?))
    }

    /// Where a node's kubelet listens.
    pub(crate) async fn kubelet_destination(&self, node: &str) -> Result<Destination, StatusError> {
        let node = self.object("nodes", "", node).await?;
        let addresses = list(&node, "status.addresses");
        let preferred = self.subresources.kubelet.address_types();
        let found = preferred.iter().find_map(|t| addresses.iter().find(|a| a["type"] == *t));
        let none = || {
            StatusError::internal(format!(
                "no preferred addresses found; known addresses: {}",
                Value::from(addresses)
            ))
        };
        let host = text(found.ok_or_else(none)?, "address").to_owned();
        let port =
            u16::try_from(int(&node, "status.daemonEndpoints.kubeletEndpoint.Port")).ok().filter(|p| *p != 0);
        Ok(Destination { host, port: port.unwrap_or(KUBELET_PORT), tls: true, is_kubelet: true })
    }

    async fn node_proxy(&self, name: &str, rest: &str) -> Result<(Destination, String), StatusError> {
        let wanted = proxy_name(name)?;
        let mut to = self.kubelet_destination(wanted.name).await?;
        if !wanted.port.is_empty() {
            let port = port_number(wanted.port, to.port)?;
            to = Destination { is_kubelet: port == to.port, tls: wanted.tls || port == to.port, port, ..to };
        }
        Ok((to, rest.to_owned()))
    }

    async fn pod_destination(&self, namespace: &str, name: &str) -> Result<Destination, StatusError> {
        let wanted = proxy_name(name)?;
        let pod = self.object("pods", namespace, wanted.name).await?;
        let host = endpoints::address_of(&pod).to_owned();
        if !endpoints::is_global_unicast(&host) {
            return Err(StatusError::bad_request("address not allowed"));
        }
        let first = list(&pod["spec"], "containers").iter().flat_map(|c| list(c, "ports")).next();
        let first = first.and_then(|p| u16::try_from(int(p, "containerPort")).ok()).unwrap_or(80);
        Ok(Destination { host, port: port_number(wanted.port, first)?, tls: wanted.tls, is_kubelet: false })
    }

    /// A ready endpoint behind the service's port, by chance.
    async fn service_destination(&self, namespace: &str, name: &str) -> Result<Destination, StatusError> {
        let wanted = proxy_name(name)?;
        let service = self.object("services", namespace, wanted.name).await?;
        let port_name = match endpoints::port_name(&service, wanted.port) {
            Some(name) => name,
            None if wanted.port.parse::<i64>().is_ok() => {
                return Err(StatusError::service_unavailable(format!(
                    "no service port {} found for service {:?}",
                    wanted.port, wanted.name
                )));
            }
            None => wanted.port,
        };
        let slices = self.cluster.list_current("discovery.k8s.io", "endpointslices", namespace).await?;
        let mut found = endpoints::behind(&slices, namespace, wanted.name, port_name);
        while !found.is_empty() {
            let chosen = found.swap_remove(usize::from(rand::random::<u16>()) % found.len());
            let pod = self.cluster.find("", "pods", namespace, &chosen.pod).await?;
            if pod.is_some_and(|pod| endpoints::is_at(&pod, &chosen.host)) {
                let Endpoint { host, port, .. } = chosen;
                return Ok(Destination { host, port, tls: wanted.tls, is_kubelet: false });
            }
        }
        Err(StatusError::service_unavailable(format!("no endpoints available for service {name:?}")))
    }
}

fn reads(request: &http::Request<hyper::body::Incoming>) -> bool {
    let plain = matches!(*request.method(), http::Method::GET | http::Method::HEAD);
    plain && !tunnel::is_upgrade(request.headers())
}

/// Relative links of a page only work below a path that ends in a slash, so the client is sent there.
fn with_slash(request: &http::Request<hyper::body::Incoming>) -> Response<Body> {
    let query = request.uri().query().map_or(String::new(), |q| format!("?{q}"));
    let mut response = crate::http::routes::code_only(http::StatusCode::MOVED_PERMANENTLY);
    if let Ok(place) = http::HeaderValue::from_str(&format!("{}/{query}", request.uri().path())) {
        response.headers_mut().insert(http::header::LOCATION, place);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxy_names() {
        let check = |text: &str| proxy_name(text).ok().map(|p| (p.tls, p.name.to_owned(), p.port.to_owned()));
        assert_eq!(check("a"), Some((false, "a".into(), String::new())));
        assert_eq!(check("https:a:443"), Some((true, "a".into(), "443".into())));
        assert_eq!(check("ftp:a:21"), None);
    }

    #[test]
    fn kubelet_paths() {
        let pod =
            json!({"metadata":{"name":"p","namespace":"n","uid":"u"},"spec":{"containers":[{"name":"c"}]}});
        let query = Query::parse("command=ls&command=-l&stdin=true&stdout=true");
        let path = kubelet_path("exec", &pod, &query).expect("path");
        assert_eq!(path, "/exec/n/p/u/c?input=1&output=1&command=ls&command=-l");
        let path = kubelet_path("log", &pod, &Query::parse("follow=true&tailLines=5")).expect("path");
        assert_eq!(path, "/containerLogs/n/p/c?follow=true&tailLines=5");
        let two = json!({"metadata":{"name":"p"},"spec":{"containers":[{"name":"a"},{"name":"b"}]}});
        let error = kubelet_path("log", &two, &Query::default()).expect_err("ambiguous");
        assert_eq!(error.message(), "a container name must be specified for pod p, choose one of: [a b]");
    }
}
