//! Follows a watch line by line.

use std::net::SocketAddr;

use http_body_util::BodyExt as _;
use serde::Deserialize;

use crate::control_plane::Result;
use crate::control_plane::http::Connection;

/// The part of a watch event that the scenarios look at.
#[derive(Deserialize)]
pub struct Event {
    #[serde(rename = "type")]
    pub kind: String,
    pub object: Object,
}

/// The part of an object.
#[derive(Deserialize)]
pub struct Object {
    pub metadata: Metadata,
    #[serde(default)]
    pub spec: Spec,
}

/// The part of its metadata.
#[derive(Deserialize)]
pub struct Metadata {
    #[serde(default)]
    pub name: String,
}

/// The part of its spec.
#[derive(Default, Deserialize)]
pub struct Spec {
    #[serde(default, rename = "nodeName")]
    pub node_name: String,
}

/// Calls `see` for everything that happens to a collection from now on, until it says that this is enough. `ready` is
/// told when the watch has begun.
///
/// # Errors
/// When the watch ends early or cannot be read.
pub async fn follow(
    address: SocketAddr,
    path: &str,
    ready: tokio::sync::oneshot::Sender<()>,
    mut see: impl FnMut(&Event) -> bool,
) -> Result<()> {
    let mut connection = Connection::open(address).await?;
    let list = connection.read(&format!("{path}?limit=1")).await?;
    let revision = list["metadata"]["resourceVersion"].as_str().ok_or("a list without a resourceVersion")?;
    let path = format!("{path}?watch=true&resourceVersion={revision}");
    let (_connection, mut body) = connection.follow(&path).await?;
    // Nobody waits any more: then there is nobody to tell.
    let _ = ready.send(());
    let mut buffer = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame?;
        buffer.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        let mut from = 0;
        while let Some(end) = memchr::memchr(b'\n', &buffer[from..]) {
            let event: Event = serde_json::from_slice(&buffer[from..from + end])?;
            if see(&event) {
                return Ok(());
            }
            from += end + 1;
        }
        buffer.drain(..from);
    }
    Err(format!("the watch of {path} ended early").into())
}
