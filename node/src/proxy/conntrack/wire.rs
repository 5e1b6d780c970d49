//! Messages of the kernel's connection tracking interface (nfnetlink subsystem 1): pure encoding and decoding.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::network::view::Family;

/// A tracked UDP flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Where the client sent its packets.
    pub destination: SocketAddr,
    /// Who answers, after the destination was rewritten.
    pub answered_by: SocketAddr,
    /// The original tuple's attribute as the kernel spelt it, for deleting.
    pub tuple: Box<[u8]>,
}

/// What a datagram from the kernel held.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// UDP flows.
    pub flows: Vec<Flow>,
    /// The dump ends here.
    pub done: bool,
    /// Error number of an acknowledgement; zero for success.
    pub errno: Option<i32>,
}

const HEADER_LEN: usize = 16;
const GENERIC_LEN: usize = 4;
const MESSAGE_NEW: u16 = 0x100;
const MESSAGE_GET: u16 = 0x101;
const MESSAGE_DELETE: u16 = 0x102;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const FLAG_REQUEST: u16 = 0x1;
const FLAG_ACK: u16 = 0x4;
const FLAG_DUMP: u16 = 0x300;
const ATTRIBUTE_KIND_MASK: u16 = 0x3fff;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const PROTOCOL_NUMBER: u16 = 1;
const PROTOCOL_SOURCE_PORT: u16 = 2;
const PROTOCOL_DESTINATION_PORT: u16 = 3;
const UDP: u8 = 17;

/// Asks for all flows of a family.
pub fn dump_request(family: Family, sequence: u32) -> Vec<u8> {
    message(MESSAGE_GET, FLAG_REQUEST | FLAG_DUMP, family, sequence, &[])
}

/// Asks to delete a flow.
pub fn delete_request(family: Family, sequence: u32, flow: &Flow) -> Vec<u8> {
    message(MESSAGE_DELETE, FLAG_REQUEST | FLAG_ACK, family, sequence, &flow.tuple)
}

fn message(kind: u16, flags: u16, family: Family, sequence: u32, attributes: &[u8]) -> Vec<u8> {
    let len = u32::try_from(HEADER_LEN + GENERIC_LEN + attributes.len()).unwrap_or(u32::MAX);
    let mut out = Vec::with_capacity(HEADER_LEN + GENERIC_LEN + attributes.len());
    out.extend_from_slice(&len.to_ne_bytes());
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(&flags.to_ne_bytes());
    out.extend_from_slice(&sequence.to_ne_bytes());
    out.extend_from_slice(&0u32.to_ne_bytes());
    let address_family = match family {
        Family::V4 => libc::AF_INET,
        Family::V6 => libc::AF_INET6,
    };
    out.extend_from_slice(&[u8::try_from(address_family).unwrap_or_default(), 0, 0, 0]);
    out.extend_from_slice(attributes);
    out
}

/// Reads one datagram. Messages that do not parse are skipped.
pub fn parse(mut datagram: &[u8]) -> Answer {
    let mut answer = Answer::default();
    while let Some(header) = datagram.get(..HEADER_LEN) {
        let len = usize::try_from(read_u32(header)).unwrap_or_default();
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let Some(body) = datagram.get(HEADER_LEN..len) else { break };
        match kind {
            NLMSG_DONE => answer.done = true,
            NLMSG_ERROR => answer.errno = body.get(..4).map(|code| -(read_u32(code) as i32)),
            MESSAGE_NEW => answer.flows.extend(body.get(GENERIC_LEN..).and_then(flow)),
            _ => {}
        }
        datagram = datagram.get(aligned(len)..).unwrap_or_default();
    }
    answer
}

fn aligned(len: usize) -> usize {
    (len + 3) & !3
}

fn read_u32(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |chunk| u32::from_ne_bytes(*chunk))
}

/// Attributes of one level: kind, whole attribute, payload.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8], &[u8])> {
    std::iter::from_fn(move || {
        let header = bytes.first_chunk::<4>()?;
        let len = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & ATTRIBUTE_KIND_MASK;
        let whole = bytes.get(..len).filter(|whole| whole.len() >= 4)?;
        let padded = bytes.get(..aligned(len)).unwrap_or(whole);
        bytes = bytes.get(aligned(len)..).unwrap_or_default();
        Some((kind, padded, &whole[4..]))
    })
}

