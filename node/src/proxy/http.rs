//! Small HTTP servers: a path in, a short answer out.

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::Semaphore,
};
use tokio_util::sync::CancellationToken;

/// What a handler answers.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Value of `Content-Type`.
    pub content_type: &'static str,
    /// More headers.
    pub headers: Vec<(&'static str, String)>,
    /// Body.
    pub body: String,
}

impl Answer {
    /// JSON with status 200 or 503.
    pub fn json(healthy: bool, body: String) -> Self {
        let headers = vec![("x-content-type-options", "nosniff".to_owned())];
        Self { status: if healthy { 200 } else { 503 }, content_type: "application/json", headers, body }
    }

    /// Plain text with status 200.
    pub fn text(body: String) -> Self {
        Self {
            status: 200,
            content_type: "text/plain; version=0.0.4; charset=utf-8",
            headers: Vec::new(),
            body,
        }
    }

    /// Status 404.
    pub fn not_found() -> Self {
        let body = "404 page not found\n".to_owned();
        Self { status: 404, content_type: "text/plain; charset=utf-8", headers: Vec::new(), body }
    }
}

/// A handler of paths.
pub type Handler = Arc<dyn Fn(&str) -> Answer + Send + Sync>;

/// Connections served at once; health checkers open a handful.
const CONNECTIONS_MAX: usize = 256;
const BACKLOG: u32 = 128;
/// Who says nothing for this long must not keep others out.
const HEAD_LIMIT: std::time::Duration = std::time::Duration::from_secs(30);

/// Listens with address reuse, so that a restarted agent gets its port back at once.
pub fn listen(at: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if at.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(at)?;
    socket.listen(BACKLOG)
}

/// Serves until `shutdown`.
pub async fn serve(listener: TcpListener, handler: Handler, shutdown: CancellationToken) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            // Out of file descriptors: waiting a moment beats spinning.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            continue;
        };
        let Ok(slot) = slots.clone().try_acquire_owned() else { continue };
        let (handler, shutdown) = (handler.clone(), shutdown.clone());
        tokio::spawn(async move {
            let _slot = slot;
            let answer = service_fn(|request: Request<Incoming>| {
                let response = respond(&handler, request.uri().path());
                async move { Ok::<_, Infallible>(response) }
            });
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT);
            let connection = builder.serve_connection(TokioIo::new(stream), answer);
            tokio::select! {
                // A broken connection concerns its client only.
                _ = connection => {}
                () = shutdown.cancelled() => {}
            }
        });
    }
}

fn respond(handler: &Handler, path: &str) -> Response<Full<Bytes>> {
    let answer = handler(path);
    let mut builder = Response::builder().status(answer.status).header("content-type", answer.content_type);
    for (name, value) in answer.headers {
        builder = builder.header(name, value);
    }
    builder.body(Full::new(answer.body.into())).unwrap_or_else(|_| {
        let mut failed = Response::new(Full::default());
        *failed.status_mut() = hyper::StatusCode::INTERNAL_SERVER_ERROR;
        failed
    })
}
