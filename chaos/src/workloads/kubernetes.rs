//! What an API server does to its store: objects made, replaced and deleted by the version that was read, lists in pages
//! of one revision, watches beside them, and history compacted all the while.

use std::sync::atomic::{AtomicI64, Ordering};

use async_trait::async_trait;
use etcd_client::{Client, Compare, CompareOp, Error, GetOptions, KeyValue, Txn, TxnOp};
use rand::Rng;
use rand::rngs::StdRng;

use super::{Workload, number, revision};
use crate::checkers::{self, Verdict};
use crate::history::{Action, History, Object, Outcome, Process, Value};

const PREFIX: &str = "/registry/pods/";
const NAMESPACES: u32 = 3;
const NAMES: u32 = 12;
/// Objects of one page.
const PAGE: i64 = 10;
/// Revisions of history that are kept.
const KEEP: i64 = 100;

#[derive(Default)]
pub struct Objects {
    next: AtomicI64,
}

#[async_trait]
impl Workload for Objects {
    fn next(&self, _: Process, rng: &mut StdRng) -> Action {
        let (namespace, name) = (rng.random_range(0..NAMESPACES), rng.random_range(0..NAMES));
        let key = format!("{PREFIX}ns-{namespace}/pod-{name}");
        let value = || self.next.fetch_add(1, Ordering::Relaxed);
        match rng.random_range(0..100) {
            0..15 => Action::List,
            15..40 => Action::Create { key, value: value() },
            40..85 => Action::Update { key, value: value() },
            _ => Action::Delete { key },
        }
    }

    async fn apply(&self, client: &mut Client, action: &Action) -> Result<Outcome, Error> {
        match action {
            Action::Create { key, value } => replace(client, key, 0, Some(*value)).await,
            Action::Update { key, value } => match newest(client, key).await? {
                Some(version) => replace(client, key, version, Some(*value)).await,
                None => Ok(Outcome::Fail { error: "not found".to_owned() }),
            },
            Action::Delete { key } => match newest(client, key).await? {
                Some(version) => replace(client, key, version, None).await,
                None => Ok(Outcome::Fail { error: "not found".to_owned() }),
            },
            Action::List => list(client).await,
            other => Ok(Outcome::Fail { error: format!("objects have no {other:?}") }),
        }
    }

    fn watched(&self) -> Option<&'static str> {
        Some(PREFIX)
    }

    fn compacts(&self) -> Option<i64> {
        Some(KEEP)
    }

    fn last_reads(&self) -> Vec<Action> {
        vec![Action::List]
    }

    fn judge(&self, history: &History) -> Vec<(&'static str, Verdict)> {
        vec![("objects and lists", checkers::objects::check(history))]
    }
}

/// The newest version's revision.
async fn newest(client: &mut Client, key: &str) -> Result<Option<i64>, Error> {
    Ok(client.get(key, None).await?.kvs().first().map(KeyValue::mod_revision))
}

/// Replaces exactly the version of this revision, zero being none; `None` deletes.
async fn replace(client: &mut Client, key: &str, version: i64, value: Option<i64>) -> Result<Outcome, Error> {
    let same = Compare::mod_revision(key, CompareOp::Equal, version);
    let change = match value {
        Some(value) => TxnOp::put(key, value.to_string(), None),
        None => TxnOp::delete(key, None),
    };
    let txn = Txn::new().when([same]).and_then([change]).or_else([TxnOp::get(key, None)]);
    let answer = client.txn(txn).await?;
    Ok(match answer.succeeded() {
        true => Outcome::Ok { value: Value::Replaced(version), revision: revision(answer.header()) },
        false => Outcome::Fail { error: "the object has been modified".to_owned() },
    })
}

/// All objects at the revision of the first page.
async fn list(client: &mut Client) -> Result<Outcome, Error> {
    let options = GetOptions::new().with_prefix().with_limit(PAGE);
    let first = client.get(PREFIX, Some(options)).await?;
    let at = revision(first.header()).unwrap_or(0);
    let (mut objects, mut more) = (objects_of(first.kvs()), first.more());
    let end = format!("{}0", PREFIX.trim_end_matches('/'));
    while more {
        let next = objects.last().map_or_else(|| PREFIX.to_owned(), |object| format!("{}\0", object.key));
        let options = GetOptions::new().with_range(end.as_str()).with_limit(PAGE).with_revision(at);
        let page = client.get(next, Some(options)).await?;
        objects.extend(objects_of(page.kvs()));
        more = page.more();
    }
    Ok(Outcome::Ok { value: Value::Objects(objects), revision: Some(at) })
}

fn objects_of(kvs: &[KeyValue]) -> Vec<Object> {
    let object = |kv: &KeyValue| Object {
        key: String::from_utf8_lossy(kv.key()).into_owned(),
        value: number(kv.value()),
        mod_revision: kv.mod_revision(),
    };
    // The historian's mark is no object.
    kvs.iter().filter(|kv| !kv.key().ends_with(super::watch::MARK.as_bytes())).map(object).collect()
}
