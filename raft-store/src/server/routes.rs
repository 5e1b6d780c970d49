//! Which service answers which request on which port.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use hyper::body::Incoming;
use proto::raftpb::{peer_server::PeerServer, raft_server::RaftServer};
use tonic::{Status, body::Body, service::Routes};
use tower::{Service, ServiceExt};

use super::{
    gateway::Gateway,
    http,
    identity::{Connection, has_unknown_token},
    listen,
    services::{Payload, Services},
};
use crate::{
    error::Error,
    member::{Member, PeerService, StartError},
    metrics::{GRPC, Method},
    network::Transport,
    raft::{peers::CLUSTER_HEADER, service::RaftService},
    tls::ServerTls,
};

/// A call slower than this is reported; the log sync and apply warnings beside it tell the cause.
const SLOW_REQUEST: Duration = Duration::from_millis(500);

/// An answer on its way.
pub type Answer = Pin<Box<dyn Future<Output = Result<::http::Response<Body>, Infallible>> + Send>>;

/// Answers everything on the client port.
#[derive(Clone)]
struct ClientPort {
    member: Arc<Member>,
    services: Services,
    gateway: Option<Gateway>,
    connection: Connection,
}

impl<B: Payload> Service<::http::Request<B>> for ClientPort {
    type Response = ::http::Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: ::http::Request<B>) -> Answer {
        request.extensions_mut().insert(self.connection.clone());
        if is_grpc(&request) {
            if let Err(error) = check_learner(&self.member, request.uri().path()) {
                return Box::pin(std::future::ready(Ok(Status::from(error).into_http())));
            }
            return call_grpc(&mut self.services, request);
        }
        let (member, gateway, mut services) =
            (self.member.clone(), self.gateway.clone(), self.services.clone());
        Box::pin(async move {
            if let Some(gateway) = gateway
                && gateway.serves(request.uri().path())
            {
                let request = request.map(Body::new);
                return Ok(gateway.answer(|call| call_grpc(&mut services, call), request).await);
            }
            let request = request.map(drop);
            Ok(http::answer(&member, &request).await)
        })
    }
}

fn is_grpc<B>(request: &::http::Request<B>) -> bool {
    let content = request.headers().get(::http::header::CONTENT_TYPE);
    content.is_some_and(|content| content.as_bytes().starts_with(b"application/grpc"))
}

/// Calls a service and counts the call.
fn call_grpc<B: Payload>(services: &mut Services, request: ::http::Request<B>) -> Answer {
    let method = GRPC.method(request.uri().path());
    method.started.inc();
    let member = has_unknown_token(services.member(), &request).then(|| services.member().clone());
    let answer = services.call(&method, request);
    let Some(member) = member else { return Box::pin(observed(answer, method)) };
    let answer = Box::pin(async move {
        member.await_token().await;
        answer.await
    });
    Box::pin(observed(answer, method))
}

/// Counts a call, and says so when it took long.
async fn observed(answer: Answer, method: Arc<Method>) -> Result<::http::Response<Body>, Infallible> {
    // The index says which log entry carried a change: the same number stands on the span of applying it.
    let index = tracing::field::Empty;
    let span = tracing::debug_span!("grpc", service = method.service, method = method.name, index);
    let started = Instant::now();
    let answer = tracing::Instrument::instrument(answer, span).await;
    let took = started.elapsed();
    // Locks and elections wait for their turn, however long.
    if took > SLOW_REQUEST && method.is_unary && method.service.starts_with("etcdserverpb.") {
        let (service, method) = (&method.service, &method.name);
        tracing::warn!(took_millis = took.as_millis() as u64, service, method, "slow request");
    }
    if let Ok(response) = &answer {
        // Errors come in the head; a stream that fails later has begun well.
        let status = Status::from_header_map(response.headers());
        GRPC.handled(&method, status.map_or(tonic::Code::Ok, |status| status.code()));
    }
    answer
}

/// A learner answers only what its own state can answer, as in etcd.
fn check_learner(member: &Member, path: &str) -> Result<(), Error> {
    const ANSWERED: [&str; 4] = [
        "/etcdserverpb.KV/Range",
        "/etcdserverpb.Maintenance/Status",
        "/etcdserverpb.Cluster/MemberList",
        "/grpc.health.v1.Health/Check",
    ];
    if member.votes() || ANSWERED.contains(&path) { Ok(()) } else { Err(Error::NOT_SUPPORTED_FOR_LEARNER) }
}

