//! Listening: plain or TLS, HTTP/1 and HTTP/2 on one port, a clean end.

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{authority::MendAuthority, identity::Connection};
use crate::{
    member::StartError,
    tls::{ServerTls, common_name},
};

/// Bytes a client may have on the way unacknowledged, each stream and together.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// Calls a client may have open on one connection.
const STREAMS_MAX: u32 = 100_000;

/// What answers requests on a port.
pub trait Handler:
    tower::Service<
        http::Request<Incoming>,
        Response = http::Response<tonic::body::Body>,
        Error = Infallible,
        Future: Send + 'static,
    > + Clone
    + Send
    + 'static
{
}

impl<S> Handler for S where
    S: tower::Service<
            http::Request<Incoming>,
            Response = http::Response<tonic::body::Body>,
            Error = Infallible,
            Future: Send + 'static,
        > + Clone
        + Send
        + 'static
{
}

/// The address of a URL such as `http://127.0.0.1:2379`; names are looked up.
async fn address(url: &str) -> Result<SocketAddr, StartError> {
    let failed = |cause: String| StartError::Listen { url: url.to_owned(), cause };
    let uri: http::Uri = url.parse().map_err(|error: http::uri::InvalidUri| failed(error.to_string()))?;
    let host = uri.host().ok_or_else(|| failed("no host in it".into()))?.trim_matches(['[', ']']).to_owned();
    let port = uri.port_u16().ok_or_else(|| failed("no port in it".into()))?;
    let mut found = tokio::net::lookup_host((host, port)).await.map_err(|error| failed(error.to_string()))?;
    found.next().ok_or_else(|| failed("no address has this name".into()))
}

/// Opens a port and serves it in the background until `stop`.
pub async fn listen(
    url: &str,
    tls: Option<Arc<ServerTls>>,
    serve: impl Fn(Accepted) + Send + 'static,
    stop: CancellationToken,
    tasks: &TaskTracker,
) -> Result<(), StartError> {
    let failed = |cause: std::io::Error| StartError::Listen { url: url.to_owned(), cause: cause.to_string() };
    let listener = TcpListener::bind(address(url).await?).await.map_err(failed)?;
    let tls = if url.starts_with("https://") { tls } else { None };
    let connections = tasks.clone();
    tasks.spawn(async move {
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file descriptors, most likely: give others time to close some.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    continue;
                }
            };
            // Small answers must not wait for each other; a socket that refuses is served all the same.
            let _ = stream.set_nodelay(true);
            let (tls, stop, tasks) = (tls.clone(), stop.clone(), connections.clone());
            serve(Accepted { stream, tls, stop, tasks });
        }
    });
    Ok(())
}

/// A connection that has just come in.
pub struct Accepted {
    stream: TcpStream,
    tls: Option<Arc<ServerTls>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Accepted {
    /// Serves it with what `handler` makes of it, in the background.
    pub fn serve<H: Handler>(self, handler: impl FnOnce(Connection) -> H + Send + 'static) {
        let tasks = self.tasks.clone();
        tasks.spawn(async move {
            let Some(tls) = &self.tls else {
                return serve_stream(self.stream, handler(Connection::default()), self.stop).await;
            };
            let handshake = tls.acceptor().accept(self.stream);
            match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
                Ok(Ok(stream)) => {
                    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
                    let name = certificate.and_then(common_name).map(Arc::from);
                    serve_stream(stream, handler(Connection { certificate_name: name }), self.stop).await;
                }
                Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
                Err(_) => tracing::debug!("TLS handshake took too long"),
            }
        });
    }
}

/// How long a client may take to say hello.
const HANDSHAKE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

async fn serve_stream<H: Handler>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    handler: H,
    stop: CancellationToken,
) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(STREAMS_MAX)
        .keep_alive_interval(std::time::Duration::from_secs(60))
        .keep_alive_timeout(std::time::Duration::from_secs(20));
    let stream = TokioIo::new(MendAuthority::new(stream));
    let connection = builder.serve_connection_with_upgrades(stream, TowerToHyperService::new(handler));
    tokio::pin!(connection);
    tokio::select! {
        ended = &mut connection => {
            if let Err(error) = ended {
                tracing::debug!(error, "a connection broke");
            }
        }
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            // Streams that do not end by themselves are cut off.
            let _ = tokio::time::timeout(std::time::Duration::from_millis(500), connection).await;
        }
    }
}
