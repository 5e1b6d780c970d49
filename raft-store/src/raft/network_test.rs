//! How long a stream of entries may take to open.

use std::{sync::Arc, time::Duration};

use openraft::{
    network::{RPCOption, v2::RaftNetworkV2},
    raft::AppendEntriesRequest,
};
use tonic::body::Body;
use tower::BoxError;

use super::{
    network::Connection,
    peers::Peers,
    types::{TypeConfig, Vote},
};
use crate::{
    config::Config,
    network::{Network, Transport},
};

/// A link over which an answer takes so long.
#[derive(Debug)]
struct Far(Duration);

impl Network for Far {
    fn dial(&self, _: &str) -> Transport {
        let round_trip = self.0;
        Transport::new(tower::service_fn(move |_: http::Request<Body>| async move {
            tokio::time::sleep(round_trip).await;
            let answer = http::Response::builder().header("content-type", "application/grpc");
            answer.body(Body::empty()).map_err(BoxError::from)
        }))
    }

    fn serve(&self, _: &str, _: Transport) {}
}

#[tokio::test]
async fn a_stream_opens_although_a_round_trip_takes_most_of_a_heartbeat() {
    let heartbeat = Duration::from_millis(40);
    for (election_timeout, opens) in [(Duration::from_secs(60), true), (heartbeat * 2, false)] {
        let network: Arc<dyn Network> = Arc::new(Far(heartbeat * 10));
        let config = Config { election_timeout, network: Some(network), ..Config::embedded("/none") };
        let peers = Peers::new(0, None, &config);
        let mut connection = Connection::new(peers, 1, vec!["http://far:2380".to_owned()]);
        let request = AppendEntriesRequest::<TypeConfig> {
            vote: Vote::new_committed(1, 1),
            prev_log_id: None,
            entries: Vec::new(),
            leader_commit: None,
        };
        let requests = futures::stream::iter([request]);
        let opened = connection.stream_append(requests, RPCOption::new(heartbeat)).await;
        assert_eq!(opened.is_ok(), opens, "within {election_timeout:?}");
    }
}
