//! What browsers may do over plain HTTP: from which origins, and under which host names.

use ::http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use tonic::body::Body;

use super::http::text;

/// Stands for any name.
const ANY: &str = "*";

/// The lists of `--cors` and `--host-whitelist`.
#[derive(Debug)]
pub struct Access {
    origins: Vec<String>,
    hosts: Vec<String>,
}

fn allows(list: &[String], name: &str) -> bool {
    list.is_empty() || list.iter().any(|allowed| allowed == ANY || allowed == name)
}

fn without_port(host: &str) -> &str {
    match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    }
}

impl Access {
    /// Over these lists.
    pub fn new(origins: &[String], hosts: &[String]) -> Self {
        Self { origins: origins.to_vec(), hosts: hosts.to_vec() }
    }

    /// What is answered to a request instead of what it asks for; nothing when it may go on.
    pub fn answer<B>(&self, request: &Request<B>, is_tls: bool) -> Option<Response<Body>> {
        let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
        let host = host.or_else(|| request.uri().host()).map(without_port).unwrap_or_default();
        // A page that lets its own name point to this member (CVE-2018-5702) comes without TLS and under that name.
        if !is_tls && !allows(&self.hosts, host) {
            tracing::warn!(host, "rejected an HTTP request to prevent DNS rebinding attacks");
            let body = format!(
                "etcd received your request, but the Host header was not recognized.\n\nTo fix this, enable TLS, or \
                 add the hostname you want to use to the whitelist: --host-whitelist {host}\n"
            );
            return Some(text(StatusCode::MISDIRECTED_REQUEST, "text/plain; charset=utf-8", body));
        }
        (request.method() == Method::OPTIONS)
            .then(|| text(StatusCode::OK, "text/plain; charset=utf-8", String::new()))
    }

    /// Tells a browser that pages of this origin may read the answer, when they may.
    pub fn allow_origin(&self, origin: Option<&HeaderValue>, response: &mut Response<Body>) {
        let any = allows(&self.origins, ANY);
        let named = origin.filter(|origin| origin.to_str().is_ok_and(|origin| allows(&self.origins, origin)));
        let allowed = if any { Some(HeaderValue::from_static(ANY)) } else { named.cloned() };
        if let Some(allowed) = allowed {
            add_headers(response.headers_mut(), allowed);
        }
    }
}

fn add_headers(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    let methods = HeaderValue::from_static("POST, GET, OPTIONS, PUT, DELETE");
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
    let fields = HeaderValue::from_static("accept, content-type, authorization");
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, fields);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn only_known_hosts_are_served_without_tls() {
        let cases: [(&[&str], &str, bool, bool); 6] = [
            (&[], "evil.example:2379", false, true),
            (&["*"], "evil.example", false, true),
            (&["store.example"], "store.example:2379", false, true),
            (&["store.example"], "evil.example:2379", false, false),
            (&["store.example"], "evil.example:2379", true, true),
            (&["::1"], "[::1]:2379", false, true),
        ];
        for (hosts, host, is_tls, served) in cases {
            let request = Request::get("/version").header(header::HOST, host).body(()).unwrap();
            let answer = Access::new(&[], &list(hosts)).answer(&request, is_tls);
            let refused = answer.map(|answer| answer.status());
            assert_eq!(refused.is_none(), served, "{hosts:?} {host}");
            assert!(refused.is_none_or(|status| status == StatusCode::MISDIRECTED_REQUEST));
        }
    }

    #[test]
    fn pages_of_allowed_origins_may_read_answers() {
        let cases: [(&[&str], Option<&str>, Option<&str>); 4] = [
            (&[], Some("http://a.example"), Some("*")),
            (&["*"], None, Some("*")),
            (&["http://a.example"], Some("http://a.example"), Some("http://a.example")),
            (&["http://a.example"], Some("http://b.example"), None),
        ];
        for (origins, origin, expected) in cases {
            let origin = origin.map(|origin| HeaderValue::from_str(origin).unwrap());
            let mut response = text(StatusCode::OK, "text/plain", String::new());
            Access::new(&list(origins), &[]).allow_origin(origin.as_ref(), &mut response);
            let found = response.headers().get(header::ACCESS_CONTROL_ALLOW_ORIGIN);
            assert_eq!(found.map(|found| found.to_str().unwrap()), expected, "{origins:?}");
        }
    }
}
