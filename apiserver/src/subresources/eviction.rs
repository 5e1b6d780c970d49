//! `pods/eviction`: a deletion that asks the pod's disruption budget first.
//!
//! Source: `pkg/registry/core/pod/storage/eviction.go`.

use std::sync::Arc;

use async_trait::async_trait;
use http::{Response, StatusCode};
use machinery::selector::Labels;
use machinery::status::{Cause, Reason, StatusError};
use machinery::time::format_time;
use serde_json::{Value, json};

use crate::contract::RequestContext;
use crate::http::Api;
use crate::http::body::Body;
use crate::http::resources::ResourceRequest;
use crate::registry::decode::Expected;
use crate::registry::kind::Kind;
use crate::registry::options::{DeleteOptions, Query, WriteOptions};
use crate::registry::update::{Change, Target, served};
use crate::registry::{Answer, Registry, meta};
use crate::table::cells::{has_condition, int, text};

/// Disrupted pods remembered by one budget (upstream `MaxDisruptedPodSize`).
const DISRUPTED_PODS_MAX: usize = 2000;
/// Attempts when the pod or its budget changes meanwhile.
const ATTEMPTS_MAX: usize = 5;
/// Seconds a client waits while the budget is being computed.
const PROCESSING_RETRY_SECS: u32 = 10;

/// Whether the budget has no say: the pod has ended, never ran, or is on its way out.
fn budget_does_not_matter(pod: &Value) -> bool {
    matches!(text(pod, "status.phase"), "Succeeded" | "Failed" | "Pending") || meta::is_deleting(pod)
}

/// Whether the pod may go although it takes from nobody: it is not ready and the budget allows that.
fn may_go_unready(pod: &Value, budget: &Value) -> bool {
    if has_condition(pod, "Ready") {
        return false;
    }
    match text(budget, "spec.unhealthyPodEvictionPolicy") {
        "AlwaysAllow" => true,
        _ => {
            int(budget, "status.currentHealthy") >= int(budget, "status.desiredHealthy")
                && int(budget, "status.desiredHealthy") > 0
        }
    }
}

fn refused(budget: &Value) -> StatusError {
    let cause = Cause {
        reason: "DisruptionBudget".to_owned(),
        message: format!(
            "The disruption budget {} needs {} healthy pods and has {} currently",
            meta::name(budget),
            int(budget, "status.desiredHealthy"),
            int(budget, "status.currentHealthy")
        ),
        field: String::new(),
    };
    StatusError::too_many_requests("Cannot evict pod as it would violate the pod's disruption budget.", 0)
        .with_cause(cause)
}

/// Takes one disruption from the budget's status.
fn take(budget: &mut Value, pod: &str, now: jiff::Timestamp) -> Result<(), StatusError> {
    let name = meta::name(budget).to_owned();
    let forbid = |why: &str| Err(StatusError::forbidden("policy", "poddisruptionbudgets", &name, why));
    if int(budget, "status.observedGeneration") < meta::generation(budget) {
        let message = "Cannot evict pod as it would violate the pod's disruption budget.";
        let cause = Cause {
            reason: "DisruptionBudget".to_owned(),
            message: format!("The disruption budget {name} is still being processed by the server."),
            field: String::new(),
        };
        return Err(StatusError::too_many_requests(message, PROCESSING_RETRY_SECS).with_cause(cause));
    }
    let allowed = int(budget, "status.disruptionsAllowed");
    if allowed < 0 {
        return forbid("pdb disruptions allowed is negative");
    }
    if budget["status"]["disruptedPods"].as_object().is_some_and(|p| p.len() > DISRUPTED_PODS_MAX) {
        return forbid("DisruptedPods map too big - too many evictions not confirmed by PDB controller");
    }
    if allowed == 0 {
        return Err(refused(budget));
    }
    budget["status"]["disruptionsAllowed"] = (allowed - 1).into();
    if allowed == 1 {
        let message = "The disruption budget does not allow any more disruptions.";
        tracing::debug!(budget = name, message);
    }
    budget["status"]["disruptedPods"][pod] = format_time(now).into();
    Ok(())
}

struct Take<'a>(&'a str);

#[async_trait]
impl Change for Take<'_> {
    async fn make(&self, ctx: &RequestContext, current: Option<&Value>) -> Result<Value, StatusError> {
        let missing = || StatusError::not_found("policy", "poddisruptionbudgets", self.0);
        let mut budget = current.ok_or_else(missing)?.clone();
        take(&mut budget, self.0, ctx.now)?;
        Ok(budget)
    }
}

/// Says in the pod's status why it goes.
struct MarkTarget;

#[async_trait]
impl Change for MarkTarget {
    async fn make(&self, ctx: &RequestContext, current: Option<&Value>) -> Result<Value, StatusError> {
        let missing = || StatusError::not_found("", "pods", &ctx.info.name);
        let mut pod = current.ok_or_else(missing)?.clone();
        let condition = json!({
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "EvictionByEvictionAPI",
            "message": "Eviction API: evicting",
            "lastTransitionTime": format_time(ctx.now),
        });
        let mut conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.retain(|c| c["type"] != "DisruptionTarget");
        conditions.push(condition);
        pod["status"]["conditions"] = conditions.into();
        Ok(pod)
    }

    /// As with a binding, nobody owns what the server itself notes here.
    fn tracks_managers(&self) -> bool {
        true
    }
}

