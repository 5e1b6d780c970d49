//! ResourceQuota: what a request would use is reserved in the status of every quota it falls under, by
//! compare-and-set, before the request goes through.
//!
//! Requests of one namespace take turns on a server; between servers the store decides, and the loser looks again.
//! A reservation whose request fails later is taken back by the quota controller, which recounts.

pub mod scopes;
pub mod usage;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use machinery::status::StatusError;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use serde_json::Value;

use super::live::LiveLists;
use super::plugin::Plugin;
use crate::contract::{Admission, Object, Operation};
use crate::kinds::json::{has, set, text};
use crate::kinds::pod::resources::{Amounts, add};
use usage::{Measure, increase, mask, shown, stored};

const ATTEMPTS: u32 = 8;
/// Namespaces whose last writes are remembered; beyond, those that nobody waits for are forgotten, which costs the next
/// request there another attempt at most.
const NAMESPACES_MAX: usize = 512;
/// How long the cache gets to show another server's write.
const CATCH_UP: Duration = Duration::from_millis(25);

/// Quotas as this server wrote them last, while the cache may still be behind.
type Written = FxHashMap<String, Arc<Object>>;

/// The step.
pub struct ResourceQuota {
    quotas: LiveLists,
    turns: Mutex<FxHashMap<String, Arc<tokio::sync::Mutex<Written>>>>,
}

impl Default for ResourceQuota {
    fn default() -> Self {
        Self { quotas: LiveLists::of("resourcequotas"), turns: Mutex::default() }
    }
}

#[async_trait]
impl Plugin for ResourceQuota {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }

    async fn validate(&self, request: &Admission<'_>) -> Result<(), StatusError> {
        let info = &request.ctx.info;
        let Some(measure) = Measure::of(&info.group, &info.resource) else { return Ok(()) };
        if info.namespace.is_empty() || (info.group.is_empty() && info.resource == "namespaces") {
            return Ok(());
        }
        if !measure.handles(&info.subresource, request.operation, request.new_object(), request.old) {
            return Ok(());
        }
        if self.quotas.list(request.ctx.cluster.as_ref(), &info.namespace).await?.is_empty() {
            return Ok(());
        }
        let turn = self.turns.lock().entry(info.namespace.clone()).or_default().clone();
        let mut written = turn.lock().await;
        let result = reserve(request, measure, &mut written).await;
        drop(written);
        self.forget(&info.namespace, &turn).await;
        result
    }
}

impl ResourceQuota {
    /// Drops the turn of a namespace that nobody else waits for and that remembers nothing.
    async fn forget(&self, namespace: &str, turn: &Arc<tokio::sync::Mutex<Written>>) {
        let is_empty = turn.try_lock().is_ok_and(|written| written.is_empty());
        let mut turns = self.turns.lock();
        if is_empty && Arc::strong_count(turn) <= 2 {
            turns.remove(namespace);
        }
        if turns.len() > NAMESPACES_MAX {
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        }
    }
}

fn revision(object: &Object) -> u64 {
    text(object, &["metadata", "resourceVersion"]).parse().unwrap_or_default()
}

async fn reserve(
    request: &Admission<'_>,
    measure: Measure<'_>,
    written: &mut Written,
) -> Result<(), StatusError> {
    let cluster = &request.ctx.cluster;
    let namespace = &request.ctx.info.namespace;
    // Quotas that are charged already in an earlier attempt are not charged twice.
    let mut charged: Vec<String> = Vec::new();
    let mut last = None;
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            tokio::time::sleep(CATCH_UP).await;
        }
        let cached = cluster.list("", "resourcequotas", namespace).await?;
        written.retain(|name, own| {
            let seen = cached.iter().find(|quota| text(quota, &["metadata", "name"]) == name);
            seen.is_some_and(|seen| revision(seen) < revision(own))
        });
        let quotas: Vec<Arc<Object>> = cached
            .into_iter()
            .map(|quota| written.get(text(&quota, &["metadata", "name"])).cloned().unwrap_or(quota))
            .filter(|quota| !charged.iter().any(|name| name == text(quota, &["metadata", "name"])))
            .collect();
        let charges = charge(request, measure, &quotas).map_err(|why| request.forbidden(why))?;
        if charges.is_empty() || request.ctx.dry_run {
            return Ok(());
        }
        last = None;
        for (index, used) in charges {
            let mut quota = Object::clone(&quotas[index]);
            let used = used.iter().map(|(name, amount)| (name.clone(), Value::from(amount.to_string())));
            set(&mut quota, &["status", "used"], Value::Object(used.collect()));
            let name = text(&quota, &["metadata", "name"]).to_owned();
            match cluster.update_status("", "resourcequotas", quota).await {
                Ok(stored) => {
                    written.insert(name.clone(), stored);
                    charged.push(name);
                }
                Err(error) => {
                    written.remove(&name);
                    last = Some(error);
                }
            }
        }
        if last.is_none() {
            return Ok(());
        }
    }
    last.map_or(Ok(()), Err)
}

/// The quotas (by index) that the request is charged to, each with what would be used then; or why it may not be.
fn charge(
    request: &Admission<'_>,
    measure: Measure<'_>,
    quotas: &[Arc<Object>],
) -> Result<Vec<(usize, Amounts)>, String> {
    let (new, now) = (request.new_object(), request.ctx.now);
    let mut interesting = Vec::new();
    for (index, quota) in quotas.iter().enumerate() {
        let hard = stored(quota, &["status", "hard"]);
        let names: Vec<&str> =
            hard.keys().map(String::as_str).filter(|name| measure.concerns(name)).collect();
        if names.is_empty() || !scopes::select(quota, measure, new) {
            continue;
        }
        let title = text(quota, &["metadata", "name"]);
        measure.constraints(&names, new).map_err(|why| format!("failed quota: {title}: {why}"))?;
        let used = stored(quota, &["status", "used"]);
        if !names.iter().all(|name| used.contains_key(*name)) {
            return Err(format!("status unknown for quota: {title}, resources: {}", names.join(",")));
        }
        interesting.push((index, hard, used));
    }
    let usage = measure.usage(new, now);
    let negative: Vec<&str> =
        usage.iter().filter(|(_, amount)| amount.sign() < 0).map(|(name, _)| name.as_str()).collect();
    if !negative.is_empty() {
        return Err(format!("quota usage is negative for resource(s): {}", negative.join(",")));
    }
    let old = request
        .old
        .filter(|old| request.operation == Operation::Update && has(old, &["metadata", "resourceVersion"]));
    let mut charges = Vec::new();
    for (index, hard, used) in interesting {
        let before = old.filter(|old| scopes::select(&quotas[index], measure, old));
        let before = before.map(|old| measure.usage(old, now)).unwrap_or_default();
        let asked = mask(&increase(&usage, &before), |name| hard.contains_key(name));
        if asked.is_empty() {
            continue;
        }
        let mut then = used.clone();
        add(&mut then, &asked);
        let over = |name: &str| hard.get(name).zip(then.get(name)).is_some_and(|(hard, then)| then > hard);
        let exceeded = mask(&asked, over);
        if request.ctx.info.subresource != "status" && !exceeded.is_empty() {
            let of = |amounts: &Amounts| shown(&mask(amounts, |name| exceeded.contains_key(name)));
            return Err(format!(
                "exceeded quota: {}, requested: {}, used: {}, limited: {}",
                text(&quotas[index], &["metadata", "name"]),
                shown(&exceeded),
                of(&used),
                of(&hard)
            ));
        }
        charges.push((index, then));
    }
    Ok(charges)
}
