//! Watchers beside the writers: each follows a prefix at one member, resumes after every break, and records what it was
//! sent. The log they are judged by is read at the end.

use std::collections::BTreeMap;
use std::time::Duration;

use etcd_client::{Client, EventType, WatchOptions, WatchStream};
use tokio_util::sync::CancellationToken;

use crate::checkers::watch::{Event, Log, Request, Response, Watch};
use crate::clients::Endpoints;
use crate::cluster::{Error, Result};
use crate::drive::Members;

/// Ends the key that the reader of the log writes, to know when it has read everything before it.
pub const MARK: &str = "~mark";
/// After a break.
const RETRY: Duration = Duration::from_millis(100);
/// The log, or a part of it, is read within this.
const LOG_TIMEOUT: Duration = Duration::from_secs(30);

fn request(prefix: &str, start_revision: i64, prev_kv: bool) -> Request {
    Request { prefix: prefix.to_owned(), start_revision, prev_kv, no_put: false, no_delete: false }
}

/// Follows a prefix at `member` until stopped; one [`Watch`] for every stream it had.
pub async fn follow(
    members: &dyn Endpoints,
    member: usize,
    prefix: &str,
    stop: CancellationToken,
) -> Vec<Watch> {
    let mut watches = Vec::new();
    let mut next_revision = 1;
    while !stop.is_cancelled() {
        let wants_previous = member.is_multiple_of(2);
        let request = request(prefix, next_revision, wants_previous);
        let mut watch = Watch { request, responses: Vec::new() };
        let mut compacted = 0;
        tokio::select! {
            outcome = stream(members, member, &mut watch) => match outcome {
                Ok(compact_revision) => compacted = compact_revision,
                Err(error) => tracing::debug!(member, %error, "a watch broke"),
            },
            () = stop.cancelled() => {}
        }
        let heard = watch
            .responses
            .iter()
            .flat_map(|response| &response.events)
            .map(|event| event.mod_revision)
            .max();
        next_revision = heard.map_or(next_revision, |revision| revision + 1).max(compacted + 1);
        if !watch.responses.is_empty() {
            watches.push(watch);
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = stop.cancelled() => {}
        }
    }
    watches
}

/// Fills the watch until its stream ends; returns the compact revision if that is why, or zero.
async fn stream(members: &dyn Endpoints, member: usize, watch: &mut Watch) -> Result<i64> {
    let mut client = members.client(member).await?;
    let mut stream = open(&mut client, &watch.request).await?;
    while let Some(response) = stream.message().await? {
        if response.canceled() {
            return Ok(response.compact_revision());
        }
        if response.created() {
            continue;
        }
        let revision = response.header().map_or(0, etcd_client::ResponseHeader::revision);
        watch
            .responses
            .push(Response { revision, events: response.events().iter().filter_map(event).collect() });
    }
    Ok(0)
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

/// The store's own log of a prefix, from a revision up to the one it is at now.
pub async fn read_log(members: &dyn Members, prefix: &str, start_revision: i64) -> Result<Log> {
    let reading = async {
        let mut client = members.any_client().await?;
        // A last write to wait for: everything before it has then been sent.
        let mark = client.put(format!("{prefix}{MARK}"), "", None).await?;
        let now = mark.header().map_or(0, etcd_client::ResponseHeader::revision);
        let mut stream = open(&mut client, &request(prefix, start_revision, false)).await?;
        let mut log: Log = BTreeMap::new();
        while let Some(response) = stream.message().await? {
            if response.canceled() {
                let compacted = response.compact_revision();
                let why = format!(
                    "history from {start_revision} on was compacted to {compacted} before it was read"
                );
                return Err(Error::Unsupported(why));
            }
            for event in response.events().iter().filter_map(event) {
                let revision = event.mod_revision;
                log.entry(revision).or_default().push(event);
                if revision >= now {
                    return Ok(log);
                }
            }
        }
        Err(Error::Unsupported("the watch that reads the log ended".to_owned()))
    };
    tokio::time::timeout(LOG_TIMEOUT, reading).await.map_err(|_| Error::NotReady(LOG_TIMEOUT))?
}

/// The revision that history is compacted to now: a watch from the first one is told so.
pub async fn compacted(members: &dyn Members, prefix: &str) -> Result<i64> {
    let asking = async {
        let mut client = members.any_client().await?;
        // A write, so that a watch of uncompacted history has an event to send.
        client.put(format!("{prefix}{MARK}"), "", None).await?;
        let mut stream = open(&mut client, &request(prefix, 1, false)).await?;
        while let Some(response) = stream.message().await? {
            if response.canceled() {
                return Ok(response.compact_revision());
            }
            if !response.events().is_empty() {
                return Ok(0);
            }
        }
        Err(Error::Unsupported("the watch that asks what was compacted ended".to_owned()))
    };
    tokio::time::timeout(LOG_TIMEOUT, asking).await.map_err(|_| Error::NotReady(LOG_TIMEOUT))?
}
