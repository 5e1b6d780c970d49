//! The seam between the request pipeline (registry, cache, wire) and the meaning of each kind
//! (authentication, authorization, admission, kind hooks, start-up objects).
//!
//! Both sides depend on this file and not on each other's internals. Nothing here does IO.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use machinery::status::{FieldError, StatusError};

/// An API object in its JSON form, at the version the request speaks. The root is always a JSON object.
pub type Object = serde_json::Value;

/// Who sends the request, as the authenticator chain found it (upstream `user.Info`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInfo {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

/// What the request asks for, parsed from method, path and query (upstream `request.RequestInfo`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// Whether the path names a Kubernetes resource; otherwise only `path` and `verb` mean something.
    pub is_resource: bool,
    pub path: String,
    /// `get list watch create update patch delete deletecollection proxy`, or the lower-case HTTP method of a
    /// non-resource request.
    pub verb: String,
    pub group: String,
    pub version: String,
    pub resource: String,
    pub subresource: String,
    /// Empty for cluster-scoped requests and requests across namespaces.
    pub namespace: String,
    /// Empty for collections and for creations that leave the name to `generateName`.
    pub name: String,
    /// The `fieldSelector` of list, watch and deletecollection as it stands in the query, decoded; empty otherwise.
    pub field_selector: String,
    /// The `labelSelector`, likewise.
    pub label_selector: String,
}

