//! What an admission step is, and the refusals all of them word alike.

use async_trait::async_trait;
use machinery::status::StatusError;
use serde_json::Value;

use crate::contract::{Admission, Object, Operation};
use crate::kinds::json::text;

/// One step of the chain. Steps look only at requests they know and let others pass.
#[async_trait]
pub trait Plugin: Send + Sync {
    /// The name under which flags switch it on and off.
    fn name(&self) -> &'static str;
    /// Changes the object, or refuses.
    async fn mutate(&self, _: &mut Admission<'_>) -> Result<(), StatusError> {
        Ok(())
    }
    /// Refuses, or not.
    async fn validate(&self, _: &Admission<'_>) -> Result<(), StatusError> {
        Ok(())
    }
}

static NULL: Value = Value::Null;

impl Admission<'_> {
    /// Whether the request is for this resource, subresource included (empty for none).
    pub fn is_for(&self, group: &str, resource: &str, subresource: &str) -> bool {
        let info = &self.ctx.info;
        info.group == group && info.resource == resource && info.subresource == subresource
    }

    /// The new object, `null` for deletions.
    pub fn new_object(&self) -> &Object {
        self.object.as_deref().unwrap_or(&NULL)
    }

    /// The old object, `null` for creations.
    pub fn old_object(&self) -> &Object {
        self.old.unwrap_or(&NULL)
    }

    /// Whether an object is being created; connections and deletions are not.
    pub fn creates(&self) -> bool {
        self.operation == Operation::Create
    }

    /// Upstream's 403 for this request.
    pub fn forbidden(&self, why: impl std::fmt::Display) -> StatusError {
        let info = &self.ctx.info;
        StatusError::forbidden(&info.group, &info.resource, self.name_shown(), why)
    }

    fn name_shown(&self) -> &str {
        let object = self.new_object();
        let candidates = [
            self.ctx.info.name.as_str(),
            text(object, &["metadata", "name"]),
            text(object, &["metadata", "generateName"]),
        ];
        candidates.into_iter().find(|name| !name.is_empty()).unwrap_or("Unknown")
    }
}
