//! The store of a server of this machine, reached over its etcd v3 API with this server's own client certificate.

use proto::etcdserverpb::cluster_client::ClusterClient;
use proto::etcdserverpb::kv_client::KvClient;
use proto::etcdserverpb::maintenance_client::MaintenanceClient;
use proto::etcdserverpb::{Member, MemberListRequest, RangeRequest, StatusRequest, StatusResponse};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::failure::{Failure, Result};
use crate::pki::files::read_text;
use crate::server::layout::{Addresses, Layout, State};

/// A member that does not connect within this is taken as down; seconds.
const CONNECT_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(2);
/// And one that does not answer a question.
const ANSWER_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

/// Opens a channel to one member, for short questions.
pub async fn connect(layout: &Layout, url: &str) -> Result<Channel> {
    open(endpoint(layout, url)?.timeout(ANSWER_TIMEOUT), url).await
}

/// Opens a channel to the first server that answers, this machine's own first, for short questions.
pub async fn connect_any(layout: &Layout, state: &State) -> Result<Channel> {
    first(layout, state, |endpoint| endpoint.timeout(ANSWER_TIMEOUT)).await
}

/// The same for an answer that may take long, such as a snapshot.
pub async fn connect_long(layout: &Layout, state: &State) -> Result<Channel> {
    first(layout, state, |endpoint| endpoint).await
}

/// A channel for a long answer to the first server that has all changes a majority has; none where there is no such.
pub async fn connect_current(layout: &Layout, state: &State) -> Option<Channel> {
    for (_, Addresses { store_url, .. }) in state.everywhere() {
        let Ok(channel) = open(endpoint(layout, store_url).ok()?, store_url).await else { continue };
        // Answered once this member has applied what the leader had committed when it was asked.
        let range = RangeRequest { key: b"\0".to_vec().into(), count_only: true, ..Default::default() };
        let mut client = KvClient::new(channel.clone());
        if tokio::time::timeout(ANSWER_TIMEOUT, client.range(range)).await.is_ok_and(|answer| answer.is_ok())
        {
            return Some(channel);
        }
    }
    None
}

async fn first(layout: &Layout, state: &State, adjust: impl Fn(Endpoint) -> Endpoint) -> Result<Channel> {
    let mut problem = None;
    for (_, Addresses { store_url, .. }) in state.everywhere() {
        match open(adjust(endpoint(layout, store_url)?), store_url).await {
            Ok(channel) => return Ok(channel),
            Err(failure) => problem = problem.or(Some(failure)),
        }
    }
    Err(problem.unwrap_or_else(|| Failure::new("no server is known")))
}

fn endpoint(layout: &Layout, url: &str) -> Result<Endpoint> {
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(read_text(&layout.pki_file("store-ca.crt"))?))
        .identity(Identity::from_pem(
            read_text(&layout.pki_file("apiserver-store-client.crt"))?,
            read_text(&layout.pki_file("apiserver-store-client.key"))?,
        ));
    Ok(Endpoint::from_shared(url.to_owned())?.tls_config(tls)?.connect_timeout(CONNECT_TIMEOUT))
}

async fn open(endpoint: Endpoint, url: &str) -> Result<Channel> {
    endpoint.connect().await.map_err(|error| {
        Failure::new(format!("the store at {url} does not answer: {error}")).mend("start the server first")
    })
}

/// All members, voters and learners.
pub async fn members(channel: Channel) -> Result<Vec<Member>> {
    let answer = ClusterClient::new(channel).member_list(MemberListRequest { linearizable: false }).await?;
    Ok(answer.into_inner().members)
}

/// What one member says of itself.
pub async fn member_status(channel: Channel) -> Result<StatusResponse> {
    Ok(MaintenanceClient::new(channel).status(StatusRequest {}).await?.into_inner())
}