/// Opens the client and metrics ports.
pub async fn serve_clients(member: &Arc<Member>) -> Result<(), StartError> {
    let config = member.config();
    if config.listen_client_urls.is_empty() && config.listen_metrics_urls.is_empty() {
        return Ok(());
    }
    let tls = ServerTls::load(&config.client_tls)?.map(Arc::new);
    let services = Services::new(member);
    let gateway = config.enable_grpc_gateway.then(Gateway::new).transpose().map_err(StartError::Config)?;
    let port = ClientPort { member: member.clone(), services, gateway, connection: Connection::default() };
    for url in &config.listen_client_urls {
        let port = port.clone();
        if let Some(network) = &config.network {
            network.serve(url, transport(port));
            continue;
        }
        let serve = move |accepted: listen::Accepted| {
            let port = port.clone();
            accepted.serve(move |connection| ClientPort { connection, ..port });
        };
        listen::listen(url, tls.clone(), serve, member.stopping().clone(), &member.tasks).await?;
    }
    for url in &config.listen_metrics_urls {
        let member_of_port = member.clone();
        let serve = move |accepted: listen::Accepted| {
            let member = member_of_port.clone();
            accepted.serve(move |_| {
                tower::service_fn(move |request: ::http::Request<Incoming>| {
                    let member = member.clone();
                    async move { Ok::<_, Infallible>(http::answer(&member, &request).await) }
                })
            });
        };
        listen::listen(url, tls.clone(), serve, member.stopping().clone(), &member.tasks).await?;
    }
    Ok(())
}

/// A port as a network that is not TCP takes it.
fn transport<S>(port: S) -> Transport
where
    S: Service<::http::Request<Body>, Response = ::http::Response<Body>, Error = Infallible>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send,
{
    Transport::new(port.map_err(|never| match never {}))
}

/// Answers everything on the peer port, to members of the same cluster.
#[derive(Clone)]
struct PeerPort {
    services: Routes,
    cluster: String,
    allowed_names: Arc<Vec<String>>,
    connection: Connection,
}

impl PeerPort {
    fn check<B>(&self, request: &::http::Request<B>) -> Result<(), Status> {
        let name = self.connection.certificate_name.as_deref().unwrap_or_default();
        if !self.allowed_names.is_empty() && !self.allowed_names.iter().any(|allowed| allowed == name) {
            return Err(Status::permission_denied(format!("peer certificate name {name:?} is not allowed")));
        }
        // A newcomer asks who it is before it knows the cluster.
        if request.uri().path().ends_with("/Hello") {
            return Ok(());
        }
        let cluster = request.headers().get(CLUSTER_HEADER).and_then(|value| value.to_str().ok());
        if cluster == Some(self.cluster.as_str()) { Ok(()) } else { Err(Error::CLUSTER_ID_MISMATCH.into()) }
    }
}

impl<B: Payload> Service<::http::Request<B>> for PeerPort {
    type Response = ::http::Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: ::http::Request<B>) -> Answer {
        match self.check(&request) {
            Ok(()) => Box::pin(self.services.call(request)),
            Err(status) => Box::pin(std::future::ready(Ok(status.into_http()))),
        }
    }
}

/// Opens the peer ports.
pub async fn serve_peers(
    member: &Arc<Member>,
    raft: RaftServer<RaftService>,
    peer: PeerServer<PeerService>,
) -> Result<(), StartError> {
    let config = member.config();
    let tls = ServerTls::load(&config.peer_tls)?.map(Arc::new);
    let mut routes = Routes::builder();
    routes.add_service(raft).add_service(peer);
    let port = PeerPort {
        services: routes.routes(),
        cluster: member.cluster_id().to_string(),
        allowed_names: Arc::new(config.peer_tls.allowed_names.clone()),
        connection: Connection::default(),
    };
    for url in &config.listen_peer_urls {
        let port = port.clone();
        if let Some(network) = &config.network {
            network.serve(url, transport(port));
            continue;
        }
        let serve = move |accepted: listen::Accepted| {
            let port = port.clone();
            accepted.serve(move |connection| PeerPort { connection, ..port });
        };
        listen::listen(url, tls.clone(), serve, member.stopping().clone(), &member.tasks).await?;
    }
    Ok(())
}
