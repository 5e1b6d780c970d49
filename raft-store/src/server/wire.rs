//! Answers that are made of bytes we already have: ranges straight from rows, watch events shared by all who
//! get them. Nothing is decoded only to be encoded again.

use std::{marker::PhantomData, pin::Pin, sync::Arc};

use bytes::{BufMut, Bytes};
use futures::{Stream, future::BoxFuture};
use prost::Message;
use proto::etcdserverpb::{RangeRequest, WatchRequest, WatchResponse};
use tonic::{
    Request, Response, Status, Streaming,
    codec::{Codec, EncodeBuf, Encoder},
};
use tonic_prost::ProstDecoder;

use super::{identity::caller, watch::open_session};
use crate::{member::Member, watch::EventBatch};

/// A message as bytes, possibly in two parts.
pub enum Wire {
    /// All of it.
    Whole(Vec<u8>),
    /// A watch response, and its events as they are shared.
    Watch(Box<WatchResponse>, Option<(Arc<EventBatch>, bool)>),
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
        match item {
            Wire::Whole(bytes) => buffer.put_slice(&bytes),
            Wire::Watch(head, events) => {
                head.encode(buffer).map_err(|error| Status::internal(error.to_string()))?;
                if let Some((events, prev_kv)) = events {
                    let wire: &Bytes = events.wire(prev_kv);
                    buffer.put_slice(wire);
                }
            }
        }
        Ok(())
    }
}

/// Answers `KV.Range`.
pub struct RangeWire(pub Arc<Member>);

impl tonic::server::UnaryService<RangeRequest> for RangeWire {
    type Response = Wire;
    type Future = BoxFuture<'static, Result<Response<Wire>, Status>>;

    fn call(&mut self, request: Request<RangeRequest>) -> Self::Future {
        let member = self.0.clone();
        Box::pin(async move {
            let caller = caller(&member, &request)?;
            Ok(Response::new(Wire::Whole(member.range_wire_as(&caller, request.into_inner()).await?)))
        })
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
