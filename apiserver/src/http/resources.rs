//! Verbs on resources: from a parsed request to the registry and back to an answer.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE, HeaderMap, USER_AGENT};
use http::{HeaderValue, Response, StatusCode};
use machinery::status::StatusError;

use super::body::{self, Body};
use super::negotiate::{self, Encoding, Form, Offer};
use super::watch::WatchOptions;
use super::{Api, encode, respond, watch};
use crate::contract::RequestContext;
use crate::registry::decode::{self, Expected};
use crate::registry::delete::Deleted;
use crate::registry::facts::DefaultPropagation;
use crate::registry::kind::Kind;
use crate::registry::options::{DeleteOptions, Query, WriteOptions};
use crate::registry::patch::{Patch, PatchType};
use crate::registry::read::{ListOptions, Listed};
use crate::registry::update::{Replace, Target};
use crate::registry::{Answer, selectors};
use crate::reviews::Reviews;
use crate::table::IncludeObject;

/// One request on a resource, body read.
pub struct ResourceRequest<'a> {
    pub ctx: &'a RequestContext,
    pub kind: &'a Arc<Kind>,
    pub query: &'a Query,
    pub headers: &'a HeaderMap,
    pub body: &'a Bytes,
}

/// A header as text.
pub fn header<'a>(headers: &'a HeaderMap, name: &http::HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|v| v.to_str().ok())
}

/// Whether the client takes gzip.
pub fn accepts_gzip(headers: &HeaderMap) -> bool {
    header(headers, &ACCEPT_ENCODING).is_some_and(|v| v.split(',').any(|e| e.trim().starts_with("gzip")))
}

impl<'a> ResourceRequest<'a> {
    pub fn target(&self) -> Target<'a> {
        let info = &self.ctx.info;
        Target { namespace: &info.namespace, name: &info.name, subresource: &info.subresource }
    }

    pub fn form(&self) -> Result<Form, StatusError> {
        let info = &self.ctx.info;
        let offer = Offer {
            protobuf: !self.kind.is_custom(),
            // What is only computed has no metadata to show and no rows.
            transforms: !Reviews::handles(&info.group, &info.resource, &info.subresource),
            yaml: info.verb != "watch",
        };
        negotiate::form(header(self.headers, &ACCEPT), offer)
    }

    pub fn include(&self) -> Result<IncludeObject, StatusError> {
        IncludeObject::parse(self.query.get("includeObject"))
    }

    pub fn write_options(&self, options_kind: &str) -> Result<WriteOptions, StatusError> {
        let agent = header(self.headers, &USER_AGENT).unwrap_or_default();
        WriteOptions::from_query(self.query, agent, options_kind)
    }

    /// The body as the expected kind.
    pub fn decode(
        &self,
        expected: &Expected<'_>,
        options: &WriteOptions,
    ) -> Result<serde_json::Value, StatusError> {
        let format = negotiate::body_format(header(self.headers, &CONTENT_TYPE), !expected.is_custom)?;
        decode::object(self.ctx, expected, self.body, format, options.field_validation)
    }

    /// The media type of a patch.
    pub fn patch_type(&self) -> Result<PatchType, StatusError> {
        let media_type = header(self.headers, &CONTENT_TYPE).unwrap_or_default();
        let media_type = media_type.split(';').next().unwrap_or_default().trim();
        let all = [
            "application/json-patch+json",
            "application/merge-patch+json",
            "application/strategic-merge-patch+json",
            "application/apply-patch+yaml",
        ];
        PatchType::of(media_type).ok_or_else(|| StatusError::unsupported_media_type(&all))
    }

    /// An object as the answer.
    pub fn answer(&self, code: StatusCode, answer: &Answer) -> Result<Response<Body>, StatusError> {
        let form = self.form()?;
        let pieces = encode::answer(self.kind, answer, form, self.include()?)?;
        Ok(respond::pieces(code, pieces, form.encoding, accepts_gzip(self.headers)))
    }

    fn filter(&self) -> Result<crate::cache::Filter, StatusError> {
        let info = &self.ctx.info;
        // The name of a collection request comes from its selector, which says the same; that of a watch may stand in
        // an old path (`/watch/…/name`).
        let name = if info.verb == "watch" { info.name.as_str() } else { "" };
        let (labels, fields) = (self.query.get("labelSelector"), self.query.get("fieldSelector"));
        selectors::filter(self.kind, &info.namespace, name, labels, fields)
    }
}

/// What deleting a Job leaves behind unless the request says otherwise.
const ORPHANED_PODS: &str = "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set propagationPolicy=Orphan to suppress this warning";

/// Built-in kinds that still work but have a better successor.
fn deprecation(group: &str, resource: &str) -> Option<&'static str> {
    match (group, resource) {
        ("", "endpoints") => {
            Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice")
        }
        _ => None,
    }
}

impl Api {
    /// Serves the main resource and its plain subresources.
    pub async fn resource(&self, request: &ResourceRequest<'_>) -> Result<Response<Body>, StatusError> {
        let verb = request.ctx.info.verb.as_str();
        if let Some(warning) = request.kind.custom.as_ref().and_then(|c| c.deprecation_warning.clone()) {
            request.ctx.warn(warning);
        }
        if let Some(warning) = deprecation(&request.kind.group, &request.kind.resource) {
            request.ctx.warn(warning);
        }
        // What the client can read is settled before anything is done.
        request.form()?;
        match verb {
            "get" => self.get(request).await,
            "list" => self.list(request).await,
            "watch" => self.watch(request).await,
            "create" => self.create(request).await,
            "update" => self.update(request).await,
            "patch" => self.patch(request).await,
            "delete" => self.delete(request).await,
            "deletecollection" => self.delete_collection(request).await,
            other => {
                Err(StatusError::method_not_supported(&request.kind.group, &request.kind.resource, other))
            }
        }
    }

