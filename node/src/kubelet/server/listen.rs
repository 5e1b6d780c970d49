//! Accepts connections and hands requests to the routes once their client is let in.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::auth::{Gate, Refusal};
use super::respond::{Answer, text};
use super::routes::Server;

/// A client must complete its TLS handshake within this time.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// A client must send a request's head within this time, also the next one on a connection that is kept, as upstream
/// has it for idle ones.
const HEAD_LIMIT: Duration = Duration::from_secs(90);
/// Pause after a connection that could not be accepted: descriptors may be short.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT);
    builder
}

/// The server with its door.
pub struct Door {
    /// Who may come in.
    pub gate: Gate,
    /// What is inside.
    pub server: Server,
}

/// Serves TLS connections until the token fires.
pub async fn serve(
    listener: TcpListener,
    tls: rustls::ServerConfig,
    door: Arc<Door>,
    shutdown: CancellationToken,
) {
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                let served = connection(stream, peer, acceptor.clone(), Arc::clone(&door));
                let shutdown = shutdown.clone();
                // A connection kept alive must not go on asking a kubelet that has ended.
                tokio::spawn(async move {
                    tokio::select! {
                        () = served => {}
                        () = shutdown.cancelled() => {}
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, acceptor: TlsAcceptor, door: Arc<Door>) {
    let _ = stream.set_nodelay(true);
    let stream = match tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%error, %peer, "TLS handshake failed");
            return;
        }
        Err(_) => return,
    };
    let certificates = stream.get_ref().1.peer_certificates();
    let certificate: Option<Arc<[u8]>> = certificates.and_then(|c| c.first()).map(|c| c.as_ref().into());
    let service = service_fn(move |request: Request<Incoming>| {
        let (door, certificate) = (Arc::clone(&door), certificate.clone());
        async move { Ok::<_, Infallible>(handle(&door, request, certificate.as_deref()).await) }
    });
    if let Err(error) = builder().serve_connection_with_upgrades(TokioIo::new(stream), service).await {
        tracing::debug!(%error, %peer, "a connection ended early");
    }
}

async fn handle(door: &Door, request: Request<Incoming>, certificate: Option<&[u8]>) -> Answer {
    match door.gate.admit(&request, certificate).await {
        Ok(()) => door.server.answer(request).await,
        Err(Refusal::Unauthenticated) => text(StatusCode::UNAUTHORIZED, "Unauthorized"),
        Err(Refusal::Forbidden(why)) => text(StatusCode::FORBIDDEN, why),
        Err(Refusal::Unknown(why)) => {
            text(StatusCode::INTERNAL_SERVER_ERROR, format!("Authorization error: {why}"))
        }
    }
}

/// Serves `/healthz` in plain text on localhost until the token fires.
pub async fn serve_healthz(listener: TcpListener, door: Arc<Door>, shutdown: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => return,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(ACCEPT_RETRY).await;
            continue;
        };
        let door = Arc::clone(&door);
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let door = Arc::clone(&door);
                async move {
                    let health = request.uri().path().starts_with("/healthz");
                    let answer = if health {
                        door.server.answer(request).await
                    } else {
                        text(StatusCode::NOT_FOUND, "404 page not found\n")
                    };
                    Ok::<_, Infallible>(answer)
                }
            });
            let _ = builder().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
