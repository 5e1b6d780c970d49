//! A TCP relay on loopback through which everything on this machine reaches whichever server is alive.
//!
//! One connection goes to one server, chosen when it is opened: the last one that worked first, then the others. TLS
//! passes through untouched, so the servers' certificates (which name 127.0.0.1) prove themselves to the clients. A
//! server that is given up has its connections closed: their owners would otherwise wait for answers that never come.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rand::seq::SliceRandom;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::failure::Result;

/// A server on the same network answers a SYN within this; longer and the next is tried.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(800);

/// The servers known now, best first.
#[derive(Debug)]
pub struct Servers {
    known: Mutex<Vec<Server>>,
    /// None answered the last who asked: said once, for an outage may last hours.
    silent: AtomicBool,
}

#[derive(Clone, Debug)]
struct Server {
    address: SocketAddr,
    /// Is cancelled when the server is given up; its connections end then.
    given_up: CancellationToken,
}

impl Server {
    fn new(address: SocketAddr) -> Self {
        Server { address, given_up: CancellationToken::new() }
    }
}

impl Servers {
    /// In random order, so that many machines spread over the servers.
    pub fn new(mut addresses: Vec<SocketAddr>) -> Self {
        addresses.shuffle(&mut rand::rng());
        let known = addresses.into_iter().map(Server::new).collect();
        Servers { known: Mutex::new(known), silent: AtomicBool::new(false) }
    }

    /// Takes a new list, keeping the order of those that stay. An empty list is not believed.
    pub fn replace(&self, addresses: &[SocketAddr]) {
        if addresses.is_empty() {
            return;
        }
        let mut known = self.known.lock();
        for gone in known.extract_if(.., |server| !addresses.contains(&server.address)) {
            gone.given_up.cancel();
        }
        for address in addresses {
            if !known.iter().any(|server| server.address == *address) {
                known.push(Server::new(*address));
            }
        }
    }

    /// Best first.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.known.lock().iter().map(|server| server.address).collect()
    }

    /// Moves a server to the end and closes its connections.
    pub fn give_up(&self, address: SocketAddr) {
        let mut known = self.known.lock();
        if let Some(at) = known.iter().position(|server| server.address == address) {
            known.remove(at).given_up.cancel();
            known.push(Server::new(address));
        }
    }

    fn list(&self) -> Vec<Server> {
        self.known.lock().clone()
    }
}

/// Listens on `address` and relays until cancelled.
pub async fn serve(address: SocketAddr, servers: Arc<Servers>, shutdown: CancellationToken) -> Result<()> {
    let listener = TcpListener::bind(address).await?;
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((client, _)) => {
                    tokio::spawn(relay(client, servers.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "the API relay could not accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    });
    Ok(())
}

async fn relay(mut client: TcpStream, servers: Arc<Servers>) {
    let found = connect(&servers).await;
    let was_silent = servers.silent.swap(found.is_none(), Ordering::Relaxed);
    let Some((mut server, given_up)) = found else {
        if !was_silent {
            tracing::warn!("no server answers");
        }
        return;
    };
    if was_silent {
        tracing::info!("a server answers again");
    }
    // Small requests go out at once; a failure shows at the first read or write.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    tokio::select! {
        copied = tokio::io::copy_bidirectional(&mut client, &mut server) => {
            if let Err(error) = copied {
                tracing::debug!(%error, "a relayed connection broke");
            }
        }
        () = given_up.cancelled() => {}
    }
}

async fn connect(servers: &Servers) -> Option<(TcpStream, CancellationToken)> {
    for server in servers.list() {
        let address = server.address;
        match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Some((stream, server.given_up)),
            Ok(Err(error)) => tracing::debug!(%address, %error, "a server does not answer"),
            Err(_) => tracing::debug!(%address, "a server does not answer in time"),
        }
        servers.give_up(address);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Says its text to everybody; keeps the connection open where told to.
    async fn greeter(text: &'static str, stays: bool) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                stream.write_all(text.as_bytes()).await.expect("written");
                if stays {
                    open.push(stream);
                }
            }
        });
        address
    }

    async fn relay_to(servers: &Arc<Servers>) -> SocketAddr {
        let relay = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address");
        serve(relay, servers.clone(), CancellationToken::new()).await.expect("served");
        relay
    }

    /// Everything that is said until the connection ends.
    async fn ask(relay: SocketAddr) -> String {
        let mut answer = String::new();
        let mut stream = TcpStream::connect(relay).await.expect("connected");
        stream.read_to_string(&mut answer).await.expect("an answer");
        answer
    }

    #[tokio::test]
    async fn a_dead_server_is_passed_over_and_a_new_one_is_used() {
        let dead = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address");
        let (first, second) = (greeter("first", false).await, greeter("second", false).await);
        let servers = Arc::new(Servers::new(vec![dead, first]));
        let relay = relay_to(&servers).await;
        assert_eq!(ask(relay).await, "first");
        servers.replace(&[second]);
        assert_eq!(ask(relay).await, "second");
        servers.replace(&[]);
        assert_eq!(ask(relay).await, "second");
    }

    #[tokio::test]
    async fn connections_to_a_server_that_is_given_up_end() {
        let silent = greeter("hello", true).await;
        let servers = Arc::new(Servers::new(vec![silent]));
        let open = tokio::spawn(ask(relay_to(&servers).await));
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!open.is_finished());
        servers.give_up(silent);
        assert_eq!(open.await.expect("ended"), "hello");
        assert_eq!(servers.addresses(), [silent]);
    }
}
