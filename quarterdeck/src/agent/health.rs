//! Notices that the server in use cannot serve, and gives it up for one that can.
//!
//! A server that is paused, or cut off from the others, still takes connections; only an answer to `/readyz` shows that
//! it works. Where no server is ready nothing is changed: the one in use is as good as any.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use tokio_util::sync::CancellationToken;

use super::balancer::Servers;
use crate::failure::Result;
use crate::https::{self, Sender, verified};

/// One question a machine and interval; thousands of machines ask.
const INTERVAL: Duration = Duration::from_secs(2);
/// A server that works answers in milliseconds.
const LIMIT: Duration = Duration::from_millis(1500);
/// Every server's certificate names this; its address may not be known to the certificate of a relay's target.
const NAME: &str = "localhost";

/// Watches until cancelled. `ca` is the authority's certificate in PEM.
pub async fn watch(servers: Arc<Servers>, ca: String, shutdown: CancellationToken) {
    let mut open = None;
    loop {
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = shutdown.cancelled() => return,
        }
        let addresses = servers.addresses();
        let Some((used, others)) = addresses.split_first() else { continue };
        if is_ready(*used, &ca, &mut open).await {
            continue;
        }
        for other in others {
            if is_ready(*other, &ca, &mut None).await {
                tracing::warn!(given_up = %used, taken = %other, "a server does not serve; going to another");
                servers.give_up(*used);
                break;
            }
        }
    }
}

/// Asks over the open connection where there is one to this address, and keeps it for the next time.
async fn is_ready(address: SocketAddr, ca: &str, open: &mut Option<(SocketAddr, Sender)>) -> bool {
    let kept = open.take().filter(|(to, sender)| *to == address && !sender.is_closed());
    let ask = async {
        let mut sender = match kept {
            Some((_, sender)) => sender,
            None => https::connect(&address.to_string(), NAME, verified(ca)?).await?,
        };
        let request = http::Request::get("/readyz").header("host", NAME).body(Full::new(Bytes::new()))?;
        let answer = sender.send_request(request).await?;
        let ready = answer.status().is_success();
        // The connection is of use again once the answer has been read.
        http_body_util::BodyExt::collect(answer.into_body()).await?;
        Result::Ok((ready, sender))
    };
    match tokio::time::timeout(LIMIT, ask).await {
        Ok(Ok((ready, sender))) => {
            *open = Some((address, sender));
            ready
        }
        Ok(Err(failure)) => {
            tracing::debug!(%address, %failure, "a server cannot be asked");
            false
        }
        Err(_) => false,
    }
}
