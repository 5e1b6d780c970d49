//! Messages: what a request asks, and what an answer looks like on the wire.

use hickory_server::proto::{
    ProtoError,
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, Record, RecordType},
    serialize::binary::{BinEncodable, BinEncoder},
};

/// Payload that we announce and accept: what passes every link unfragmented.
pub const PAYLOAD_LEN: u16 = 1_232;
/// Largest answer over UDP, whatever the client announces.
const UDP_LEN_MAX: u16 = 4_096;
/// Without EDNS.
const UDP_LEN_PLAIN: u16 = 512;

/// How a request reached us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Datagrams: answers may have to be cut.
    Udp,
    /// Streams.
    Tcp,
}

/// What to do with a request.
#[derive(Debug)]
pub enum Request {
    /// Not a question to us: no answer at all.
    Ignore,
    /// Answered with an error code.
    Refuse(ResponseCode),
    /// A question.
    Ask(Query),
}

/// Reads the question of a request, or why there is none.
pub fn question(request: &Message) -> Request {
    if request.metadata.message_type == MessageType::Response {
        return Request::Ignore;
    }
    if request.metadata.op_code != OpCode::Query {
        return Request::Refuse(ResponseCode::NotImp);
    }
    if request.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        return Request::Refuse(ResponseCode::BADVERS);
    }
    match request.queries.as_slice() {
        [query] if query.query_class() != DNSClass::IN => Request::Refuse(ResponseCode::Refused),
        [query] if matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR) => {
            Request::Refuse(ResponseCode::Refused)
        }
        [query] => Request::Ask(query.clone()),
        _ => Request::Refuse(ResponseCode::FormErr),
    }
}

/// An empty answer to a request.
pub fn reply(request: &Message, code: ResponseCode) -> Message {
    let mut reply = Message::response(request.metadata.id, request.metadata.op_code);
    reply.metadata.recursion_desired = request.metadata.recursion_desired;
    reply.metadata.checking_disabled = request.metadata.checking_disabled;
    reply.metadata.recursion_available = true;
    reply.metadata.response_code = code;
    reply.queries.clone_from(&request.queries);
    if let Some(asked) = &request.edns {
        let mut edns = Edns::new();
        edns.set_max_payload(PAYLOAD_LEN);
        edns.set_dnssec_ok(asked.flags().dnssec_ok);
        reply.edns = Some(edns);
    }
    reply
}

/// The bytes of an answer; too long ones are cut and marked, so that the client comes back over TCP.
pub fn encode(reply: &Message, request: &Message, transport: Transport) -> Result<Vec<u8>, ProtoError> {
    let limit = match (transport, &request.edns) {
        (Transport::Tcp, _) => u16::MAX,
        (Transport::Udp, None) => UDP_LEN_PLAIN,
        (Transport::Udp, Some(edns)) => edns.max_payload().clamp(UDP_LEN_PLAIN, UDP_LEN_MAX),
    };
    let mut bytes = Vec::with_capacity(512);
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_max_size(limit);
    match reply.emit(&mut encoder) {
        Ok(()) => Ok(bytes),
        // A single record longer than the limit: only the mark is left to send.
        Err(_) if transport == Transport::Udp => reply.truncate().to_vec(),
        Err(error) => Err(error),
    }
}

/// Puts an upstream answer into a reply, after the aliases that led there.
pub fn adopt(reply: &mut Message, aliases: Vec<Record>, upstream: Message) {
    reply.metadata.response_code = upstream.metadata.response_code;
    reply.metadata.authentic_data = upstream.metadata.authentic_data && aliases.is_empty();
    reply.answers = aliases;
    reply.answers.extend(upstream.answers);
    reply.authorities = upstream.authorities;
    reply.additionals = upstream.additionals;
}
