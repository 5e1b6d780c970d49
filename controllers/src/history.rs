//! Controller revisions: what a DaemonSet or StatefulSet looked like, so that it can be rolled out and back.
//! A revision's data is a patch of `spec.template`, as `kubectl rollout` reads it.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use serde_json::{Value, json};

use crate::hash::short_hash;
use crate::meta::{StringMap, name, owner_reference};
use crate::runtime::{Action, Answer, Ask, Context, Gvr, Object};

/// Label of pods and revisions: which revision.
pub const HASH_LABEL: &str = "controller-revision-hash";

/// The data of a template's revision.
pub fn data_of(template: &PodTemplateSpec) -> Value {
    let mut template = serde_json::to_value(template).unwrap_or_default();
    template["$patch"] = "replace".into();
    json!({"spec": {"template": template}})
}

/// Reads a template back from a revision.
pub fn template_of(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let template = revision.data.as_ref()?.0.get("spec")?.get("template")?.clone();
    serde_json::from_value(template).ok()
}

/// Whether two revisions' data make the same pods: compared as templates, so that the order and the defaults of an
/// older writer do not matter.
fn holds(revision: &ControllerRevision, template: &PodTemplateSpec) -> bool {
    template_of(revision).is_some_and(|have| have == *template)
}

/// What the history of one owner calls for.
pub struct History {
    /// The revision of the present template.
    pub current: ControllerRevision,
    /// The others, oldest first.
    pub old: Vec<Arc<ControllerRevision>>,
    /// The write that makes it so, if any.
    pub write: Option<Action>,
    /// The name was taken by other content: the next run must use this collision count.
    pub collisions: Option<i32>,
}

/// Why the history is not known yet.
pub enum Unsettled {
    /// This must be known first.
    Ask(Ask),
    /// The name of the new revision is taken by another object; the count of collisions must be raised to this.
    Collision(i32),
}

/// Finds or makes the revision of `template` among the owner's `revisions`.
pub fn settle<O: Object>(
    owner: &O,
    template: &PodTemplateSpec,
    mut revisions: Vec<Arc<ControllerRevision>>,
    collisions: Option<i32>,
    context: &Context,
) -> Result<History, Unsettled> {
    revisions.sort_by_key(|revision| (revision.revision, name(revision.as_ref()).to_string()));
    let newest = revisions.last().map_or(0, |revision| revision.revision);
    let found = revisions.iter().rposition(|revision| holds(revision, template));
    if let Some(at) = found {
        let mut current = revisions.remove(at).as_ref().clone();
        // Rolling back makes the old revision the newest again.
        let write = (current.revision < newest).then(|| {
            current.revision = newest + 1;
            Action::update(&current)
        });
        return Ok(History { current, old: revisions, write, collisions });
    }
    let labels = template.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default();
    let current = fresh(owner, template, newest + 1, collisions, labels);
    if context.failure.is_some_and(|failure| failure.creating && failure.code == 409) {
        let ask = Ask::Get(
            Gvr::of::<ControllerRevision>()
                .object(current.metadata.namespace.as_deref().unwrap_or(""), name(&current)),
        );
        match context.answer(&ask) {
            None => return Err(Unsettled::Ask(ask)),
            Some(Answer::Json(taken)) => {
                let taken: Option<ControllerRevision> = serde_json::from_value(taken.as_ref().clone()).ok();
                let ours = taken.is_some_and(|taken| {
                    holds(&taken, template) && crate::meta::is_controlled_by(&taken.metadata, owner.meta())
                });
                if !ours {
                    return Err(Unsettled::Collision(collisions.unwrap_or(0) + 1));
                }
            }
            Some(_) => {}
        }
    }
    let write = Some(Action::create(&current));
    Ok(History { current, old: revisions, write, collisions })
}

fn fresh<O: Object>(
    owner: &O,
    template: &PodTemplateSpec,
    revision: i64,
    collisions: Option<i32>,
    mut labels: StringMap,
) -> ControllerRevision {
    let hash = short_hash(template, collisions);
    labels.insert(HASH_LABEL.into(), hash.clone());
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", name(owner))),
            namespace: owner.meta().namespace.clone(),
            labels: Some(labels),
            annotations: owner.meta().annotations.clone().map(without_last_applied),
            owner_references: Some(vec![owner_reference(owner)]),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(data_of(template))),
        revision,
    }
}

fn without_last_applied(mut annotations: StringMap) -> StringMap {
    annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    annotations
}

/// Deletes the oldest revisions beyond the limit that no pod is of.
pub fn clean_up(
    old: &[Arc<ControllerRevision>],
    limit: Option<i32>,
    in_use: impl Fn(&ControllerRevision) -> bool,
) -> Vec<Action> {
    let unused: Vec<_> = old.iter().filter(|revision| !in_use(revision)).collect();
    let keep = usize::try_from(limit.unwrap_or(10)).unwrap_or(0);
    let excess = unused.len().saturating_sub(keep);
    unused.into_iter().take(excess).map(|revision| Action::delete(revision.as_ref())).collect()
}
