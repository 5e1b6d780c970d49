//! `rest_client_requests_total` and `rest_client_request_duration_seconds`: what a process' clients have asked, under
//! the names and labels of client-go.
//!
//! Owns the two families, one pair a process, and the layer that fills them. A request lasts until the head of its
//! answer; the bodies of watches are endless.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::Instant;

use http::{Request, Response};
use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts};
use tower::{Layer, Service};

/// Upper bounds in seconds, as client-go's.
const BUCKETS: [f64; 12] = [0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0];
/// The code of a request that got no answer.
const NO_ANSWER: &str = "<error>";

static ALL: LazyLock<Families> = LazyLock::new(Families::new);

struct Families {
    requests: IntCounterVec,
    duration: HistogramVec,
}

impl Families {
    fn new() -> Self {
        let requests = Opts::new(
            "rest_client_requests_total",
            "Number of HTTP requests, partitioned by status code, method, and host.",
        );
        let duration = HistogramOpts::new(
            "rest_client_request_duration_seconds",
            "Request latency in seconds. Broken down by verb, and host.",
        );
        let made = "names and labels are constants checked by the test below";
        Families {
            requests: IntCounterVec::new(requests, &["code", "host", "method"]).expect(made),
            duration: HistogramVec::new(duration.buckets(BUCKETS.to_vec()), &["host", "verb"]).expect(made),
        }
    }
}

/// Both families as they stand, for a process' own registry to add.
pub fn gather() -> Vec<MetricFamily> {
    let mut all = ALL.requests.collect();
    all.extend(ALL.duration.collect());
    // A family without a child has nothing to say, and the text encoder refuses it.
    all.retain(|family| !family.get_metric().is_empty());
    all
}

/// Counts and times what passes.
#[derive(Clone, Debug)]
pub struct RequestsLayer {
    host: Arc<str>,
}

impl RequestsLayer {
    /// For requests to the server of a configuration.
    pub fn of(config: &kube::Config) -> Self {
        Self { host: config.cluster_url.authority().map_or("", |authority| authority.as_str()).into() }
    }
}

impl<S> Layer<S> for RequestsLayer {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted { inner, host: self.host.clone() }
    }
}

/// A service whose requests are counted.
#[derive(Clone, Debug)]
pub struct Counted<S> {
    inner: S,
    host: Arc<str>,
}

impl<S, B, R> Service<Request<B>> for Counted<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let method = request.method().clone();
        let (host, started) = (self.host.clone(), Instant::now());
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            let code = answer.as_ref().map(|response| response.status());
            let code = code.as_ref().map_or(NO_ANSWER, |status| status.as_str());
            ALL.requests.with_label_values(&[code, &host, method.as_str()]).inc();
            let took = started.elapsed().as_secs_f64();
            ALL.duration.with_label_values(&[&host, method.as_str()]).observe(took);
            answer
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_request_is_counted_under_its_labels() {
        let inner = tower::service_fn(|request: Request<()>| async move {
            match request.uri().path() {
                "/gone" => Err("no connection"),
                path => Ok(Response::builder()
                    .status(if path == "/" { 200 } else { 404 })
                    .body(())
                    .expect("a response")),
            }
        });
        let config = kube::Config::new("https://counted.example:6443/".parse().expect("a URL"));
        let mut service = RequestsLayer::of(&config).layer(inner);
        for path in ["/", "/", "/other", "/gone"] {
            let request = Request::get(path).body(());
            // The last one fails, as it is to.
            let _ = service.call(request.expect("a request")).await;
        }
        let mut text = String::new();
        prometheus::TextEncoder::new().encode_utf8(&gather(), &mut text).expect("text");
        let host = "host=\"counted.example:6443\"";
        for (code, count) in [("200", 2), ("404", 1), ("<error>", 1)] {
            let line =
                format!("rest_client_requests_total{{code=\"{code}\",{host},method=\"GET\"}} {count}\n");
            assert!(text.contains(&line), "{line} in\n{text}");
        }
        let line = format!("rest_client_request_duration_seconds_count{{{host},verb=\"GET\"}} 4\n");
        assert!(text.contains(&line), "{line} in\n{text}");
    }
}