/// Cached, consistent-enough reads for hooks, admission and authorization. Never blocks on the store for long.
#[async_trait]
pub trait ClusterReader: Send + Sync {
    /// The object as cached, or `None` when the cache does not have it or cannot be read now. `namespace` is empty for
    /// cluster-scoped resources. Whoever decides by what is missing asks with [`Self::find`].
    async fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Object>>;
    /// The object as it stands in the store now: every write acknowledged before, by whichever server, is seen. None of
    /// a resource that is not served.
    ///
    /// # Errors
    /// When the store does not answer: whether there is such an object is not known then.
    async fn get_current(
        &self,
        group: &str,
        resource: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<Object>>, StatusError>;
    /// The object as cached; what the cache lacks is looked for in the store. For decisions that must not take a
    /// cache a few milliseconds behind for an object that does not exist.
    async fn find(
        &self,
        group: &str,
        resource: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<Object>>, StatusError> {
        match self.get(group, resource, namespace, name).await {
            Some(cached) => Ok(Some(cached)),
            None => self.get_current(group, resource, namespace, name).await,
        }
    }
    /// All objects of the resource as cached, of one namespace unless `namespace` is empty; none of a resource that is
    /// not served.
    ///
    /// # Errors
    /// When the objects are not known: no limit, quota or role may be taken for absent then.
    async fn list(
        &self,
        group: &str,
        resource: &str,
        namespace: &str,
    ) -> Result<Vec<Arc<Object>>, StatusError>;
    /// As [`Self::list`], with every write acknowledged before, by whichever server.
    async fn list_current(
        &self,
        group: &str,
        resource: &str,
        namespace: &str,
    ) -> Result<Vec<Arc<Object>>, StatusError>;
    /// The objects whose selectable field has this value.
    async fn select(&self, group: &str, resource: &str, field: &str, value: &str) -> Selection;
    /// Grows with every change to any object of the resource; equal numbers mean that nothing changed.
    fn version(&self, group: &str, resource: &str) -> u64;
}

/// Objects picked by a field, parsed only when somebody asks for them.
pub struct Selection {
    /// Equal numbers mean the same objects in the same state.
    pub version: u64,
    parse: Box<dyn Fn() -> Vec<Arc<Object>> + Send + Sync>,
}

impl Selection {
    pub fn new(version: u64, parse: impl Fn() -> Vec<Arc<Object>> + Send + Sync + 'static) -> Self {
        Self { version, parse: Box::new(parse) }
    }

    pub fn objects(&self) -> Vec<Arc<Object>> {
        (self.parse)()
    }
}

/// Writes that go through the registry (defaulting, validation, storage) without authorization or admission,
/// for allocators, quota and start-up objects.
#[async_trait]
pub trait ClusterWriter: ClusterReader {
    async fn create(&self, group: &str, resource: &str, object: Object) -> Result<Arc<Object>, StatusError>;
    /// Compare-and-set on `metadata.resourceVersion` where the object carries one.
    async fn update(&self, group: &str, resource: &str, object: Object) -> Result<Arc<Object>, StatusError>;
    /// As `update`, for the `/status` part only.
    async fn update_status(
        &self,
        group: &str,
        resource: &str,
        object: Object,
    ) -> Result<Arc<Object>, StatusError>;
    async fn delete(
        &self,
        group: &str,
        resource: &str,
        namespace: &str,
        name: &str,
    ) -> Result<(), StatusError>;
}

/// What one request carries through the pipeline.
pub struct RequestContext {
    pub user: UserInfo,
    pub info: RequestInfo,
    pub now: Timestamp,
    pub dry_run: bool,
    /// Sent as `Warning: 299` headers.
    pub warnings: parking_lot::Mutex<Vec<String>>,
    pub cluster: Arc<dyn ClusterWriter>,
}

impl RequestContext {
    /// How many warnings there are; see [`RequestContext::forget_warnings_after`].
    pub fn warning_count(&self) -> usize {
        self.warnings.lock().len()
    }

    /// Takes later warnings back: advice about an object that is refused would only hide why.
    pub fn forget_warnings_after(&self, count: usize) {
        self.warnings.lock().truncate(count);
    }

    /// Adds one warning to the answer; the same words are said once.
    pub fn warn(&self, text: impl Into<String>) {
        let (text, mut warnings) = (text.into(), self.warnings.lock());
        if !warnings.contains(&text) {
            warnings.push(text);
        }
    }
}

/// The rules of one kind (or one of its subresources) that tables cannot say. Every method has the neutral default.
///
/// The pipeline itself does what all kinds share: metadata checks, uid, creationTimestamp, generation (bumped when
/// anything outside metadata and status changed), the split between main resource and `/status`, name generation,
/// finalizers, schema checks (types, required, unknown fields), table defaults.
#[async_trait]
pub trait KindHooks: Send + Sync {
    /// Defaults that depend on other fields; runs after the table defaults on every decode (create, update, patch, apply).
    fn default(&self, _object: &mut Object) {}
    fn prepare_for_create(&self, _ctx: &RequestContext, _object: &mut Object) {}
    fn prepare_for_update(&self, _ctx: &RequestContext, _new: &mut Object, _old: &Object) {}
    fn validate_create(&self, _ctx: &RequestContext, _object: &Object) -> Vec<FieldError> {
        Vec::new()
    }
    fn validate_update(&self, _ctx: &RequestContext, _new: &Object, _old: &Object) -> Vec<FieldError> {
        Vec::new()
    }
    /// Claims what must be unique in the cluster (service addresses, node ports) just before the write; `old` is
    /// `None` on create. The pipeline calls [`KindHooks::release`] with the same object when the write fails. Of a dry
    /// run it keeps nothing.
    async fn claim(
        &self,
        _ctx: &RequestContext,
        _new: &mut Object,
        _old: Option<&Object>,
    ) -> Result<(), StatusError> {
        Ok(())
    }
    /// Gives back what [`KindHooks::claim`] took: after a failed write, and after a deletion.
    async fn release(&self, _ctx: &RequestContext, _object: &Object) {}
    /// Gives back what the object held before an update and holds no longer; after the write.
    async fn settle(&self, _ctx: &RequestContext, _new: &Object, _old: &Object) {}
    /// The grace period in seconds this deletion gets, or `None` to delete at once (upstream `CheckGracefulDelete`).
    fn grace_period(&self, _ctx: &RequestContext, _object: &Object, _asked: Option<i64>) -> Option<i64> {
        None
    }
    /// Names are checked by this rule; the pipeline turns the texts into `metadata.name: Invalid value` errors.
    /// A prefix of a name still to be generated may end in a dash.
    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        let masked = prefix.then(|| machinery::names::mask_trailing_dash(name));
        machinery::names::dns1123_subdomain(masked.as_deref().unwrap_or(name))
    }
}

/// What is being admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

/// One request as admission sees it.
pub struct Admission<'a> {
    pub ctx: &'a RequestContext,
    pub operation: Operation,
    pub kind: &'a str,
    /// The new object; absent for deletions. Mutating plugins change it in place.
    pub object: Option<&'a mut Object>,
    pub old: Option<&'a Object>,
    /// CreateOptions, UpdateOptions, DeleteOptions, or the connect options.
    pub options: &'a Object,
}

/// The admission chain: every mutating step, then every validating step.
#[async_trait]
pub trait AdmissionChain: Send + Sync {
    async fn mutate(&self, request: &mut Admission<'_>) -> Result<(), StatusError>;
    async fn validate(&self, request: &Admission<'_>) -> Result<(), StatusError>;
}

/// What the connection and the headers offer as proof of identity.
pub struct Credentials<'a> {
    /// DER of the client's certificate chain, leaf first; already handshaken, not yet verified against the client CA.
    pub peer_certificates: &'a [Vec<u8>],
    pub headers: &'a http::HeaderMap,
    /// What the request asks for; some paths are open to everybody.
    pub path: &'a str,
}

/// Who is it? `Err` is 401; anonymous is a success where it is allowed.
#[async_trait]
pub trait Authenticator: Send + Sync {
    async fn authenticate(&self, credentials: Credentials<'_>) -> Result<UserInfo, StatusError>;
}

/// What an authorizer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Allow { reason: String },
    Deny { reason: String },
    NoOpinion { reason: String },
}

/// May they? The pipeline turns anything but `Allow` into upstream's 403.
#[async_trait]
pub trait Authorizer: Send + Sync {
    async fn authorize(&self, user: &UserInfo, info: &RequestInfo) -> Decision;
}
