//! Listening: plain or TLS, HTTP/1 and HTTP/2 on one port, a clean end.

use std::{convert::Infallible, net::IpAddr, sync::Arc, time::Duration};

use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    authority::MendAuthority,
    identity::Connection,
    socket::{Socket, Stream, is_private},
};
use crate::{
    config::Config,
    member::StartError,
    tls::{ServerTls, common_name},
};

/// Bytes a client may have on the way unacknowledged, each stream and together.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// How a connection is kept.
#[derive(Clone, Copy, Debug)]
pub struct Keeping {
    /// Calls a client may have open on it.
    pub streams_max: u32,
    /// How often a silent client is asked whether it is there; zero for never.
    pub ask_interval: Duration,
    /// How long its answer may take.
    pub ask_timeout: Duration,
}

impl Keeping {
    /// As the flags say.
    pub fn of(config: &Config) -> Self {
        Self {
            streams_max: config.max_concurrent_streams,
            ask_interval: config.grpc_keepalive_interval,
            ask_timeout: config.grpc_keepalive_timeout,
        }
    }
}

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

/// Opens a port and serves it in the background until `stop`.
pub async fn listen(
    url: &str,
    tls: Option<Arc<ServerTls>>,
    keeping: Keeping,
    serve: impl Fn(Accepted) + Send + 'static,
    stop: CancellationToken,
    tasks: &TaskTracker,
) -> Result<(), StartError> {
    let failed = |cause: String| StartError::Listen { url: url.to_owned(), cause };
    let tls = match (is_private(url), tls) {
        (true, None) => {
            let cause = "TLS needs a certificate: give a certificate file and its key file, or auto-tls";
            return Err(failed(cause.to_owned()));
        }
        (true, tls) => tls,
        (false, tls) => {
            if tls.is_some() {
                tracing::warn!(
                    url,
                    "the scheme is http or unix: the certificates given are not used on this port"
                );
            }
            None
        }
    };
    let socket = Socket::open(url).await.map_err(failed)?;
    let connections = tasks.clone();
    tasks.spawn(async move {
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = socket.accept() => accepted,
            };
            let (stream, remote) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, most likely: give others time to close some.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (tls, stop, tasks) = (tls.clone(), stop.clone(), connections.clone());
            serve(Accepted { stream, remote, tls, keeping, stop, tasks });
        }
    });
    Ok(())
}

/// A connection that has just come in.
pub struct Accepted {
    stream: Stream,
    remote: Option<IpAddr>,
    tls: Option<Arc<ServerTls>>,
    keeping: Keeping,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Accepted {
    /// Serves it with what `handler` makes of it, in the background.
    pub fn serve<H: Handler>(self, handler: impl FnOnce(Connection) -> H + Send + 'static) {
        let tasks = self.tasks.clone();
        tasks.spawn(async move {
            let Some(tls) = &self.tls else {
                let handler = handler(Connection::default());
                return serve_stream(self.stream, handler, self.keeping, self.stop).await;
            };
            let handshake = tls.acceptor().accept(self.stream);
            match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
                Ok(Ok(stream)) => {
                    let chain = stream.get_ref().1.peer_certificates();
                    let certificate = chain.and_then(|chain| chain.first()).cloned();
                    if let Err(error) = tls.check_address(certificate.as_ref(), self.remote).await {
                        tracing::warn!(remote = ?self.remote, %error, "rejected connection");
                        return;
                    }
                    let name = certificate.as_ref().and_then(common_name).map(Arc::from);
                    let handler = handler(Connection { is_tls: true, certificate_name: name });
                    serve_stream(stream, handler, self.keeping, self.stop).await;
                }
                Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
                Err(_) => tracing::debug!("TLS handshake took too long"),
            }
        });
    }
}

/// How long a client may take to say hello.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

async fn serve_stream<H: Handler>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    handler: H,
    keeping: Keeping,
    stop: CancellationToken,
) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(keeping.streams_max)
        .keep_alive_interval(Some(keeping.ask_interval).filter(|interval| !interval.is_zero()))
        .keep_alive_timeout(keeping.ask_timeout);
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
            let _ = tokio::time::timeout(Duration::from_millis(500), connection).await;
        }
    }
}
