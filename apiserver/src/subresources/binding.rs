//! `pods/binding` and `bindings`: puts a pod on a node.

use std::sync::Arc;

use async_trait::async_trait;
use http::{Response, StatusCode};
use machinery::status::StatusError;
use serde_json::{Value, json};

use crate::contract::RequestContext;
use crate::http::Api;
use crate::http::body::Body;
use crate::http::resources::ResourceRequest;
use crate::kinds::pod::binding;
use crate::registry::decode::Expected;
use crate::registry::update::{Change, Target};
use crate::registry::{Answer, meta};

struct Bind(Value);

#[async_trait]
impl Change for Bind {
    async fn make(&self, ctx: &RequestContext, current: Option<&Value>) -> Result<Value, StatusError> {
        let missing = || StatusError::not_found("", "pods", meta::name(&self.0));
        let mut pod = current.ok_or_else(missing)?.clone();
        binding::apply(&mut pod, &self.0, ctx.now)?;
        Ok(pod)
    }

    /// Upstream's binding owns nothing: it writes past the strategies.
    fn tracks_managers(&self) -> bool {
        true
    }
}

impl Api {
    /// Stores the node's name in the pod.
    pub async fn bind(&self, request: &ResourceRequest<'_>) -> Result<Response<Body>, StatusError> {
        let options = request.write_options("CreateOptions")?;
        let schema =
            machinery::schema::for_kind("", "v1", "Binding").ok_or_else(StatusError::not_found_path)?;
        let expected = Expected {
            group: "",
            version: "v1",
            kind: "Binding",
            schema: &schema,
            is_custom: false,
            hooks: None,
        };
        let object = request.decode(&expected, &options)?;
        let info = &request.ctx.info;
        let name = if info.name.is_empty() { meta::name(&object).to_owned() } else { info.name.clone() };
        if !meta::name(&object).is_empty() && meta::name(&object) != name {
            return Err(StatusError::bad_request("name in URL does not match name in Binding object"));
        }
        let errors = binding::validate(&object);
        if !errors.is_empty() {
            return Err(StatusError::invalid("", "Binding", &name, errors));
        }
        let found = self.registry.catalog.snapshot().find("", "v1", "pods").cloned();
        let pods = found.ok_or_else(StatusError::not_found_path)?;
        let target = Target { namespace: &info.namespace, name: &name, subresource: "binding" };
        self.registry.update(request.ctx, &pods, target, &Bind(object), &options).await?;
        let status =
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
        request.answer(StatusCode::CREATED, &Answer::Object(Arc::new(status)))
    }
}
