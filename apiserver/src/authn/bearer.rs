//! Bearer tokens: from the `Authorization` header or the WebSocket subprotocol, handed to each token step.

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use http::{HeaderMap, HeaderValue};

use super::chain::{Outcome, Step};
use super::token_cache::TokenCache;
use crate::contract::{Credentials, UserInfo};

const PROTOCOL_PREFIX: &str = "base64url.bearer.authorization.k8s.io.";

/// One sort of bearer token.
#[async_trait]
pub trait TokenStep: Send + Sync {
    /// `audiences` empty means those of this server. `Found` also says for which audiences.
    async fn check(&self, token: &str, audiences: &[String]) -> TokenOutcome;
}

/// What a token step found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenOutcome {
    NotMine,
    Found { user: UserInfo, audiences: Vec<String> },
    Refused(String),
}

/// All token steps, asked in order, with a short-lived cache of successes.
pub struct BearerTokens {
    steps: Vec<Box<dyn TokenStep>>,
    cache: TokenCache,
}

impl BearerTokens {
    pub fn new(steps: Vec<Box<dyn TokenStep>>) -> Self {
        BearerTokens { steps, cache: TokenCache::default() }
    }

    /// The user of the token, for requests and for TokenReview.
    pub async fn check(&self, token: &str, audiences: &[String]) -> TokenOutcome {
        if let Some(hit) = self.cache.get(token, audiences) {
            return hit;
        }
        let mut refusals = Vec::new();
        for step in &self.steps {
            match step.check(token, audiences).await {
                TokenOutcome::NotMine => {}
                TokenOutcome::Refused(why) => refusals.push(why),
                found => {
                    self.cache.put(token, audiences, &found);
                    return found;
                }
            }
        }
        if refusals.is_empty() { TokenOutcome::NotMine } else { TokenOutcome::Refused(joined(refusals)) }
    }
}

fn joined(mut refusals: Vec<String>) -> String {
    if refusals.len() == 1 { refusals.remove(0) } else { format!("[{}]", refusals.join(", ")) }
}

#[async_trait]
impl Step for std::sync::Arc<BearerTokens> {
    async fn authenticate(&self, credentials: &Credentials<'_>) -> Outcome {
        let Some(token) = bearer_token(credentials.headers) else { return Outcome::NotMine };
        match self.check(&token, &[]).await {
            TokenOutcome::Found { user, .. } => Outcome::Found(user),
            TokenOutcome::NotMine => Outcome::Refused("invalid bearer token".to_owned()),
            TokenOutcome::Refused(why) => Outcome::Refused(format!("invalid bearer token, {why}")),
        }
    }
}

/// The token the request carries, if any.
fn bearer_token(headers: &HeaderMap) -> Option<String> {
    from_authorization(headers).or_else(|| from_protocol(headers))
}

fn from_authorization(headers: &HeaderMap) -> Option<String> {
    let header = headers.get(AUTHORIZATION)?.to_str().ok()?.trim();
    let (scheme, rest) = header.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let token = rest.split(' ').next().unwrap_or_default();
    (!token.is_empty()).then(|| token.to_owned())
}

/// Takes a token out of the subprotocols that are offered. What is left is agreed upon with the client, and goes to nodes,
/// pods and services, which must not learn it.
pub fn strip_token(headers: &mut HeaderMap) {
    let offered = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    let offered: Vec<String> = offered.map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned()).collect();
    let all = || offered.iter().flat_map(|list| list.split(',')).map(str::trim);
    if !all().any(|one| one.starts_with(PROTOCOL_PREFIX)) {
        return;
    }
    let left: Vec<&str> = all().filter(|one| !one.is_empty() && !one.starts_with(PROTOCOL_PREFIX)).collect();
    headers.remove(SEC_WEBSOCKET_PROTOCOL);
    if let Ok(left) = HeaderValue::from_str(&left.join(", "))
        && !left.is_empty()
    {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, left);
    }
}

fn from_protocol(headers: &HeaderMap) -> Option<String> {
    let protocols = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    let encoded = protocols
        .flat_map(|list| list.split(','))
        .find_map(|one| one.trim().strip_prefix(PROTOCOL_PREFIX))?;
    let decoded = URL_SAFE_NO_PAD.decode(encoded).ok()?;
    String::from_utf8(decoded).ok().filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: http::HeaderName, value: &str, expected: Option<&str>) {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        assert_eq!(bearer_token(&headers).as_deref(), expected, "{value}");
    }

    #[test]
    fn tokens_are_found_in_both_headers() {
        check(AUTHORIZATION, "Bearer abc", Some("abc"));
        check(AUTHORIZATION, "bearer abc def", Some("abc"));
        check(AUTHORIZATION, "Bearer ", None);
        check(AUTHORIZATION, "Basic abc", None);
        check(
            SEC_WEBSOCKET_PROTOCOL,
            "v5.channel.k8s.io, base64url.bearer.authorization.k8s.io.YWJj",
            Some("abc"),
        );
        check(SEC_WEBSOCKET_PROTOCOL, "base64url.bearer.authorization.k8s.io.!!", None);
    }

    #[test]
    fn a_token_goes_no_further_than_here() {
        let check = |offered: &[&str], left: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in offered {
                headers.append(SEC_WEBSOCKET_PROTOCOL, value.parse().unwrap());
            }
            strip_token(&mut headers);
            let found: Vec<_> = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().collect();
            assert_eq!(found, left, "{offered:?}");
        };
        let token = format!("{PROTOCOL_PREFIX}YWJj");
        check(&[], &[]);
        check(&["v5.channel.k8s.io,v4.channel.k8s.io", "x"], &["v5.channel.k8s.io,v4.channel.k8s.io", "x"]);
        check(&[&token], &[]);
        check(&[&format!("{token}, binary.k8s.io")], &["binary.k8s.io"]);
        check(&["a,b", &format!("c,{token}"), &token], &["a, b, c"]);
    }
}
