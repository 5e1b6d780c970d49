//! Who a call comes from, and whether this member may answer it now.

use std::sync::Arc;

use tonic::{Request, Status, metadata::MetadataMap};

use crate::{
    error::Error,
    member::{Caller, Member},
};

/// What is known of a connection; put on every request it carries.
#[derive(Clone, Debug, Default)]
pub struct Connection {
    /// It is private.
    pub is_tls: bool,
    /// The common name of the client's certificate.
    pub certificate_name: Option<Arc<str>>,
}

fn text<'m>(metadata: &'m MetadataMap, name: &str) -> Option<&'m str> {
    metadata.get(name)?.to_str().ok()
}

/// Whether the request carries a token that this member does not know of yet.
pub fn has_unknown_token<B>(member: &Member, request: &::http::Request<B>) -> bool {
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    header("token").or_else(|| header("authorization")).is_some_and(|token| member.is_unknown(token))
}

/// What a request proves its caller by, for streams that outlast their opening.
pub struct Credentials {
    token: Option<String>,
    certificate_name: Option<Arc<str>>,
}

impl Credentials {
    /// Those of a request.
    pub fn of<T>(request: &Request<T>) -> Self {
        let connection = request.extensions().get::<Connection>();
        Self {
            token: token(request.metadata()).map(str::to_owned),
            certificate_name: connection.and_then(|connection| connection.certificate_name.clone()),
        }
    }

    /// Whose they are now.
    pub fn caller(&self, member: &Member) -> Result<Caller, Error> {
        member.identify(self.token.as_deref(), self.certificate_name.as_deref())
    }
}

fn token(metadata: &MetadataMap) -> Option<&str> {
    text(metadata, "token").or_else(|| text(metadata, "authorization"))
}

/// The caller of a request; fails when its token is wrong, or when it needs a leader and there is none.
pub fn caller<T>(member: &Member, request: &Request<T>) -> Result<Caller, Status> {
    check_leader(member, request)?;
    let connection = request.extensions().get::<Connection>();
    let name = connection.and_then(|connection| connection.certificate_name.as_deref());
    Ok(member.identify(token(request.metadata()), name)?)
}

/// Fails when the request needs a leader and there is none.
pub fn check_leader<T>(member: &Member, request: &Request<T>) -> Result<(), Error> {
    if requires_leader(request) && member.leader().is_none() { Err(Error::NO_LEADER) } else { Ok(()) }
}

/// Whether the stream that carries this request must end when the leader is lost.
pub fn requires_leader<T>(request: &Request<T>) -> bool {
    text(request.metadata(), "hasleader") == Some("true")
}
