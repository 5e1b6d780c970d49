//! Priority: pods get the number behind their priority class; only one class may be the default.

use async_trait::async_trait;
use machinery::status::StatusError;
use serde_json::Value;

use super::plugin::Plugin;
use crate::contract::{Admission, ClusterReader, Object, Operation};
use crate::kinds::json::{at, flag, int, is_set, keep, set, text};

const GROUP: &str = "scheduling.k8s.io";

/// The step.
pub struct Priority;

/// What a class gives to a pod.
struct Computed {
    class: String,
    value: i64,
    preemption: Value,
}

#[async_trait]
impl Plugin for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    async fn mutate(&self, request: &mut Admission<'_>) -> Result<(), StatusError> {
        if !request.is_for("", "pods", "") {
            return Ok(());
        }
        match request.operation {
            Operation::Create => {
                let computed = compute(request).await?;
                check_agrees(request, &computed)?;
                if let Some(pod) = request.object.as_deref_mut() {
                    fill(pod, computed);
                }
            }
            Operation::Update => {
                let old = request.old;
                if let (Some(pod), Some(old)) = (request.object.as_deref_mut(), old) {
                    for field in ["priority", "preemptionPolicy"] {
                        if !is_set(pod, &["spec", field]) {
                            keep(pod, old, &["spec", field]);
                        }
                    }
                }
            }
            Operation::Delete | Operation::Connect => {}
        }
        Ok(())
    }

    async fn validate(&self, request: &Admission<'_>) -> Result<(), StatusError> {
        let writes = matches!(request.operation, Operation::Create | Operation::Update);
        let class = request.new_object();
        let wants_default = flag(class, &["globalDefault"]) == Some(true);
        if !request.is_for(GROUP, "priorityclasses", "") || !writes || !wants_default {
            return Ok(());
        }
        let Some(default) = default_class(request.ctx.cluster.as_ref()).await? else { return Ok(()) };
        let name = text(&default, &["metadata", "name"]);
        if request.creates() || name != text(class, &["metadata", "name"]) {
            let why =
                format!("PriorityClass {name} is already marked as default. Only one default can exist");
            return Err(request.forbidden(why));
        }
        Ok(())
    }
}

async fn compute(request: &Admission<'_>) -> Result<Computed, StatusError> {
    let cluster = request.ctx.cluster.as_ref();
    let wanted = text(request.new_object(), &["spec", "priorityClassName"]).to_owned();
    let class = if wanted.is_empty() {
        let Some(default) = default_class(cluster).await? else {
            return Ok(Computed { class: wanted, value: 0, preemption: "PreemptLowerPriority".into() });
        };
        default
    } else {
        let found = cluster.find(GROUP, "priorityclasses", "", &wanted).await?;
        found.ok_or_else(|| request.forbidden(format!("no PriorityClass with name {wanted} was found")))?
    };
    Ok(Computed {
        class: text(&class, &["metadata", "name"]).to_owned(),
        value: int(&class, &["value"]).unwrap_or_default(),
        preemption: at(&class, &["preemptionPolicy"]).clone(),
    })
}

fn check_agrees(request: &Admission<'_>, computed: &Computed) -> Result<(), StatusError> {
    let pod = request.new_object();
    if let Some(own) = int(pod, &["spec", "priority"]).filter(|own| *own != computed.value) {
        return Err(request.forbidden(format!(
            "the integer value of priority ({own}) must not be provided in pod spec; priority admission controller computed {} from the given PriorityClass name",
            computed.value
        )));
    }
    let own = text(pod, &["spec", "preemptionPolicy"]);
    let policy = computed.preemption.as_str().unwrap_or_default();
    if !own.is_empty() && !policy.is_empty() && own != policy {
        return Err(request.forbidden(format!(
            "the string value of PreemptionPolicy ({own}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
        )));
    }
    Ok(())
}

fn fill(pod: &mut Object, computed: Computed) {
    if !computed.class.is_empty() {
        set(pod, &["spec", "priorityClassName"], computed.class);
    }
    set(pod, &["spec", "priority"], computed.value);
    if !computed.preemption.is_null() {
        set(pod, &["spec", "preemptionPolicy"], computed.preemption);
    }
}

/// The default class; should there be several, the one of the lowest value.
async fn default_class(cluster: &dyn ClusterReader) -> Result<Option<std::sync::Arc<Object>>, StatusError> {
    let classes = cluster.list(GROUP, "priorityclasses", "").await?;
    let defaults = classes.into_iter().filter(|class| flag(class, &["globalDefault"]) == Some(true));
    Ok(defaults.min_by_key(|class| int(class, &["value"])))
}
