//! Starts the server and keeps its zone up to date.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hickory_server::proto::{ProtoError, rr::Name};
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

use super::{NEEDS, Options, Resolver, address, forward::Forwarder, resolv_conf, stats::Stats, zone::Zone};
use crate::{
    network::feed::{Hub, Subscription},
    proxy::http::{self, Answer},
};

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A domain name is not one.
    #[error("invalid domain name {name:?}: {source}")]
    Domain {
        /// What was given.
        name: String,
        /// Cause.
        source: ProtoError,
    },
    /// Metrics could not be registered.
    #[error("cannot set up metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// Waits between attempts to listen, and between looks at the list of upstream servers.
const RETRY: Duration = Duration::from_secs(2);
const RESOLV_CONF_PERIOD: Duration = Duration::from_secs(30);
/// Room for bursts of datagrams while the task answers others.
const RECEIVE_BUFFER_LEN: usize = 4 * 1024 * 1024;
/// Events taken in under one lock.
const BATCH_MAX: usize = 1_000;

/// Runs the DNS server until `shutdown`.
pub async fn run(mut options: Options, shutdown: CancellationToken) -> Result<(), Error> {
    let feed = options.feed.take().unwrap_or_else(|| {
        let mut hub = Hub::new(options.client.clone());
        let feed = hub.subscribe(NEEDS);
        tokio::spawn(hub.run(shutdown.clone()));
        feed
    });
    let resolver = Arc::new(resolver(&options)?);
    if let Some(at) = options.http_bind {
        serve_http(at, &resolver, &shutdown);
    }
    let (listening, following, watching) = (
        listen(&options, &resolver, &shutdown),
        follow(feed, &resolver, &options),
        watch_resolv_conf(&options, &resolver),
    );
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = async { tokio::join!(listening, following, watching); } => {}
    }
    if options.manage_addresses {
        address::release(&options.listen_ips, &options.nft).await;
    }
    Ok(())
}

fn resolver(options: &Options) -> Result<Resolver, Error> {
    let domain = |name: &str| {
        let absolute = format!("{}.", name.trim_matches('.'));
        Name::from_ascii(absolute).map_err(|source| Error::Domain { name: name.to_owned(), source })
    };
    let mut stubs = Vec::new();
    for (name, servers) in &options.stub_domains {
        stubs.push((domain(name)?.to_lowercase(), servers.clone()));
    }
    let zone =
        Zone::new(options.cluster_domain.trim_matches('.'), options.listen_ips.clone(), options.ttl_secs)
            .map_err(|source| Error::Domain { name: options.cluster_domain.clone(), source })?;
    Ok(Resolver::new(zone, Forwarder::new(options.upstreams.clone(), stubs), Stats::new()?))
}

/// Brings every address up, however long that takes: another DNS server may hold the port for a while.
async fn listen(options: &Options, resolver: &Arc<Resolver>, shutdown: &CancellationToken) {
    if options.manage_addresses {
        while let Err(error) = address::hold(&options.listen_ips, options.port, &options.nft).await {
            tracing::error!(%error, "cannot set up the DNS address; retrying");
            tokio::time::sleep(RETRY).await;
        }
    }
    let each = options.listen_ips.iter().map(|ip| listen_at(*ip, options.port, resolver, shutdown));
    futures::future::join_all(each).await;
}

async fn listen_at(ip: IpAddr, port: u16, resolver: &Arc<Resolver>, shutdown: &CancellationToken) {
    let at = SocketAddr::new(ip, port);
    loop {
        match udp(at).and_then(|udp| Ok((udp, http::listen(at)?))) {
            Ok((udp, tcp)) => {
                tokio::spawn(resolver.clone().serve_udp(udp, shutdown.clone()));
                tokio::spawn(resolver.clone().serve_tcp(tcp, shutdown.clone()));
                tracing::info!(%at, "DNS server is listening");
                return;
            }
            Err(error) => tracing::warn!(%at, %error, "cannot listen for DNS; retrying"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

fn udp(at: SocketAddr) -> io::Result<UdpSocket> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(at), socket2::Type::DGRAM, None)?;
    socket.set_nonblocking(true)?;
    // A smaller buffer than asked for only means more drops in a burst.
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER_LEN);
    socket.bind(&at.into())?;
    UdpSocket::from_std(socket.into())
}

async fn follow(mut feed: Subscription, resolver: &Resolver, options: &Options) {
    while let Some(event) = feed.events.recv().await {
        let mut zone = resolver.zone.write();
        zone.handle(&event);
        for _ in 0..BATCH_MAX {
            let Ok(event) = feed.events.try_recv() else { break };
            zone.handle(&event);
        }
        let ready = zone.is_ready();
        drop(zone);
        options.ready.send_if_modified(|known| std::mem::replace(known, ready) != ready);
    }
    // The hub stopped: the zone stays as it is until shutdown.
    std::future::pending::<()>().await;
}

async fn watch_resolv_conf(options: &Options, resolver: &Resolver) {
    if !options.upstreams.is_empty() {
        return;
    }
    loop {
        match tokio::fs::read_to_string(&options.resolv_conf).await {
            Ok(text) => resolver.forwarder.set_servers(resolv_conf::servers(&text, &options.listen_ips)),
            Err(error) => {
                tracing::warn!(path = %options.resolv_conf.display(), %error, "cannot read upstream DNS servers");
            }
        }
        tokio::time::sleep(RESOLV_CONF_PERIOD).await;
    }
}

fn serve_http(at: SocketAddr, resolver: &Arc<Resolver>, shutdown: &CancellationToken) {
    let resolver = resolver.clone();
    let handler: http::Handler = Arc::new(move |path| match path {
        "/health" => Answer::text("OK".to_owned()),
        "/metrics" => Answer::text(resolver.stats.render()),
        "/ready" => {
            let ready = resolver.zone.read().is_ready();
            Answer { status: if ready { 200 } else { 503 }, ..Answer::text("OK".to_owned()) }
        }
        _ => Answer::not_found(),
    });
    match http::listen(at) {
        Ok(listener) => {
            tokio::spawn(http::serve(listener, handler, shutdown.clone()));
        }
        Err(error) => tracing::error!(%at, %error, "cannot serve DNS health and metrics; going on without"),
    }
}
