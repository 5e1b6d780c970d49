//! Connections to the other members, shared by consensus and by forwarded requests.

use std::{
    collections::HashMap,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{
    TryFutureExt,
    future::{BoxFuture, Either},
};
use parking_lot::Mutex;
use proto::raftpb::{peer_client::PeerClient, raft_client::RaftClient};
use tokio::runtime::Handle;
use tonic::{
    Status,
    metadata::{Ascii, MetadataValue},
    service::interceptor::InterceptedService,
    transport::{Channel, Endpoint, channel::ResponseFuture},
};
use tower::{BoxError, Service};

use crate::{
    config::Config,
    error::Error,
    network::{Network, Transport},
    tls::ClientTls,
};

/// Header that names the cluster, so that members of two clusters never mix by a mistyped address.
pub const CLUSTER_HEADER: &str = "quarterdeck-cluster";
/// Largest message between members: a batch of commands may hold many clients' largest requests.
pub const PEER_MESSAGE_BYTES_MAX: usize = 512 << 20;
/// Window of unacknowledged bytes; small defaults would stall replication over long links.
const WINDOW_BYTES: u32 = 8 << 20;

/// Puts the cluster's name on every request.
#[derive(Clone)]
pub struct NameCluster {
    cluster: MetadataValue<Ascii>,
}

impl tonic::service::Interceptor for NameCluster {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, Status> {
        request.metadata_mut().insert(CLUSTER_HEADER, self.cluster.clone());
        Ok(request)
    }
}

/// The way to one member: a connection, or what stands for one.
#[derive(Clone)]
pub enum Way {
    /// Over TCP.
    Tcp(Channel),
    /// Over the network the member was given.
    Given(Transport),
}

type Request<T> = http::Request<T>;

impl Service<Request<tonic::body::Body>> for Way {
    type Response = http::Response<tonic::body::Body>;
    type Error = BoxError;
    type Future = Either<
        futures::future::MapErr<ResponseFuture, fn(tonic::transport::Error) -> BoxError>,
        BoxFuture<'static, Result<Self::Response, BoxError>>,
    >;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match self {
            Self::Tcp(channel) => channel.poll_ready(context).map_err(BoxError::from),
            Self::Given(transport) => transport.poll_ready(context),
        }
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        match self {
            Self::Tcp(channel) => Either::Left(channel.call(request).map_err(BoxError::from)),
            Self::Given(transport) => Either::Right(transport.call(request)),
        }
    }
}

/// A connection with the cluster's name on it.
pub type PeerChannel = InterceptedService<Way, NameCluster>;

/// Whether a call failed before anything of it was sent, since nobody listens where it was to go: then it has not happened.
pub fn was_never_sent(status: &Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// All connections of one member. Clones share them.
#[derive(Clone)]
pub struct Peers {
    channels: Arc<Mutex<HashMap<String, Way>>>,
    network: Option<Arc<dyn Network>>,
    tls: Option<ClientTls>,
    cluster: MetadataValue<Ascii>,
    timeout: Duration,
    /// Where connections are driven; without, wherever they are first used.
    threads: Option<Handle>,
}

impl Peers {
    /// No connection yet; they are made when first used, and again when they break.
    pub fn new(cluster_id: u64, tls: Option<ClientTls>, config: &Config) -> Self {
        Self {
            channels: Arc::default(),
            network: config.network.clone(),
            tls,
            cluster: MetadataValue::from(cluster_id),
            timeout: config.election_timeout,
            threads: None,
        }
    }

    /// The same connections, driven by the runtime of `threads`.
    pub fn driven_by(self, threads: Handle) -> Self {
        Self { threads: Some(threads), ..self }
    }

    /// How long opening a connection may take.
    pub fn patience(&self) -> Duration {
        self.timeout
    }

    fn way(&self, url: &str) -> Result<Way, Error> {
        if let Some(way) = self.channels.lock().get(url) {
            return Ok(way.clone());
        }
        let way = match &self.network {
            Some(network) => Way::Given(network.dial(url)),
            None => Way::Tcp(self.connect(url)?),
        };
        self.channels.lock().insert(url.to_owned(), way.clone());
        Ok(way)
    }

    fn connect(&self, url: &str) -> Result<Channel, Error> {
        let bad = |error: &dyn std::fmt::Display| {
            Error::new(tonic::Code::Unavailable, format!("etcdserver: peer {url}: {error}"))
        };
        // tonic refuses `https` unless it does TLS itself; ours is done by the connector underneath.
        let tls = self.tls.as_ref().filter(|_| url.starts_with("https://"));
        let target = if tls.is_some() { url.replacen("https://", "http://", 1) } else { url.to_owned() };
        let endpoint = Endpoint::from_shared(target)
            .map_err(|error| bad(&error))?
            .connect_timeout(self.timeout)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(self.timeout)
            .keep_alive_timeout(self.timeout)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES);
        let _entered = self.threads.as_ref().map(Handle::enter);
        Ok(match tls {
            Some(tls) => tls.connect_lazy(endpoint),
            None => endpoint.connect_lazy(),
        })
    }

    fn named(&self, urls: &[String]) -> Result<PeerChannel, Error> {
        let url = urls.first().ok_or(Error::MEMBER_BAD_URLS)?;
        let name = NameCluster { cluster: self.cluster.clone() };
        Ok(InterceptedService::new(self.way(url)?, name))
    }

    /// The consensus service of a member.
    pub fn raft(&self, urls: &[String]) -> Result<RaftClient<PeerChannel>, Error> {
        let client = RaftClient::new(self.named(urls)?);
        Ok(client
            .max_decoding_message_size(PEER_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(PEER_MESSAGE_BYTES_MAX))
    }

    /// The service for forwarded requests of a member.
    pub fn peer(&self, urls: &[String]) -> Result<PeerClient<PeerChannel>, Error> {
        let client = PeerClient::new(self.named(urls)?);
        Ok(client
            .max_decoding_message_size(PEER_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(PEER_MESSAGE_BYTES_MAX))
    }
}

#[cfg(test)]
mod tests {
    use proto::raftpb::HelloRequest;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn what_nobody_took_was_never_sent_and_what_broke_off_may_have_been() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let urls = [format!("http://{}", listener.local_addr().unwrap())];
        let peers = Peers::new(1, None, &Config::embedded("/none"));
        let hello = async || {
            let mut client = peers.peer(&urls).unwrap();
            client.hello(HelloRequest::default()).await.unwrap_err()
        };
        let (status, ()) = tokio::join!(hello(), async { drop(listener.accept().await) });
        assert!(!was_never_sent(&status), "{status:?}");
        drop(listener);
        let status = hello().await;
        assert!(was_never_sent(&status), "{status:?}");
    }
}