    async fn get(&self, request: &ResourceRequest<'_>) -> Result<Response<Body>, StatusError> {
        let revision = request.query.get("resourceVersion").unwrap_or_default();
        let entry = self.registry.get(request.kind, request.target(), revision).await?;
        request.answer(StatusCode::OK, &Answer::Stored(entry))
    }

    async fn list(&self, request: &ResourceRequest<'_>) -> Result<Response<Body>, StatusError> {
        let options = ListOptions::from_query(request.query)?;
        let listed = self.registry.list(request.kind, &request.filter()?, &options).await?;
        self.list_answer(request, listed)
    }

    fn list_answer(
        &self,
        request: &ResourceRequest<'_>,
        listed: Listed,
    ) -> Result<Response<Body>, StatusError> {
        let form = request.form()?;
        let pieces = encode::list(request.kind, listed, form, request.include()?)?;
        Ok(respond::pieces(StatusCode::OK, pieces, form.encoding, accepts_gzip(request.headers)))
    }

    async fn watch(&self, request: &ResourceRequest<'_>) -> Result<Response<Body>, StatusError> {
        let options = WatchOptions::from_query(request.query)?;
        let form = request.form()?;
        let encoder = encode::EventEncoder { kind: request.kind.clone(), form, include: request.include()? };
        let opened = self.registry.watch(request.kind, request.filter()?, &options).await;
        let body = match opened {
            Ok(start) => {
                let counters = self.metrics.requests.watch(&request.ctx.info);
                let limits = watch::Limits::new(&options, self.min_request_timeout, self.shutdown.clone());
                body::stream(watch::stream(start, encoder, options, counters, limits))
            }
            // A revision that is too old is an event on an opened watch, as clients expect.
            Err(error) if error.code() == 410 => body::full(encoder.status("ERROR", &error.to_value())),
            Err(error) => return Err(error),
        };
        let mut response = Response::new(body);
        let content_type = match form.encoding {
            Encoding::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
            _ => "application/json",
        };
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        response
            .headers_mut()
            .insert(http::header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
        Ok(response)
    }

    async fn create(&self, request: &ResourceRequest<'_>) -> Result<Response<Body>, StatusError> {
        let options = request.write_options("CreateOptions")?;
        let object = request.decode(&Expected::of(request.kind), &options)?;
        if request.kind.custom.as_ref().is_some_and(|c| c.terminating) {
            let message = "create not allowed while custom resource definition is terminating";
            return Err(StatusError::method_not_supported(
                &request.kind.group,
                &request.kind.resource,
                "create",
            )
            .with_message(message));
        }
        let answer = self.registry.create(request.ctx, request.kind, object, &options).await?;
        request.answer(StatusCode::CREATED, &answer)
    }

    async fn update(&self, request: &ResourceRequest<'_>) -> Result<Response<Body>, StatusError> {
        let options = request.write_options("UpdateOptions")?;
        let object = request.decode(&Expected::of(request.kind), &options)?;
        let change = Replace(object);
        let (answer, created) =
            self.registry.update(request.ctx, request.kind, request.target(), &change, &options).await?;
        request.answer(if created { StatusCode::CREATED } else { StatusCode::OK }, &answer)
    }

    async fn patch(&self, request: &ResourceRequest<'_>) -> Result<Response<Body>, StatusError> {
        let options = request.write_options("PatchOptions")?;
        let patch_type = request.patch_type()?;
        let subresource = &request.ctx.info.subresource;
        let patch = Patch::parse(request.kind, subresource, patch_type, request.body, &options)?;
        let (answer, created) =
            self.registry.update(request.ctx, request.kind, request.target(), &patch, &options).await?;
        request.answer(if created { StatusCode::CREATED } else { StatusCode::OK }, &answer)
    }

    fn delete_options(&self, request: &ResourceRequest<'_>) -> Result<DeleteOptions, StatusError> {
        if request.body.is_empty() {
            return DeleteOptions::parse(request.query, None);
        }
        let format = negotiate::body_format(header(request.headers, &CONTENT_TYPE), true)?;
        let tree = decode::parse(request.body, format).map_err(|text| {
            StatusError::bad_request(format!("couldn't get version/kind; json parse error: {text}"))
        })?;
        DeleteOptions::parse(request.query, Some(&tree.value))
    }

    async fn delete(&self, request: &ResourceRequest<'_>) -> Result<Response<Body>, StatusError> {
        let options = self.delete_options(request)?;
        if request.kind.facts.propagation == DefaultPropagation::Orphan
            && request.kind.resource == "jobs"
            && options.propagation.is_none()
        {
            request.ctx.warn(ORPHANED_PODS);
        }
        let deleted = self.registry.delete(request.ctx, request.kind, request.target(), &options).await?;
        match deleted {
            Deleted::Gone(answer) | Deleted::Marked(answer) => request.answer(StatusCode::OK, &answer),
        }
    }

    async fn delete_collection(&self, request: &ResourceRequest<'_>) -> Result<Response<Body>, StatusError> {
        let options = self.delete_options(request)?;
        let filter = request.filter()?;
        let entries = self.registry.delete_collection(request.ctx, request.kind, &filter, &options).await?;
        let revision = request.kind.storage()?.cache.revision();
        self.list_answer(request, Listed { entries, revision, ..Listed::default() })
    }
}
