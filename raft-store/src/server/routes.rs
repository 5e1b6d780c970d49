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
    access::Access,
    gateway::Gateway,
    http,
    identity::{Connection, has_unknown_token},
    listen::{self, Keeping},
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

/// An answer on its way.
pub type Answer = Pin<Box<dyn Future<Output = Result<::http::Response<Body>, Infallible>> + Send>>;

/// Answers everything on the client port.
#[derive(Clone)]
struct ClientPort {
    member: Arc<Member>,
    services: Services,
    gateway: Option<Gateway>,
    access: Arc<Access>,
    traffic: Traffic,
    connection: Connection,
}

/// Where etcd's clients say which version they are.
const CLIENT_VERSION: &str = "client-api-version";

/// What a port is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Traffic {
    Both,
    Grpc,
    Http,
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
            if self.traffic == Traffic::Http {
                return Box::pin(std::future::ready(Ok(Status::unimplemented(
                    "etcdserver: this port serves HTTP only",
                )
                .into_http())));
            }
            return call_grpc(&mut self.services, request);
        }
        if self.traffic == Traffic::Grpc {
            let nothing = http::text(
                ::http::StatusCode::NOT_FOUND,
                "text/plain",
                "this port serves gRPC only\n".into(),
            );
            return Box::pin(std::future::ready(Ok(nothing)));
        }
        let (port, mut services) = (self.clone(), self.services.clone());
        Box::pin(async move {
            let origin = request.headers().get(::http::header::ORIGIN).cloned();
            let mut response = match port.access.answer(&request, port.connection.is_tls) {
                Some(answer) => answer,
                None => match port.gateway.filter(|gateway| gateway.serves(request.uri().path())) {
                    Some(gateway) => {
                        let request = request.map(Body::new);
                        gateway.answer(|call| call_grpc(&mut services, call), request).await
                    }
                    None => http::answer(&port.member, &request.map(drop)).await,
                },
            };
            port.access.allow_origin(origin.as_ref(), &mut response);
            Ok(response)
        })
    }
}

fn is_grpc<B>(request: &::http::Request<B>) -> bool {
    let content = request.headers().get(::http::header::CONTENT_TYPE);
    content.is_some_and(|content| content.as_bytes().starts_with(b"application/grpc"))
}

/// Calls a service and counts the call.
fn call_grpc<B: Payload>(services: &mut Services, request: ::http::Request<B>) -> Answer {
    if let Err(error) = check_learner(services.member(), request.uri().path()) {
        return Box::pin(std::future::ready(Ok(Status::from(error).into_http())));
    }
    let method = GRPC.method(request.uri().path());
    let version = request.headers().get(CLIENT_VERSION).and_then(|version| version.to_str().ok());
    GRPC.begun(&method, version);
    let member = has_unknown_token(services.member(), &request).then(|| services.member().clone());
    let request = request.map(|body| GRPC.incoming(&method, body));
    let answer = services.call(&method, request);
    let config = services.member().config();
    let (slow, is_measured) = (config.warning_request_duration, config.extensive_metrics);
    let Some(member) = member else { return Box::pin(observed(answer, method, slow, is_measured)) };
    let answer = Box::pin(async move {
        member.await_token().await;
        answer.await
    });
    Box::pin(observed(answer, method, slow, is_measured))
}

