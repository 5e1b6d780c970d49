//! The joining side: find a server of the token that answers, make sure of it, ask.

use std::time::{Duration, SystemTime};

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use machinery::client::unverified;
use rustls::ClientConfig;

use super::join::{
    CA_PATH, CLUSTER_PATH, JoinAnswer, JoinRequest, Refusal, SERVERS_PATH, clocks_agree, unix_secs,
};
use crate::agent::memory::Cluster;
use crate::failure::{Failure, Result};
use crate::https::{self, verified};
use crate::pki::authority::{digest, to_pem};
use crate::token::JoinToken;

/// Longest wait for one server's answer; a member is added by a quorum write, so seconds are plenty.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// Authorities and keys are a few KiB.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// The authority's certificate (PEM), from the first server that answers and whose certificate has the token's hash.
pub async fn fetch_ca(token: &JoinToken) -> Result<String> {
    first_answer(token, async |server| {
        // What it says is compared with a hash that is trusted already, and nothing secret is sent.
        let answer = call(server, unverified::config(), "GET", CA_PATH, None, Vec::new()).await?;
        let pem = pinned_authority(&String::from_utf8(answer.body)?, &token.content.ca_hash)?;
        // Before certificates are looked at, which with a wrong clock would seem to have ended or not to have begun.
        if let Some(there) = answer.unix_secs {
            clocks_agree(unix_secs(SystemTime::now()), there)?;
        }
        Ok(pem)
    })
    .await
}

/// The certificate with this hash, written anew: whatever else the answer holds would be trusted like it. Who stands in
/// between could put an authority of their own behind the true one, and be taken for a server.
fn pinned_authority(answer: &str, ca_hash: &str) -> Result<String> {
    let certs = rustls_pemfile::certs(&mut answer.as_bytes()).collect::<std::io::Result<Vec<_>>>()?;
    match certs.as_slice() {
        [only] if digest(only) == ca_hash => Ok(to_pem(only)),
        _ => Err(Failure::new("its authority is not the one that the token names").mend(
            "make a new token on a server of the cluster that this machine should join (`quarterdeck token create`)",
        )),
    }
}

/// The cluster's settings, over TLS verified against `ca`.
pub async fn fetch_cluster(token: &JoinToken, ca: &str) -> Result<Cluster> {
    first_answer(token, async |server| {
        let answer = call(server, verified(ca)?, "GET", CLUSTER_PATH, None, Vec::new()).await?;
        Ok(serde_json::from_slice(&answer.body)?)
    })
    .await
}

/// Asks to become a member, over TLS verified against `ca`.
pub async fn join(token: &JoinToken, ca: &str, request: &JoinRequest) -> Result<JoinAnswer> {
    let body = serde_json::to_vec(request)?;
    first_answer(token, async |server| {
        let answer =
            call(server, verified(ca)?, "POST", SERVERS_PATH, Some(&token.content.secret), body.clone())
                .await?;
        Ok(serde_json::from_slice(&answer.body)?)
    })
    .await
}

async fn first_answer<T>(token: &JoinToken, ask: impl AsyncFn(&str) -> Result<T>) -> Result<T> {
    let mut problems = Vec::new();
    let mut mend = None;
    for server in &token.content.servers {
        match tokio::time::timeout(ANSWER_TIMEOUT, ask(server)).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(failure)) => {
                let (problem, advice) = failure.into_parts();
                problems.push(format!("{server}: {problem}"));
                mend = mend.or(advice);
            }
            Err(_) => problems.push(format!("{server}: no answer in {} s", ANSWER_TIMEOUT.as_secs())),
        }
    }
    let mend = mend.unwrap_or_else(|| {
        "see that a server of the cluster runs and that its join port can be reached from here".to_owned()
    });
    Err(Failure::new(format!("no server of the token let this machine join: {}", problems.join("; ")))
        .mend(mend))
}

/// What a server said, and when by its own clock.
struct Answer {
    body: Vec<u8>,
    unix_secs: Option<u64>,
}

async fn call(
    server: &str,
    config: ClientConfig,
    method: &str,
    path: &str,
    secret: Option<&str>,
    body: Vec<u8>,
) -> Result<Answer> {
    let host = server.rsplit_once(':').map_or(server, |(host, _)| host).trim_matches(['[', ']']);
    let mut sender = https::connect(server, host, config).await?;
    let mut request = http::Request::builder().method(method).uri(path).header("host", server);
    if let Some(secret) = secret {
        request = request.header("authorization", format!("Bearer {secret}"));
    }
    let answer = sender.send_request(request.body(Full::new(Bytes::from(body)))?).await?;
    let status = answer.status();
    let date = answer.headers().get(http::header::DATE).and_then(|date| date.to_str().ok());
    let date = date.and_then(|date| jiff::fmt::rfc2822::parse(date).ok());
    let unix_secs = date.and_then(|date| u64::try_from(date.timestamp().as_second()).ok());
    let bytes = Limited::new(answer.into_body(), ANSWER_BYTES_MAX)
        .collect()
        .await
        .map_err(|error| Failure::new(error.to_string()))?
        .to_bytes();
    if status.is_success() {
        return Ok(Answer { body: bytes.to_vec(), unix_secs });
    }
    Err(match serde_json::from_slice::<Refusal>(&bytes) {
        Ok(refusal) => {
            let failure = Failure::new(refusal.error);
            match refusal.mend {
                Some(mend) => failure.mend(mend),
                None => failure,
            }
        }
        Err(_) => Failure::new(format!("answered {status}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::authority;

    /// Two authorities, PEM.
    fn authorities() -> [String; 2] {
        let dir = tempfile::tempdir().expect("a folder");
        ["ours", "theirs"].map(|name| {
            authority::create(dir.path(), name, name).expect("an authority");
            std::fs::read_to_string(dir.path().join(format!("{name}.crt"))).expect("its certificate")
        })
    }

    #[test]
    fn only_the_authority_with_the_tokens_hash_is_taken() {
        let [ours, theirs] = authorities();
        let hash = authority::fingerprint(&ours).expect("a hash");
        for (answer, expected) in [
            (ours.clone(), true),
            (format!("a remark\n{ours}"), true),
            (theirs.clone(), false),
            (format!("{ours}{theirs}"), false),
            (format!("{theirs}{ours}"), false),
            (String::new(), false),
        ] {
            let taken = pinned_authority(&answer, &hash);
            assert_eq!(taken.is_ok(), expected, "{answer}");
            if let Ok(pem) = taken {
                assert_eq!(authority::fingerprint(&pem).expect("a hash"), hash);
                assert_eq!(pem.matches("BEGIN").count(), 1, "{pem}");
            }
        }
    }
}
