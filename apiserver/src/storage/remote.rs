//! The store over gRPC: a list of endpoints, one of them in use, the next one tried when it fails.
//!
//! A read is repeated on the next endpoint. A write is repeated only when the connection was never made, because
//! otherwise it may have happened. Does not cache and does not batch.

use std::error::Error as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use pb::kv_client::KvClient;
use pb::lease_client::LeaseClient;
use pb::maintenance_client::MaintenanceClient;
use pb::watch_client::WatchClient;
use proto::etcdserverpb as pb;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Status};

use super::{Store, StoreError, Watch};

/// A unary call that takes longer than this has failed.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// A member that does not accept a connection for this long is passed over.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// HTTP/2 pings find a dead member that keeps its sockets open.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// A range over a large resource comes in pages, a watch batch can hold many large objects.
const MESSAGE_LEN_MAX: usize = 512 << 20;
/// Requests waiting on one watch stream: one creation and a few progress requests.
const WATCH_REQUESTS_MAX: usize = 8;

/// Where the store is and how to prove who we are.
#[derive(Clone, Debug, Default)]
pub struct RemoteConfig {
    /// `http://` or `https://` URLs; a bare `host:port` means `http://`.
    pub endpoints: Vec<String>,
    pub ca_file: Option<PathBuf>,
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
}

/// A store behind an endpoint list.
pub struct RemoteStore {
    channels: Vec<Channel>,
    current: AtomicUsize,
}

impl RemoteStore {
    /// Reads the certificates and prepares one lazily connected channel an endpoint.
    pub fn new(config: &RemoteConfig) -> Result<Self, StoreError> {
        if config.endpoints.is_empty() {
            return Err(StoreError::Other("no store endpoints given; set --etcd-servers".into()));
        }
        let channels = config.endpoints.iter().map(|e| channel(e, config)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { channels, current: AtomicUsize::new(0) })
    }

    fn channel(&self) -> (usize, Channel) {
        let index = self.current.load(Ordering::Relaxed) % self.channels.len();
        (index, self.channels[index].clone())
    }

    /// Moves on to the next endpoint, unless another call has already done so.
    fn rotate(&self, failed: usize) {
        let next = (failed + 1) % self.channels.len();
        let _ = self.current.compare_exchange(failed, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Runs one unary call, on the next endpoints too when `repeat` allows it for the failure met.
    async fn call<T, F, Fut>(&self, repeat: Repeat, mut call: F) -> Result<T, StoreError>
    where
        F: FnMut(Channel) -> Fut,
        Fut: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let mut last = StoreError::Unavailable("no endpoint tried".into());
        for _ in 0..=self.channels.len() {
            let (index, channel) = self.channel();
            let status = match tokio::time::timeout(CALL_TIMEOUT, call(channel)).await {
                Ok(Ok(response)) => return Ok(response.into_inner()),
                Ok(Err(status)) => status,
                Err(_) => Status::deadline_exceeded(format!("no answer within {CALL_TIMEOUT:?}")),
            };
            last = StoreError::from_status(&status);
            if !matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Unknown) {
                return Err(last);
            }
            self.rotate(index);
            if repeat == Repeat::WhenNotSent && !never_sent(&status) {
                return Err(last);
            }
        }
        Err(last)
    }
}

/// When a failed call may be sent again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Repeat {
    Always,
    WhenNotSent,
}

/// Whether the failure was in making the connection, so that the request cannot have reached a member.
fn never_sent(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        let text = error.to_string();
        if text.contains("tcp connect error") || text.contains("Connection refused") {
            return true;
        }
        source = error.source();
    }
    false
}

fn channel(endpoint: &str, config: &RemoteConfig) -> Result<Channel, StoreError> {
    let url = if endpoint.contains("://") { endpoint.to_owned() } else { format!("http://{endpoint}") };
    let read = |path: &PathBuf| {
        std::fs::read(path).map_err(|e| StoreError::Other(format!("read {}: {e}", path.display())))
    };
    let mut builder = Endpoint::from_shared(url.clone())
        .map_err(|e| StoreError::Other(format!("store endpoint {endpoint:?}: {e}")))?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .http2_adaptive_window(true)
        .tcp_nodelay(true);
    if url.starts_with("https://") {
        let mut tls = ClientTlsConfig::new();
        if let Some(ca) = &config.ca_file {
            tls = tls.ca_certificate(Certificate::from_pem(read(ca)?));
        }
        if let (Some(cert), Some(key)) = (&config.cert_file, &config.key_file) {
            tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?));
        }
        builder = builder.tls_config(tls).map_err(|e| StoreError::Other(format!("store TLS: {e}")))?;
    }
    Ok(builder.connect_lazy())
}

