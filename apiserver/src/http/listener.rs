//! Sockets: accepts, shakes hands, serves HTTP/1.1 and HTTP/2, drains at shutdown.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::Api;
use super::chain::Connection;

/// A client that does not finish its handshake in this time is dropped.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A client that does not finish its request head in this time is dropped (upstream's ReadHeaderTimeout).
const HEADER_TIMEOUT: Duration = Duration::from_secs(32);
/// Requests get this long to end after the listener has closed.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Streams of one HTTP/2 connection: client-go shares one connection for all of its watches.
const STREAMS_MAX: u32 = 1000;
/// HTTP/2 windows for request bodies; answers are bounded by the client's.
const STREAM_WINDOW_LEN: u32 = 256 * 1024;
const CONNECTION_WINDOW_LEN: u32 = 4 * 1024 * 1024;
/// Answer bytes buffered for one HTTP/2 stream.
const SEND_BUFFER_LEN: usize = 256 * 1024;
/// How often a silent HTTP/2 client is asked whether it is there, and how long its answer may take: machines that lose
/// their power close nothing, and what their connections hold would stay.
const ALIVE_INTERVAL: Duration = Duration::from_secs(60);
const ALIVE_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause after a failed accept (out of file descriptors).
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);

/// A bound socket; connections can already queue on it.
pub struct Listener {
    socket: TcpListener,
    pub address: SocketAddr,
}

impl Listener {
    pub async fn bind(address: SocketAddr) -> std::io::Result<Self> {
        let socket = TcpListener::bind(address).await?;
        let address = socket.local_addr()?;
        Ok(Self { socket, address })
    }

    /// Serves until `shutdown`, then waits for requests in flight.
    pub async fn run(self, api: Arc<Api>, tls: Arc<ServerConfig>, shutdown: CancellationToken) {
        let acceptor = TlsAcceptor::from(tls);
        let graceful = GracefulShutdown::new();
        loop {
            let accepted = tokio::select! {
                accepted = self.socket.accept() => accepted,
                () = shutdown.cancelled() => break,
            };
            let (stream, _) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection failed");
                    tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
                    continue;
                }
            };
            let watcher = graceful.watcher();
            let (api, acceptor) = (api.clone(), acceptor.clone());
            tokio::spawn(async move {
                if let Err(error) = serve_connection(stream, acceptor, api, watcher).await {
                    tracing::debug!(%error, "a connection ended with an error");
                }
            });
        }
        drop(self.socket);
        if tokio::time::timeout(DRAIN_TIMEOUT, graceful.shutdown()).await.is_err() {
            tracing::info!("some connections were still open after {DRAIN_TIMEOUT:?} of draining");
        }
    }
}

type ServeError = Box<dyn std::error::Error + Send + Sync>;

async fn serve_connection(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    api: Arc<Api>,
    watcher: hyper_util::server::graceful::Watcher,
) -> Result<(), ServeError> {
    stream.set_nodelay(true)?;
    let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        failed => {
            api.metrics.tls_failed();
            return failed?.map(drop).map_err(Into::into);
        }
    };
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let peer_certificates = Arc::new(certificates.iter().map(|c| c.as_ref().to_vec()).collect());
    let connection = Connection { peer_certificates };
    let service = service_fn(move |request: Request<Incoming>| {
        let (api, connection) = (api.clone(), connection.clone());
        async move { Ok::<_, Infallible>(api.serve(connection, request).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .keep_alive_interval(ALIVE_INTERVAL)
        .keep_alive_timeout(ALIVE_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW_LEN)
        .initial_connection_window_size(CONNECTION_WINDOW_LEN)
        .max_send_buf_size(SEND_BUFFER_LEN);
    let serving = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
    watcher.watch(serving).await
}
