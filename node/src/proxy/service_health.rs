//! The health check ports of services with external policy "Local": a load balancer asks every node whether it has an
//! endpoint of the service.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{
    health::Health,
    http::{self, Answer},
};
use crate::network::view::Key;

/// The open health check ports.
pub struct ServiceHealth {
    health: Arc<Mutex<Health>>,
    /// Addresses to listen on; empty means all.
    addresses: Vec<IpAddr>,
    open: BTreeMap<Key, Open>,
    shutdown: CancellationToken,
}

struct Open {
    port: u16,
    endpoints: Arc<AtomicUsize>,
    stop: CancellationToken,
}

impl ServiceHealth {
    /// Nothing is open yet.
    pub fn new(health: Arc<Mutex<Health>>, addresses: Vec<IpAddr>, shutdown: CancellationToken) -> Self {
        Self { health, addresses, open: BTreeMap::new(), shutdown }
    }

    /// Opens, closes and updates ports. A port that cannot be opened is tried again at the next call.
    pub fn sync(&mut self, wanted: &BTreeMap<Key, (u16, usize)>) {
        self.open.retain(|key, open| {
            let stays = wanted.get(key).is_some_and(|(port, _)| *port == open.port);
            if !stays {
                open.stop.cancel();
            }
            stays
        });
        for (key, (port, endpoints)) in wanted {
            match self.open.get(key) {
                Some(open) => open.endpoints.store(*endpoints, Ordering::Relaxed),
                None => match self.open_port(key, *port, *endpoints) {
                    Ok(open) => {
                        self.open.insert(key.clone(), open);
                    }
                    Err(error) => {
                        tracing::warn!(service = %key, port, %error, "cannot open the health check port of a service");
                    }
                },
            }
        }
    }

    fn open_port(&self, key: &Key, port: u16, endpoints: usize) -> std::io::Result<Open> {
        let open = Open {
            port,
            endpoints: Arc::new(AtomicUsize::new(endpoints)),
            stop: self.shutdown.child_token(),
        };
        let everywhere = [IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        let addresses = if self.addresses.is_empty() { &everywhere[..] } else { &self.addresses };
        for address in addresses {
            let listener = match http::listen(SocketAddr::new(*address, port)) {
                // A kernel without IPv6.
                Err(_) if address.is_unspecified() => http::listen(SocketAddr::from(([0, 0, 0, 0], port))),
                other => other,
            };
            let listener = listener.inspect_err(|_| open.stop.cancel())?;
            let (key, health, count) = (key.clone(), self.health.clone(), open.endpoints.clone());
            let handler: http::Handler =
                Arc::new(move |_| answer(&key, count.load(Ordering::Relaxed), &health));
            tokio::spawn(http::serve(listener, handler, open.stop.clone()));
        }
        Ok(open)
    }
}

fn answer(key: &Key, endpoints: usize, health: &Mutex<Health>) -> Answer {
    let alive = health.lock().is_alive(jiff::Timestamp::now());
    let body = json!({
        "service": {"namespace": &*key.namespace, "name": &*key.name},
        "localEndpoints": endpoints,
        "serviceProxyHealthy": alive,
    });
    let mut answer = Answer::json(endpoints > 0 && alive, body.to_string());
    answer.headers.push(("x-load-balancing-endpoint-weight", endpoints.to_string()));
    answer
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, time::Duration};

    use super::*;

    #[tokio::test]
    async fn a_port_that_was_taken_is_opened_at_a_later_call() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = taken.local_addr().expect("its address").port();
        let health = Arc::new(Mutex::new(Health::new(Duration::from_secs(60))));
        let addresses = vec![IpAddr::from([127, 0, 0, 1])];
        let mut served = ServiceHealth::new(health, addresses, CancellationToken::new());
        let wanted = BTreeMap::from([(Key::new("ns", "s"), (port, 1))]);
        served.sync(&wanted);
        assert!(served.open.is_empty(), "somebody else has it");
        drop(taken);
        served.sync(&wanted);
        assert_eq!(served.open.len(), 1);
    }
}
