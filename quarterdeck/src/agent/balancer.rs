//! A TCP relay on loopback through which everything on this machine reaches whichever server is alive.
//!
//! One connection goes to one server, chosen when it is opened: the last one that worked first, then the others. TLS
//! passes through untouched, so the servers' certificates (which name 127.0.0.1) prove themselves to the clients.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::failure::Result;

/// A server on the same network answers a SYN within this; longer and the next is tried.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(800);

/// The servers known now, best first.
#[derive(Debug, Default)]
pub struct Servers(Mutex<Vec<SocketAddr>>);

impl Servers {
    pub fn new(servers: Vec<SocketAddr>) -> Self {
        Servers(Mutex::new(servers))
    }

    /// Takes a new list, keeping the order of those that stay. An empty list is not believed.
    pub fn replace(&self, servers: &[SocketAddr]) {
        if servers.is_empty() {
            return;
        }
        let mut known = self.0.lock();
        known.retain(|server| servers.contains(server));
        for server in servers {
            if !known.contains(server) {
                known.push(*server);
            }
        }
    }

    fn list(&self) -> Vec<SocketAddr> {
        self.0.lock().clone()
    }

    /// Moves a server that did not answer to the end.
    fn demote(&self, server: SocketAddr) {
        let mut known = self.0.lock();
        if let Some(at) = known.iter().position(|candidate| *candidate == server) {
            known.remove(at);
            known.push(server);
        }
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
    let Some(mut server) = connect(&servers).await else { return };
    let (_, _) = (client.set_nodelay(true), server.set_nodelay(true));
    // An error is one side closing in the middle; both sockets close with it.
    if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut server).await {
        tracing::trace!(%error, "a relayed connection ended");
    }
}

async fn connect(servers: &Servers) -> Option<TcpStream> {
    for server in servers.list() {
        match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(server)).await {
            Ok(Ok(stream)) => return Some(stream),
            Ok(Err(error)) => tracing::debug!(%server, %error, "a server does not answer"),
            Err(_) => tracing::debug!(%server, "a server does not answer in time"),
        }
        servers.demote(server);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn greeter(text: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.write_all(text.as_bytes()).await;
            }
        });
        address
    }

    async fn ask(relay: SocketAddr) -> String {
        let mut answer = String::new();
        let mut stream = TcpStream::connect(relay).await.expect("connected");
        stream.read_to_string(&mut answer).await.expect("an answer");
        answer
    }

    #[tokio::test]
    async fn a_dead_server_is_passed_over_and_a_new_one_is_used() {
        let dead = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address");
        let (first, second) = (greeter("first").await, greeter("second").await);
        let servers = Arc::new(Servers::new(vec![dead, first]));
        let relay = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address");
        serve(relay, servers.clone(), CancellationToken::new()).await.expect("served");
        assert_eq!(ask(relay).await, "first");
        servers.replace(&[second]);
        assert_eq!(ask(relay).await, "second");
        servers.replace(&[]);
        assert_eq!(ask(relay).await, "second");
    }
}
