//! The gRPC services of the client port, and the way from a call to its service.

use std::{pin::Pin, sync::Arc};

use bytes::Bytes;
use proto::{
    etcdserverpb::{
        WatchRequest, auth_server::AuthServer, cluster_server::ClusterServer, kv_server::KvServer,
        lease_server::LeaseServer, maintenance_server::MaintenanceServer,
    },
    v3electionpb::election_server::ElectionServer,
    v3lockpb::lock_server::LockServer,
};
use tonic::{
    body::Body,
    service::{Routes, RoutesBuilder},
};
use tower::{BoxError, Service};

use super::{
    auth::AuthService,
    cluster::ClusterService,
    descriptors::{self, SERVICES},
    election::ElectionService,
    kv::KvService,
    lease::LeaseService,
    lock::LockService,
    maintenance::MaintenanceService,
    range,
    routes::Answer,
    wire::{WatchWire, WireCodec},
};
use crate::{member::Member, metrics::Method};

/// What etcd allows a request to be larger than its limit, for the envelope.
const REQUEST_OVERHEAD_BYTES: usize = 512 << 10;

/// What requests carry, over whatever they come.
pub trait Payload:
    ::http_body::Body<Data = Bytes, Error: Into<BoxError> + Send> + Send + Unpin + 'static
{
}

impl<B> Payload for B where
    B: ::http_body::Body<Data = Bytes, Error: Into<BoxError> + Send> + Send + Unpin + 'static
{
}

/// Every service. Clones share them.
#[derive(Clone)]
pub struct Services {
    member: Arc<Member>,
    // Apart from the others, so that the calls that matter most need not be routed.
    kv: KvServer<KvService>,
    lease: LeaseServer<LeaseService>,
    others: Routes,
    request_max: usize,
}

impl Services {
    /// The services of a member.
    pub fn new(member: &Arc<Member>) -> Self {
        let request_max = member.config().max_request_bytes + REQUEST_OVERHEAD_BYTES;
        let mut routes = Routes::builder();
        routes
            .add_service(ClusterServer::new(ClusterService(member.clone())))
            .add_service(MaintenanceServer::new(MaintenanceService(member.clone())))
            .add_service(AuthServer::new(AuthService(member.clone())))
            .add_service(LockServer::new(LockService(member.clone())))
            .add_service(ElectionServer::new(ElectionService(member.clone())));
        let (reporter, health) = tonic_health::server::health_reporter();
        tokio::spawn(
            async move { reporter.set_service_status("", tonic_health::ServingStatus::Serving).await },
        );
        routes.add_service(health);
        add_reflection(&mut routes);
        Self {
            member: member.clone(),
            kv: KvServer::new(KvService(member.clone()))
                .max_decoding_message_size(request_max)
                .max_encoding_message_size(usize::MAX),
            lease: LeaseServer::new(LeaseService(member.clone())),
            others: routes.routes(),
            request_max,
        }
    }

    /// Whose services these are.
    pub fn member(&self) -> &Arc<Member> {
        &self.member
    }

    /// Calls a service; the two that matter most have their answers written by hand.
    pub fn call<B: Payload>(&mut self, method: &Method, request: ::http::Request<B>) -> Answer {
        let (member, request_max) = (self.member.clone(), self.request_max);
        match (method.service.as_str(), method.name.as_str()) {
            ("etcdserverpb.KV", "Range") => {
                Box::pin(async move { Ok(range::answer(member, request, request_max).await) })
            }
            ("etcdserverpb.Watch", "Watch") => Box::pin(async move {
                let mut grpc = tonic::server::Grpc::new(WireCodec::<WatchRequest>::default())
                    .max_decoding_message_size(request_max)
                    .max_encoding_message_size(usize::MAX);
                Ok(grpc.streaming(WatchWire(member), request).await)
            }),
            ("etcdserverpb.KV", _) => self.kv.call(request),
            ("etcdserverpb.Lease", _) => self.lease.call(request),
            _ => routed(&mut self.others, request),
        }
    }
}

fn routed<B: Payload>(routes: &mut Routes, request: ::http::Request<B>) -> Answer {
    let answer: Pin<Box<dyn Future<Output = Result<::http::Response<Body>, _>> + Send>> =
        Box::pin(routes.call(request));
    answer
}

/// Both versions of reflection: tools in use still ask for the older one.
fn add_reflection(routes: &mut RoutesBuilder) {
    let builder = || {
        let files = descriptors::of_clients()?;
        let builder = tonic_reflection::server::Builder::configure()
            .register_file_descriptor_set(files)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
        Ok::<_, String>(SERVICES.into_iter().fold(builder, |builder, name| builder.with_service_name(name)))
    };
    let newer = builder().and_then(|builder| builder.build_v1().map_err(|error| error.to_string()));
    let older = builder().and_then(|builder| builder.build_v1alpha().map_err(|error| error.to_string()));
    match (newer, older) {
        (Ok(newer), Ok(older)) => {
            routes.add_service(newer).add_service(older);
        }
        (Err(error), _) | (_, Err(error)) => tracing::warn!(error, "no reflection"),
    }
}