fn writer() -> WriteOptions {
    WriteOptions { manager: "kube-apiserver".to_owned(), ..WriteOptions::default() }
}

impl Registry {
    /// The one budget that covers the pod.
    async fn budget_of(&self, pod: &Value) -> Result<Option<(Arc<Kind>, Value)>, StatusError> {
        let found = self.catalog.snapshot().find("policy", "v1", "poddisruptionbudgets").cloned();
        let Some(kind) = found else { return Ok(None) };
        let storage = kind.storage()?.clone();
        storage.cache.wait_current().await.map_err(|e| crate::registry::errors::from_cache(&e))?;
        let namespace = Some(meta::namespace(pod).to_owned());
        let filter = crate::cache::Filter { namespace, ..Default::default() };
        let (page, _) = storage.cache.list(&filter, None, 0);
        let labels = &pod["metadata"]["labels"];
        let covers = |budget: &Value| {
            Labels::from_value(&budget["spec"]["selector"]).is_ok_and(|selector| selector.matches(labels))
        };
        let mut covering = page.entries.iter().map(|e| served(&kind, e)).filter(covers);
        let first = covering.next();
        if covering.next().is_some() {
            let why = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
            return Err(StatusError::new(500, Reason::InternalError, why, None));
        }
        Ok(first.map(|budget| (kind, budget)))
    }

    async fn evict_once(
        &self,
        ctx: &RequestContext,
        pods: &Kind,
        options: &DeleteOptions,
    ) -> Result<(), StatusError> {
        let (namespace, name) = (ctx.info.namespace.as_str(), ctx.info.name.as_str());
        let target = Target { namespace, name, subresource: "" };
        let pod = served(pods, &*self.get(pods, target, "").await?);
        let mut options = options.clone();
        if !budget_does_not_matter(&pod) {
            if let Some((kind, budget)) = self.budget_of(&pod).await?
                && !may_go_unready(&pod, &budget)
            {
                let change = Take(name);
                let place = Target { namespace, name: meta::name(&budget), subresource: "status" };
                if options.dry_run {
                    take(&mut budget.clone(), name, ctx.now)?;
                } else {
                    self.update(ctx, &kind, place, &change, &writer()).await?;
                }
            }
        } else {
            // The decision holds for the pod as it was seen.
            options
                .precondition_revision
                .get_or_insert_with(|| meta::text(&pod, "resourceVersion").to_owned());
        }
        if !options.dry_run && options.precondition_revision.is_none() {
            let status = Target { namespace, name, subresource: "status" };
            self.update(ctx, pods, status, &MarkTarget, &writer()).await?;
        }
        self.delete(ctx, pods, target, &options).await?;
        Ok(())
    }
}

impl Api {
    /// Answers an eviction.
    pub async fn evict(&self, request: &ResourceRequest<'_>) -> Result<Response<Body>, StatusError> {
        let options = request.write_options("CreateOptions")?;
        let schema = machinery::schema::for_kind("policy", "v1", "Eviction")
            .ok_or_else(StatusError::not_found_path)?;
        let expected = Expected {
            group: "policy",
            version: "v1",
            kind: "Eviction",
            schema: &schema,
            is_custom: false,
            hooks: None,
        };
        let eviction = request.decode(&expected, &options)?;
        let name = &request.ctx.info.name;
        if !meta::name(&eviction).is_empty() && meta::name(&eviction) != name {
            return Err(StatusError::bad_request("name in URL does not match name in Eviction object"));
        }
        let body = Some(&eviction["deleteOptions"]).filter(|o| !o.is_null());
        let mut deletion = DeleteOptions::parse(&Query::default(), body)?;
        deletion.dry_run |= options.dry_run;
        let explicit = deletion.precondition_revision.is_some();
        let mut result = Ok(());
        for _ in 0..ATTEMPTS_MAX {
            result = self.registry.evict_once(request.ctx, request.kind, &deletion).await;
            match &result {
                Err(error) if error.is(Reason::Conflict) && !explicit => {}
                _ => break,
            }
        }
        result?;
        let status =
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
        request.answer(StatusCode::CREATED, &Answer::Object(Arc::new(status)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(allowed: i64) -> Value {
        json!({"metadata":{"name":"b","generation":1},
            "status":{"observedGeneration":1,"disruptionsAllowed":allowed,"desiredHealthy":2,"currentHealthy":2}})
    }

    #[test]
    fn budgets_run_out() {
        let mut one = budget(1);
        take(&mut one, "p", jiff::Timestamp::UNIX_EPOCH).expect("one disruption left");
        assert_eq!(one["status"]["disruptionsAllowed"], 0);
        assert!(one["status"]["disruptedPods"]["p"].is_string());
        let error = take(&mut one, "q", jiff::Timestamp::UNIX_EPOCH).expect_err("none left");
        assert_eq!(error.code(), 429);
        let cause = &error.details().expect("details").causes[0];
        assert_eq!(cause.message, "The disruption budget b needs 2 healthy pods and has 2 currently");
    }

    #[test]
    fn stale_budgets_ask_for_patience() {
        let mut stale = budget(1);
        stale["metadata"]["generation"] = 2.into();
        let error = take(&mut stale, "p", jiff::Timestamp::UNIX_EPOCH).expect_err("not computed yet");
        assert_eq!((error.code(), error.retry_after_secs()), (429, PROCESSING_RETRY_SECS));
    }
}