fn kv(channel: Channel) -> KvClient<Channel> {
    KvClient::new(channel).max_decoding_message_size(MESSAGE_LEN_MAX)
}

#[async_trait]
impl Store for RemoteStore {
    async fn range(&self, request: pb::RangeRequest) -> Result<pb::RangeResponse, StoreError> {
        let revision = request.revision;
        let call = |c| {
            let request = request.clone();
            async move { kv(c).range(request).await }
        };
        self.call(Repeat::Always, call).await.map_err(|e| match e {
            StoreError::Compacted(_) => StoreError::Compacted(revision),
            other => other,
        })
    }

    async fn txn(&self, request: pb::TxnRequest) -> Result<pb::TxnResponse, StoreError> {
        let call = |c| {
            let request = request.clone();
            async move { kv(c).txn(request).await }
        };
        self.call(Repeat::WhenNotSent, call).await
    }

    async fn compact(&self, request: pb::CompactionRequest) -> Result<pb::CompactionResponse, StoreError> {
        self.call(Repeat::WhenNotSent, |c| async move { kv(c).compact(request).await }).await
    }

    async fn watch(&self, request: pb::WatchCreateRequest) -> Result<Watch, StoreError> {
        let (index, channel) = self.channel();
        let (requests, receiver) = mpsc::channel(WATCH_REQUESTS_MAX);
        let create = pb::watch_request::RequestUnion::CreateRequest(request);
        let _ = requests.send(pb::WatchRequest { request_union: Some(create) }).await;
        let mut client = WatchClient::new(channel).max_decoding_message_size(MESSAGE_LEN_MAX);
        let mut opening = tonic::Request::new(ReceiverStream::new(receiver));
        // A member that has lost its cluster ends the watch; otherwise it would be silent for as long as that lasts.
        opening.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
        let answer = tokio::time::timeout(CALL_TIMEOUT, client.watch(opening)).await;
        let stream = match answer {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => {
                self.rotate(index);
                return Err(StoreError::from_status(&status));
            }
            Err(_) => {
                self.rotate(index);
                return Err(StoreError::Timeout("watch was not opened".into()));
            }
        };
        let (progress, mut asked) = mpsc::channel::<()>(1);
        tokio::spawn(async move {
            while asked.recv().await.is_some() {
                let union = pb::watch_request::RequestUnion::ProgressRequest(pb::WatchProgressRequest {});
                if requests.send(pb::WatchRequest { request_union: Some(union) }).await.is_err() {
                    return;
                }
            }
        });
        let events = stream.map(|item| item.map_err(|s| StoreError::from_status(&s))).boxed();
        Ok(Watch { events, progress })
    }

    async fn lease_grant(&self, ttl_secs: i64) -> Result<pb::LeaseGrantResponse, StoreError> {
        let request = pb::LeaseGrantRequest { ttl: ttl_secs, id: 0 };
        self.call(Repeat::Always, |c| async move { LeaseClient::new(c).lease_grant(request).await }).await
    }

    async fn lease_revoke(&self, id: i64) -> Result<(), StoreError> {
        let request = pb::LeaseRevokeRequest { id };
        self.call(Repeat::WhenNotSent, |c| async move { LeaseClient::new(c).lease_revoke(request).await })
            .await?;
        Ok(())
    }

    async fn lease_keep_alive(&self, id: i64) -> Result<pb::LeaseKeepAliveResponse, StoreError> {
        let call = |c| async move {
            let once = futures::stream::iter([pb::LeaseKeepAliveRequest { id }]);
            let mut answers = LeaseClient::new(c).lease_keep_alive(once).await?.into_inner();
            let first = answers.message().await?;
            first.map(tonic::Response::new).ok_or_else(|| Status::unavailable("keep-alive stream ended"))
        };
        self.call(Repeat::Always, call).await
    }

    async fn current_revision(&self) -> Result<i64, StoreError> {
        // Counting one key that need not exist is the cheapest linearizable request etcd has.
        let request = pb::RangeRequest {
            key: b"/registry/health".as_slice().into(),
            count_only: true,
            ..Default::default()
        };
        let response = self.range(request).await?;
        Ok(response.header.map_or(0, |h| h.revision))
    }

    async fn db_size_bytes(&self) -> Result<i64, StoreError> {
        let call = |c| async move { MaintenanceClient::new(c).status(pb::StatusRequest {}).await };
        Ok(self.call(Repeat::Always, call).await?.db_size)
    }
}
