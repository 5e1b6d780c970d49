//! Lets go of what requests have left behind and nobody needs any more: documents of kinds that are no longer served, the
//! largest documents when nobody asks for them, label sets of metrics.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Api;

/// What nobody asked for in this time is made again for the next who asks.
const INTERVAL: Duration = Duration::from_secs(60);

/// Tidies up once an interval until `shutdown`.
pub async fn run(api: Arc<Api>, shutdown: CancellationToken) {
    let mut swept = 0;
    loop {
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = shutdown.cancelled() => return,
        }
        let served = api.registry.catalog.snapshot_arc();
        api.openapi.age(&served);
        api.discovery.age(&served);
        if served.generation != swept {
            api.metrics.forget_unserved(&served);
            swept = served.generation;
        }
    }
}
