//! A TCP relay that breaks once, after so many bytes, as a bad link does.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// How long a link that is about to break carries nothing: what has arrived is looked at meanwhile.
const SILENCE: Duration = Duration::from_secs(1);
const BUFFER_BYTES: usize = 64 << 10;

/// Counts what passes towards the target.
pub struct Relay {
    /// Where to connect instead of the target.
    pub url: String,
    passed: Arc<AtomicU64>,
}

impl Relay {
    /// Relays to `target`. The first connection over which the count reaches `break_at` breaks.
    pub async fn start(target: SocketAddr, break_at: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let passed = Arc::new(AtomicU64::new(0));
        let count = passed.clone();
        tokio::spawn(async move {
            while let Ok((from, _)) = listener.accept().await {
                let count = count.clone();
                tokio::spawn(async move {
                    if let Ok(to) = TcpStream::connect(target).await {
                        relay(from, to, &count, break_at).await;
                    }
                });
            }
        });
        Self { url, passed }
    }

    /// Bytes that have passed towards the target so far.
    pub fn passed(&self) -> u64 {
        self.passed.load(Ordering::Relaxed)
    }
}

async fn relay(from: TcpStream, to: TcpStream, count: &AtomicU64, break_at: u64) {
    let (mut from_client, mut to_client) = from.into_split();
    let (mut from_target, mut to_target) = to.into_split();
    let back = async move { tokio::io::copy(&mut from_target, &mut to_client).await };
    let there = async move {
        let mut buffer = vec![0; BUFFER_BYTES];
        while let Ok(length @ 1..) = from_client.read(&mut buffer).await {
            let before = count.fetch_add(length as u64, Ordering::Relaxed);
            if to_target.write_all(&buffer[..length]).await.is_err() {
                return;
            }
            if before < break_at && before + length as u64 >= break_at {
                tokio::time::sleep(SILENCE).await;
                return;
            }
        }
    };
    // Either end closes both.
    tokio::select! {
        _ = back => {}
        () = there => {}
    }
}
