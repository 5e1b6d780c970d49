//! The hooks of services: pure rules before the write, allocation around it.

use std::sync::Arc;

use async_trait::async_trait;
use machinery::status::{FieldError, StatusError};

use super::{families, fields, validate};
use crate::alloc::Allocators;
use crate::contract::{KindHooks, Object, RequestContext};
use crate::kinds::json::{items, set_if_null, text};
use crate::kinds::kind::label;
use crate::kinds::rules;

/// Services hold addresses and ports that must be unique in the cluster.
pub struct ServiceHooks {
    pub allocators: Arc<Allocators>,
}

#[async_trait]
impl KindHooks for ServiceHooks {
    fn default(&self, object: &mut Object) {
        fields::default(object);
    }

    fn prepare_for_create(&self, ctx: &RequestContext, object: &mut Object) {
        warn(ctx, object);
        fields::normalize_cluster_ips(object, None);
        // Refusals are reported by validation, which runs the same rules again.
        let _refused = families::init(object, None, self.allocators.families());
        set_if_null(object, &["status"], serde_json::json!({"loadBalancer": {}}));
    }

    fn prepare_for_update(&self, ctx: &RequestContext, new: &mut Object, old: &Object) {
        warn(ctx, new);
        fields::drop_type_dependent(new, old);
        fields::patch_allocated(new, old);
        fields::normalize_cluster_ips(new, Some(old));
        let _refused = families::init(new, Some(old), self.allocators.families());
    }

    fn validate_create(&self, _: &RequestContext, object: &Object) -> Vec<FieldError> {
        self.validate(object, None)
    }

    fn validate_update(&self, _: &RequestContext, new: &Object, old: &Object) -> Vec<FieldError> {
        self.validate(new, Some(old))
    }

    async fn claim(
        &self,
        ctx: &RequestContext,
        new: &mut Object,
        old: Option<&Object>,
    ) -> Result<(), StatusError> {
        self.allocators.claim(ctx, new, old).await
    }

    async fn release(&self, ctx: &RequestContext, object: &Object) {
        self.allocators.release(ctx, object).await;
    }

    async fn settle(&self, ctx: &RequestContext, new: &Object, old: &Object) {
        self.allocators.settle(ctx, new, old).await;
    }

    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        label(name, prefix)
    }
}

impl ServiceHooks {
    fn validate(&self, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        let mut copy = new.clone();
        if let Err(errors) = families::init(&mut copy, old, self.allocators.families()) {
            return errors;
        }
        let mut errors = rules::check("", "v1", "Service", new);
        validate::service(new, old, &mut errors);
        errors
    }
}

/// What is accepted but not advised.
fn warn(ctx: &RequestContext, service: &Object) {
    let kind = text(service, &["spec", "type"]);
    let headless = kind == "ClusterIP" && text(service, &["spec", "clusterIP"]) == "None";
    let external = !items(service, &["spec", "externalIPs"]).is_empty();
    if headless {
        if !text(service, &["spec", "loadBalancerIP"]).is_empty() {
            ctx.warn("spec.loadBalancerIP is ignored for headless services");
        }
        if external {
            ctx.warn("spec.externalIPs is ignored for headless services");
        }
        if text(service, &["spec", "sessionAffinity"]) != "None" {
            ctx.warn("spec.SessionAffinity is ignored for headless services");
        }
    }
    if external && kind == "ExternalName" {
        ctx.warn("spec.externalIPs is ignored when spec.type is \"ExternalName\"");
    } else if external && !headless {
        ctx.warn("spec.externalIPs is deprecated and may no longer be implemented in some clusters");
    }
    if kind != "ExternalName" && !text(service, &["spec", "externalName"]).is_empty() {
        ctx.warn("spec.externalName is ignored when spec.type is not \"ExternalName\"");
    }
    if text(service, &["spec", "trafficDistribution"]) == "PreferClose" {
        ctx.warn("spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"");
    }
}

/// The hooks of `services/status`.
pub fn status_check(_: &RequestContext, new: &Object, _: Option<&Object>, errors: &mut Vec<FieldError>) {
    if text(new, &["kind"]) == "Service" {
        validate::status(new, errors);
    }
}
