//! Finding pods and containers that requests name.

use http::StatusCode;

use super::respond::{Answer, text};
use crate::kubelet::pod::observed::Container;
use crate::kubelet::pod::spec;
use crate::kubelet::worker::Pool;
use crate::kubelet::worker::pool::View;

/// A pod by namespace and name; with a uid it must be that very pod.
pub fn find_pod(pool: &Pool, namespace: &str, name: &str, uid: Option<&str>) -> Result<View, Box<Answer>> {
    let found = pool.find(namespace, name).filter(|v| {
        // The API's uid of a static pod is its mirror's.
        uid.is_none_or(|uid| {
            spec::uid(&v.pod) == uid || pool.mirror_of(&v.pod).is_some_and(|m| spec::uid(&m) == uid)
        })
    });
    found.ok_or_else(|| Box::new(text(StatusCode::NOT_FOUND, format!("pod \"{name}\" does not exist\n"))))
}

/// The running container of that name.
pub fn running_container<'a>(view: &'a View, name: &str) -> Result<&'a Container, Box<Answer>> {
    let found = view.snapshot.observed.latest(name);
    found.ok_or_else(|| Box::new(text(StatusCode::NOT_FOUND, format!("container not found (\"{name}\")\n"))))
}
