//! `KV.Range` without the codec: rows go from the state to the socket with one copy in between.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use ::http::{HeaderMap, HeaderValue, Request, Response, header::CONTENT_TYPE};
use bytes::{Buf, Bytes};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Frame;
use prost::Message;
use proto::etcdserverpb::RangeRequest;
use tonic::{Status, body::Body, metadata::MetadataMap};

use super::identity::caller;
use crate::{
    member::Member,
    mvcc::pieces::{HEAD_BYTES, Pieces},
};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Answers one call.
pub async fn answer<B>(member: Arc<Member>, request: Request<B>, request_max: usize) -> Response<Body>
where
    B: ::http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError> + Send,
{
    match call(&member, request, request_max).await {
        Ok(pieces) => framed(pieces),
        Err(status) => status.into_http(),
    }
}

async fn call<B>(member: &Arc<Member>, request: Request<B>, request_max: usize) -> Result<Pieces, Status>
where
    B: ::http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError> + Send,
{
    let (parts, body) = request.into_parts();
    let metadata = MetadataMap::from_headers(parts.headers);
    let caller = caller(member, &tonic::Request::from_parts(metadata, parts.extensions, ()))?;
    let request = decode(body, request_max).await?;
    Ok(member.range_wire_as(&caller, request).await?)
}

/// The one message of a request: a flag, its length, its bytes.
async fn decode<B>(body: B, request_max: usize) -> Result<RangeRequest, Status>
where
    B: ::http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError> + Send,
{
    let body = Limited::new(body, request_max + HEAD_BYTES).collect().await.map_err(|error| {
        if error.is::<LengthLimitError>() {
            return Status::resource_exhausted(format!("message larger than max ({request_max} bytes)"));
        }
        Status::internal(error.to_string())
    })?;
    let mut body = body.to_bytes();
    if body.len() < HEAD_BYTES {
        return Err(Status::internal("Missing request message."));
    }
    if body.get_u8() != 0 {
        return Err(Status::unimplemented("compressed requests are not supported"));
    }
    let length = usize::try_from(body.get_u32()).unwrap_or(usize::MAX);
    if length != body.len() {
        return Err(Status::internal(format!("a message of {} instead of {length} bytes", body.len())));
    }
    RangeRequest::decode(body).map_err(|error| Status::internal(error.to_string()))
}

fn framed(pieces: Pieces) -> Response<Body> {
    let length = u32::try_from(pieces.len()).unwrap_or(u32::MAX).to_be_bytes();
    let head = [0, length[0], length[1], length[2], length[3]];
    let body = Framed { pieces: pieces.framed(head).collect(), is_over: false };
    let mut response = Response::new(Body::new(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// A message in pieces, then the trailers of success.
struct Framed {
    pieces: VecDeque<Bytes>,
    is_over: bool,
}

impl ::http_body::Body for Framed {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(piece) = self.pieces.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        if self.is_over {
            return Poll::Ready(None);
        }
        self.is_over = true;
        let mut trailers = HeaderMap::with_capacity(1);
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.is_over
    }
}
