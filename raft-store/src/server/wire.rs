//! Watch responses, made of bytes we already have: events shared by all who get them are encoded once.

use std::{marker::PhantomData, pin::Pin, sync::Arc};

use bytes::{BufMut, Bytes};
use futures::{Stream, future::BoxFuture};
use prost::Message;
use proto::etcdserverpb::{WatchRequest, WatchResponse};
use tonic::{
    Request, Response, Status, Streaming,
    codec::{Codec, EncodeBuf, Encoder},
};
use tonic_prost::ProstDecoder;

use super::watch::open_session;
use crate::{member::Member, watch::EventBatch};

/// A watch response, and its events as they are shared.
pub struct Wire {
    /// Everything but the events.
    pub head: Box<WatchResponse>,
    /// The events, and whether previous values go with them.
    pub events: Option<(Arc<EventBatch>, bool)>,
}

/// Messages as they come.
pub type WireStream = Pin<Box<dyn Stream<Item = Result<Wire, Status>> + Send>>;

/// Decodes requests as usual and writes answers as they are.
pub struct WireCodec<R> {
    request: PhantomData<R>,
}

impl<R> Default for WireCodec<R> {
    fn default() -> Self {
        Self { request: PhantomData }
    }
}

impl<R: Message + Default + Send + 'static> Codec for WireCodec<R> {
    type Encode = Wire;
    type Decode = R;
    type Encoder = WireEncoder;
    type Decoder = ProstDecoder<R>;

    fn encoder(&mut self) -> WireEncoder {
        WireEncoder
    }

    fn decoder(&mut self) -> ProstDecoder<R> {
        tonic_prost::ProstCodec::<WatchResponse, R>::default().decoder()
    }
}

/// Writes a `Wire`.
pub struct WireEncoder;

impl Encoder for WireEncoder {
    type Item = Wire;
    type Error = Status;

    fn encode(&mut self, item: Wire, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.head.encode(buffer).map_err(|error| Status::internal(error.to_string()))?;
        if let Some((events, prev_kv)) = item.events {
            let wire: &Bytes = events.wire(prev_kv);
            buffer.put_slice(wire);
        }
        Ok(())
    }
}

/// Answers `Watch.Watch`.
pub struct WatchWire(pub Arc<Member>);

impl tonic::server::StreamingService<WatchRequest> for WatchWire {
    type Response = Wire;
    type ResponseStream = WireStream;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<WatchRequest>>) -> Self::Future {
        let member = self.0.clone();
        Box::pin(async move { Ok(Response::new(open_session(member, request)?)) })
    }
}
