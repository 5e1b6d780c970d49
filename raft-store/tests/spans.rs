//! A request and the apply of its log entry as `tracing` shows them: two spans with one index.

#[path = "common/ports.rs"]
mod ports;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use proto::etcdserverpb::{PutRequest, kv_client::KvClient};
use raft_store::{Config, Member};
use tonic::transport::Endpoint;
use tracing::{
    Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};
use tracing_subscriber::{Layer, layer::Context, prelude::*, registry::LookupSpan};

/// What a span has said of itself.
#[derive(Clone, Debug, Default)]
struct Seen {
    name: &'static str,
    fields: HashMap<&'static str, String>,
}

impl Visit for Seen {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.fields.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.fields.insert(field.name(), value.to_owned());
    }
}

/// Keeps every span of the store.
#[derive(Clone, Default)]
struct Keeper(Arc<Mutex<HashMap<u64, Seen>>>);

impl<S: Subscriber + for<'l> LookupSpan<'l>> Layer<S> for Keeper {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, _: Context<'_, S>) {
        if attributes.metadata().target().starts_with("raft_store") {
            let mut seen = Seen { name: attributes.metadata().name(), ..Seen::default() };
            attributes.record(&mut seen);
            self.0.lock().unwrap().insert(id.into_u64(), seen);
        }
    }

    fn on_record(&self, id: &Id, record: &Record<'_>, _: Context<'_, S>) {
        if let Some(seen) = self.0.lock().unwrap().get_mut(&id.into_u64()) {
            record.record(seen);
        }
    }

    fn on_close(&self, id: Id, _: Context<'_, S>) {
        // Ids are used again: what has closed moves away.
        let mut spans = self.0.lock().unwrap();
        if let Some(seen) = spans.remove(&id.into_u64()) {
            let free = (1 << 32..).find(|key| !spans.contains_key(key)).unwrap();
            spans.insert(free, seen);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_is_followed_from_the_request_to_the_apply() {
    let keeper = Keeper::default();
    let filter = tracing_subscriber::filter::LevelFilter::DEBUG;
    tracing_subscriber::registry().with(keeper.clone().with_filter(filter)).init();
    let dir = tempfile::tempdir().unwrap();
    let url = format!("http://127.0.0.1:{}", ports::free_port());
    let mut config = Config::embedded(dir.path());
    config.listen_client_urls = vec![url.clone()];
    config.advertise_client_urls = vec![url.clone()];
    let member = Member::start(config).await.unwrap();
    let mut client = KvClient::new(Endpoint::from_shared(url).unwrap().connect().await.unwrap());
    client.put(PutRequest { key: "a".into(), value: "1".into(), ..Default::default() }).await.unwrap();
    drop(client);
    member.shutdown().await;

    let spans: Vec<Seen> = keeper.0.lock().unwrap().values().cloned().collect();
    let of_request = spans.iter().find(|span| {
        span.name == "grpc" && span.fields.get("method").is_some_and(|method| method.contains("Put"))
    });
    let index = of_request.and_then(|span| span.fields.get("index"));
    let index = index.unwrap_or_else(|| panic!("the request names its entry: {spans:?}"));
    let of_apply = spans.iter().find(|span| span.name == "apply" && span.fields.get("index") == Some(index));
    assert!(of_apply.is_some(), "entry {index} is seen being applied: {spans:?}");
}
