//! Watchers beside the writers: each follows a prefix at one member, resumes after every break, and records what it was
//! sent. The log they are judged by is read at the end.

use std::collections::BTreeMap;
use std::time::Duration;

use etcd_client::{Client, EventType, WatchOptions, WatchStream};
use tokio_util::sync::CancellationToken;

use crate::checkers::watch::{Event, Log, Request, Response, Watch};
use crate::cluster::{Cluster, Error, Result};

/// All keys of the register workload.
const PREFIX: &str = "r/";
/// After a break.
const RETRY: Duration = Duration::from_millis(100);
/// The log of a run is read within this.
const LOG_TIMEOUT: Duration = Duration::from_secs(30);

/// Follows `member` until stopped; one [`Watch`] for every stream it had.
pub async fn follow(cluster: &Cluster, member: usize, stop: CancellationToken) -> Vec<Watch> {
    let mut watches = Vec::new();
    let mut next_revision = 1;
    while !stop.is_cancelled() {
        let request = Request {
            prefix: PREFIX.to_owned(),
            start_revision: next_revision,
            prev_kv: member.is_multiple_of(2),
            no_put: false,
            no_delete: false,
        };
        let mut watch = Watch { request, responses: Vec::new() };
        tokio::select! {
            outcome = stream(cluster, member, &mut watch) => if let Err(error) = outcome {
                tracing::debug!(member, %error, "a watch broke");
            },
            () = stop.cancelled() => {}
        }
        let heard = watch
            .responses
            .iter()
            .flat_map(|response| &response.events)
            .map(|event| event.mod_revision)
            .max();
        next_revision = heard.map_or(next_revision, |revision| revision + 1);
        if !watch.responses.is_empty() {
            watches.push(watch);
        }
        tokio::time::sleep(RETRY).await;
    }
    watches
}

async fn stream(cluster: &Cluster, member: usize, watch: &mut Watch) -> Result<()> {
    let mut client = cluster.client(member).await?;
    let mut stream = open(&mut client, &watch.request).await?;
    while let Some(response) = stream.message().await? {
        if response.canceled() {
            return Ok(());
        }
        if response.created() {
            continue;
        }
        let revision = response.header().map_or(0, etcd_client::ResponseHeader::revision);
        watch
            .responses
            .push(Response { revision, events: response.events().iter().filter_map(event).collect() });
    }
    Ok(())
}

async fn open(client: &mut Client, request: &Request) -> Result<WatchStream> {
    let mut options =
        WatchOptions::new().with_prefix().with_start_revision(request.start_revision).with_progress_notify();
    if request.prev_kv {
        options = options.with_prev_key();
    }
    Ok(client.watch(request.prefix.as_str(), Some(options)).await?)
}

fn event(event: &etcd_client::Event) -> Option<Event> {
    let kv = event.kv()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Some(Event {
        key: text(kv.key()),
        value: (event.event_type() == EventType::Put).then(|| text(kv.value())),
        mod_revision: kv.mod_revision(),
        create_revision: kv.create_revision(),
        version: kv.version(),
        previous: event.prev_kv().map(|previous| (text(previous.value()), previous.mod_revision())),
    })
}

/// The store's own log of the prefix, up to the revision it is at now.
pub async fn read_log(cluster: &Cluster) -> Result<Log> {
    let mut client = cluster.any_client().await?;
    let now = client.get(PREFIX, None).await?.header().map_or(0, etcd_client::ResponseHeader::revision);
    // A last write to wait for: everything before it has then been sent.
    client.put(format!("{PREFIX}end"), "end", None).await?;
    let request = Request {
        prefix: PREFIX.to_owned(),
        start_revision: 1,
        prev_kv: false,
        no_put: false,
        no_delete: false,
    };
    let mut stream = open(&mut client, &request).await?;
    let mut log: Log = BTreeMap::new();
    let reading = async {
        while let Some(response) = stream.message().await? {
            for event in response.events().iter().filter_map(event) {
                let done = event.mod_revision > now;
                log.entry(event.mod_revision).or_default().push(event);
                if done {
                    return Ok(());
                }
            }
        }
        Err(Error::Unsupported("the watch that reads the log ended".to_owned()))
    };
    tokio::time::timeout(LOG_TIMEOUT, reading).await.map_err(|_| Error::NotReady(LOG_TIMEOUT))??;
    Ok(log)
}
