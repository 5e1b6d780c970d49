//! A running service proxy inside a lab's node, fed by hand.

use std::thread::JoinHandle;

use kube::{Client, Config};
use node::{
    network::feed::{Event, Kind, Subscription},
    proxy::{self, Options},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::lab::{Namespace, node_event};

/// A proxy that runs until dropped; its rules stay.
pub struct Proxy {
    events: mpsc::Sender<Event>,
    shutdown: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Starts the proxy of node `n1` with its health checks on port 10256 and metrics on 10249.
    pub fn start(node: &Namespace, first: Vec<Event>) -> Self {
        let proxy = Self::silent(node);
        proxy.send([node_event()]);
        proxy.send(first);
        let all = [Kind::Service, Kind::Slice, Kind::Policy, Kind::Namespace, Kind::Pod];
        proxy.send(all.map(Event::Synced));
        proxy
    }

    /// The same, but nothing is told yet.
    pub fn silent(node: &Namespace) -> Self {
        let (events, feed) = Subscription::manual();
        let shutdown = CancellationToken::new();
        let token = shutdown.clone();
        let thread = node.spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                // The proxy is fed by hand; nothing ever uses the client.
                let config = Config::new("http://127.0.0.1:1".parse().expect("a URL"));
                let mut options = Options::new(Client::try_from(config).expect("a client"), "n1");
                options.feed = Some(feed);
                proxy::run(options, token).await.expect("it starts");
            });
        });
        Self { events, shutdown, thread: Some(thread) }
    }

    /// Hands events over.
    pub fn send(&self, events: impl IntoIterator<Item = Event>) {
        for event in events {
            self.events.blocking_send(event).expect("the proxy runs");
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shutdown.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