/// Counts a call, and says so when it took long; the log sync and apply warnings beside it tell the cause.
async fn observed(
    answer: Answer,
    method: Arc<Method>,
    slow: Duration,
    is_measured: bool,
) -> Result<::http::Response<Body>, Infallible> {
    // The index says which log entry carried a change: the same number stands on the span of applying it.
    let index = tracing::field::Empty;
    let span = tracing::debug_span!("grpc", service = method.service, method = method.name, index);
    let started = Instant::now();
    let answer = tracing::Instrument::instrument(answer, span).await;
    let took = started.elapsed();
    // Locks and elections wait for their turn, however long.
    if took > slow && method.is_unary && method.service.starts_with("etcdserverpb.") {
        let (service, method) = (&method.service, &method.name);
        tracing::warn!(took_millis = took.as_millis() as u64, service, method, "slow request");
    }
    if method.is_unary && is_measured {
        GRPC.took(&method, took);
    }
    if let Ok(response) = &answer {
        // Errors come in the head; a stream that fails later has begun well.
        let status = Status::from_header_map(response.headers());
        GRPC.handled(&method, status.map_or(tonic::Code::Ok, |status| status.code()));
    }
    answer.map(|response| response.map(|body| Body::new(GRPC.outgoing(&method, body))))
}

/// A learner answers only what its own state can answer, as in etcd.
fn check_learner(member: &Member, path: &str) -> Result<(), Error> {
    const ANSWERED: [&str; 5] = [
        "/etcdserverpb.KV/Range",
        "/etcdserverpb.Maintenance/Status",
        "/etcdserverpb.Maintenance/Snapshot",
        "/etcdserverpb.Cluster/MemberList",
        "/grpc.health.v1.Health/Check",
    ];
    if member.votes() || ANSWERED.contains(&path) { Ok(()) } else { Err(Error::NOT_SUPPORTED_FOR_LEARNER) }
}

/// Opens the client and metrics ports.
pub async fn serve_clients(member: &Arc<Member>) -> Result<(), StartError> {
    let config = member.config();
    let urls = [&config.listen_client_urls, &config.listen_client_http_urls, &config.listen_metrics_urls];
    if urls.iter().all(|urls| urls.is_empty()) {
        return Ok(());
    }
    let tls = ServerTls::load(&config.client_tls)?.map(Arc::new);
    let services = Services::new(member);
    let gateway = config.enable_grpc_gateway.then(Gateway::new).transpose().map_err(StartError::Config)?;
    let access = Arc::new(Access::new(&config.cors, &config.host_whitelist));
    let is_split = !config.listen_client_http_urls.is_empty();
    let (traffic, connection) = (if is_split { Traffic::Grpc } else { Traffic::Both }, Connection::default());
    let port = ClientPort { member: member.clone(), services, gateway, access, traffic, connection };
    let http_port = ClientPort { traffic: Traffic::Http, ..port.clone() };
    let keeping = Keeping::of(config);
    let urls = config.listen_client_urls.iter().map(|url| (url, &port));
    for (url, port) in urls.chain(config.listen_client_http_urls.iter().map(|url| (url, &http_port))) {
        let port = port.clone();
        if let Some(network) = &config.network {
            network.serve(url, transport(port));
            continue;
        }
        let serve = move |accepted: listen::Accepted| {
            let port = port.clone();
            accepted.serve(move |connection| ClientPort { connection, ..port });
        };
        listen::listen(url, tls.clone(), keeping, serve, member.stopping().clone(), &member.tasks).await?;
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
        listen::listen(url, tls.clone(), keeping, serve, member.stopping().clone(), &member.tasks).await?;
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
}

impl PeerPort {
    fn check<B>(&self, request: &::http::Request<B>) -> Result<(), Status> {
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
    let tls = ServerTls::load_for_peers(&config.peer_tls)?.map(Arc::new);
    let mut routes = Routes::builder();
    routes.add_service(raft).add_service(peer);
    let port = PeerPort { services: routes.routes(), cluster: member.cluster_id().to_string() };
    let keeping = Keeping::of(config);
    for url in &config.listen_peer_urls {
        let port = port.clone();
        if let Some(network) = &config.network {
            network.serve(url, transport(port));
            continue;
        }
        let serve = move |accepted: listen::Accepted| {
            let port = port.clone();
            accepted.serve(move |_| port);
        };
        listen::listen(url, tls.clone(), keeping, serve, member.stopping().clone(), &member.tasks).await?;
    }
    Ok(())
}
