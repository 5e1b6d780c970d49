//! Ports for the members of tests: below those the system gives to outgoing connections, which could otherwise take one
//! between two lives of its member; no two in one process are the same.

use std::{
    net::TcpListener,
    process,
    sync::atomic::{AtomicU32, Ordering},
};

/// Above the ports of Kubernetes' own components, below its node ports (30000) and the system's own (32768).
const FIRST: u32 = 11_000;
const COUNT: u32 = 18_000;
/// More than one process of tests takes: those that run at the same time have ids close to each other.
const OF_ONE_PROCESS: u32 = 131;

/// A port nobody listens on now.
pub fn free_port() -> u16 {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    let start = process::id() % COUNT * OF_ONE_PROCESS;
    let mut ports = (0..COUNT).map(|_| FIRST + (start + TAKEN.fetch_add(1, Ordering::Relaxed)) % COUNT);
    let port = ports.find_map(|port| u16::try_from(port).ok().filter(|port| is_free(*port)));
    port.expect("a free port")
}

fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}