fn flow(body: &[u8]) -> Option<Flow> {
    let mut original = None;
    let mut reply = None;
    for (kind, whole, payload) in attributes(body) {
        match kind {
            TUPLE_ORIGINAL => original = Some((whole, tuple(payload)?)),
            TUPLE_REPLY => reply = Some(tuple(payload)?),
            _ => {}
        }
    }
    let (whole, (_, destination)) = original?;
    let (answered_by, _) = reply?;
    Some(Flow { destination, answered_by, tuple: whole.into() })
}

/// Source and destination of a UDP tuple.
fn tuple(bytes: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let (mut source, mut destination) = (None, None);
    let (mut source_port, mut destination_port) = (None, None);
    for (kind, _, payload) in attributes(bytes) {
        match kind {
            TUPLE_IP => {
                for (kind, _, payload) in attributes(payload) {
                    // Odd kinds are sources, even kinds destinations, of either family.
                    *(if kind % 2 == 1 { &mut source } else { &mut destination }) = ip(payload);
                }
            }
            TUPLE_PROTOCOL => {
                for (kind, _, payload) in attributes(payload) {
                    let port = payload.first_chunk::<2>().map(|port| u16::from_be_bytes(*port));
                    match kind {
                        PROTOCOL_NUMBER if payload.first() != Some(&UDP) => return None,
                        PROTOCOL_SOURCE_PORT => source_port = port,
                        PROTOCOL_DESTINATION_PORT => destination_port = port,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Some((SocketAddr::new(source?, source_port?), SocketAddr::new(destination?, destination_port?)))
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => bytes.first_chunk::<4>().map(|octets| Ipv4Addr::from(*octets).into()),
        16 => bytes.first_chunk::<16>().map(|octets| Ipv6Addr::from(*octets).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, payload: &[u8]) -> Vec<u8> {
        let mut out = u16::try_from(payload.len() + 4).expect("small").to_ne_bytes().to_vec();
        out.extend_from_slice(&kind.to_ne_bytes());
        out.extend_from_slice(payload);
        out.resize(aligned(out.len()), 0);
        out
    }

    fn tuple_bytes(kind: u16, protocol: u8, from: ([u8; 4], u16), to: ([u8; 4], u16)) -> Vec<u8> {
        let nested = |kind: u16, parts: &[Vec<u8>]| attribute(kind | 0x8000, &parts.concat());
        let ips = nested(TUPLE_IP, &[attribute(1, &from.0), attribute(2, &to.0)]);
        let ports = [
            attribute(PROTOCOL_NUMBER, &[protocol]),
            attribute(PROTOCOL_SOURCE_PORT, &from.1.to_be_bytes()),
            attribute(PROTOCOL_DESTINATION_PORT, &to.1.to_be_bytes()),
        ];
        nested(kind, &[ips, nested(TUPLE_PROTOCOL, &ports)])
    }

    fn entry(protocol: u8) -> Vec<u8> {
        let (client, service, pod) = (([10, 1, 0, 9], 4000), ([10, 96, 0, 10], 53), ([10, 1, 0, 2], 5353));
        let original = tuple_bytes(TUPLE_ORIGINAL, protocol, client, service);
        let reply = tuple_bytes(TUPLE_REPLY, protocol, pod, client);
        message(MESSAGE_NEW, 0, Family::V4, 1, &[original, reply].concat())
    }

    #[test]
    fn udp_flows_are_read_and_can_be_named_again() {
        let done = message(NLMSG_DONE, 0, Family::V4, 1, &[]);
        let answer = parse(&[entry(UDP), entry(6), done].concat());
        assert!(answer.done && answer.errno.is_none());
        assert_eq!(answer.flows.len(), 1, "TCP flows are of no interest");
        let flow = &answer.flows[0];
        assert_eq!(flow.destination, "10.96.0.10:53".parse().expect("an address"));
        assert_eq!(flow.answered_by, "10.1.0.2:5353".parse().expect("an address"));
        let request = delete_request(Family::V4, 7, flow);
        assert_eq!(&request[HEADER_LEN + GENERIC_LEN..], &*flow.tuple);
    }

    #[test]
    fn broken_datagrams_give_nothing() {
        let whole = entry(UDP);
        for cut in 0..whole.len() {
            assert!(parse(&whole[..cut]).flows.is_empty(), "cut at {cut}");
        }
        let mut refused = message(NLMSG_ERROR, 0, Family::V4, 1, &[]);
        refused[HEADER_LEN..].copy_from_slice(&(-2i32).to_ne_bytes());
        assert_eq!(parse(&refused).errno, Some(2));
    }
}
