//! The netlink socket of connection tracking.

use std::{io, mem::MaybeUninit, time::Duration};

use socket2::{Domain, Protocol, Type};

use super::{
    ConntrackError,
    wire::{self, Answer, Flow},
};
use crate::network::view::Family;

/// The kernel fills at most this much for one read of a dump.
const DATAGRAM_BYTES_MAX: usize = 64 * 1024;

/// A socket to the kernel's connection tracking, in the network namespace of the calling thread.
pub struct Socket {
    socket: socket2::Socket,
    sequence: u32,
    buffer: Vec<MaybeUninit<u8>>,
}

impl Socket {
    /// Opens the socket; every read waits at most `timeout`.
    pub fn open(timeout: Duration) -> Result<Self, ConntrackError> {
        let failed = |source| ConntrackError::Socket { doing: "open its socket", source };
        let protocol = Protocol::from(libc::NETLINK_NETFILTER);
        let socket = socket2::Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(protocol))
            .map_err(failed)?;
        socket.set_read_timeout(Some(timeout)).map_err(failed)?;
        Ok(Self { socket, sequence: 0, buffer: vec![MaybeUninit::uninit(); DATAGRAM_BYTES_MAX] })
    }

    /// All UDP flows of a family.
    pub fn dump(&mut self, family: Family) -> Result<Vec<Flow>, ConntrackError> {
        self.sequence += 1;
        self.send(&wire::dump_request(family, self.sequence), "list")?;
        let mut flows = Vec::new();
        loop {
            let answer = self.receive("list")?;
            flows.extend(answer.flows);
            match answer.errno {
                Some(errno) if errno != 0 => return Err(ConntrackError::Kernel { doing: "list", errno }),
                _ if answer.done => return Ok(flows),
                _ => {}
            }
        }
    }

    /// Deletes a flow; false when it was gone already.
    pub fn delete(&mut self, family: Family, flow: &Flow) -> Result<bool, ConntrackError> {
        self.sequence += 1;
        self.send(&wire::delete_request(family, self.sequence, flow), "delete")?;
        loop {
            match self.receive("delete")?.errno {
                Some(0) => return Ok(true),
                Some(libc::ENOENT) => return Ok(false),
                Some(errno) => return Err(ConntrackError::Kernel { doing: "delete", errno }),
                None => {}
            }
        }
    }

    fn send(&self, message: &[u8], doing: &'static str) -> Result<(), ConntrackError> {
        // An unconnected netlink socket sends to the kernel.
        self.socket.send(message).map(|_| ()).map_err(|source| ConntrackError::Socket { doing, source })
    }

    fn receive(&mut self, doing: &'static str) -> Result<Answer, ConntrackError> {
        loop {
            match self.socket.recv(&mut self.buffer) {
                Ok(len) => {
                    // SAFETY: the kernel wrote the first `len` bytes, and bytes have no invalid values.
                    let datagram =
                        unsafe { std::slice::from_raw_parts(self.buffer.as_ptr().cast::<u8>(), len) };
                    return Ok(wire::parse(datagram));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(ConntrackError::Socket { doing, source }),
            }
        }
    }
}
