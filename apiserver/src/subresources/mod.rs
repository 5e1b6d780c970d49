//! Subresources that are more than a part of their object.
//!
//! [`scale`], [`binding`], [`eviction`] compute; [`kubelet`], [`connect`] and [`tunnel`] pass requests on to nodes,
//! pods and services; [`streams`] translates where nodes do not speak what the client does.

pub mod binding;
pub mod connect;
pub mod endpoints;
pub mod eviction;
pub mod kubelet;
pub mod scale;
pub mod streams;
pub mod tunnel;

use std::sync::Arc;

use http::{Response, StatusCode};
use machinery::status::StatusError;
use serde_json::{Value, json};

use crate::http::Api;
use crate::http::body::Body;
use crate::http::resources::ResourceRequest;
use crate::registry::Answer;
use crate::registry::decode::Expected;
use crate::reviews::Reviews;

/// What subresources need beyond the registry.
pub struct Subresources {
    pub reviews: Option<Arc<Reviews>>,
    pub kubelet: kubelet::Kubelet,
}

impl Subresources {
    /// Whether the request is answered by another server over a connection of its own.
    pub fn takes_connection(&self, resource: &str, subresource: &str, group: &str) -> bool {
        group.is_empty()
            && matches!(
                (resource, subresource),
                ("pods", "exec" | "attach" | "portforward" | "proxy" | "log")
                    | ("services" | "nodes", "proxy")
            )
    }
}

impl Api {
    /// Answers subresources and resources that are computed; `None` for everything the registry does by itself.
    pub async fn computed(
        &self,
        request: &ResourceRequest<'_>,
    ) -> Option<Result<Response<Body>, StatusError>> {
        let info = &request.ctx.info;
        match (info.group.as_str(), info.resource.as_str(), info.subresource.as_str()) {
            (group, resource, subresource) if Reviews::handles(group, resource, subresource) => {
                Some(self.review(request).await)
            }
            (_, _, "scale") => Some(self.scale(request).await),
            ("", "pods", "binding") | ("", "bindings", "") => Some(self.bind(request).await),
            ("", "pods", "eviction") => Some(self.evict(request).await),
            ("", "componentstatuses", "") => Some(self.component_statuses(request)),
            _ => None,
        }
    }

    async fn review(&self, request: &ResourceRequest<'_>) -> Result<Response<Body>, StatusError> {
        let reviews = self.subresources.reviews.as_ref();
        let reviews = reviews.ok_or_else(|| StatusError::service_unavailable("reviews are not set up"))?;
        let options = request.write_options("CreateOptions")?;
        let object = match request.kind.subresource(&request.ctx.info.subresource) {
            Some(sub) => {
                let schema = machinery::schema::for_kind(&sub.group, &sub.version, &sub.kind);
                let schema = schema.ok_or_else(StatusError::not_found_path)?;
                let (group, version, kind) = (&sub.group, &sub.version, &sub.kind);
                let expected =
                    Expected { group, version, kind, schema: &schema, is_custom: false, hooks: None };
                request.decode(&expected, &options)?
            }
            None => request.decode(&Expected::of(request.kind), &options)?,
        };
        let answer = reviews.create(request.ctx, object).await?;
        request.answer(StatusCode::CREATED, &Answer::Object(Arc::new(answer)))
    }

    /// The deprecated component statuses: nothing reports them any more but the store.
    fn component_statuses(&self, request: &ResourceRequest<'_>) -> Result<Response<Body>, StatusError> {
        let status = |name: &str| {
            let condition = json!({"type": "Healthy", "status": "True", "message": "ok"});
            json!({"kind": "ComponentStatus", "apiVersion": "v1", "metadata": {"name": name}, "conditions": [condition]})
        };
        request.ctx.warn("v1 ComponentStatus is deprecated in v1.19+");
        let name = request.ctx.info.name.as_str();
        let object: Value = match name {
            "" => {
                json!({"kind": "ComponentStatusList", "apiVersion": "v1", "metadata": {}, "items": [status("etcd-0")]})
            }
            "etcd-0" => status(name),
            _ => return Err(StatusError::not_found("", "componentstatuses", name)),
        };
        request.answer(StatusCode::OK, &Answer::Object(Arc::new(object)))
    }
}
