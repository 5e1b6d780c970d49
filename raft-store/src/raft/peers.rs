//! Connections to the other members, shared by consensus and by forwarded requests.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use proto::raftpb::{peer_client::PeerClient, raft_client::RaftClient};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::interceptor::InterceptedService,
    transport::{Channel, Endpoint},
};

use crate::{error::Error, tls::ClientTls};

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
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert(CLUSTER_HEADER, self.cluster.clone());
        Ok(request)
    }
}

/// A connection with the cluster's name on it.
pub type PeerChannel = InterceptedService<Channel, NameCluster>;

/// All connections of one member. Clones share them.
#[derive(Clone)]
pub struct Peers {
    channels: Arc<Mutex<HashMap<String, Channel>>>,
    tls: Option<ClientTls>,
    cluster: MetadataValue<Ascii>,
    timeout: Duration,
}

impl Peers {
    /// No connection yet; they are made when first used, and again when they break.
    pub fn new(cluster_id: u64, tls: Option<ClientTls>, timeout: Duration) -> Self {
        Self { channels: Arc::default(), tls, cluster: MetadataValue::from(cluster_id), timeout }
    }

    fn channel(&self, url: &str) -> Result<Channel, Error> {
        if let Some(channel) = self.channels.lock().get(url) {
            return Ok(channel.clone());
        }
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
        let channel = match tls {
            Some(tls) => tls.connect_lazy(endpoint),
            None => endpoint.connect_lazy(),
        };
        self.channels.lock().insert(url.to_owned(), channel.clone());
        Ok(channel)
    }

    fn named(&self, urls: &[String]) -> Result<PeerChannel, Error> {
        let url = urls.first().ok_or(Error::MEMBER_BAD_URLS)?;
        let name = NameCluster { cluster: self.cluster.clone() };
        Ok(InterceptedService::new(self.channel(url)?, name))
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
