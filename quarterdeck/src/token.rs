//! Join tokens: everything a machine needs to find the cluster, trust it, and be trusted.
//!
//! `qd1.ROLE.` and then base64url of a JSON object: the servers' addresses, the SHA-256 of the authority's
//! certificate, and a secret. An agent's secret is a Kubernetes bootstrap token; a server's is the cluster's
//! server secret, which lets its holder have the authorities' keys.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Result};

const MAGIC: &str = "qd1";

/// What the token's holder may become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Server,
    Agent,
}

impl Role {
    fn word(self) -> &'static str {
        match self {
            Role::Server => "server",
            Role::Agent => "agent",
        }
    }
}

/// A join token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinToken {
    pub role: Role,
    pub content: Content,
}

/// What the token carries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// `host:port` of the join service of each server known when the token was made.
    pub servers: Vec<String>,
    /// SHA-256 of the authority's DER certificate, hexadecimal.
    pub ca_hash: String,
    /// For agents `ID.SECRET` in the form of a Kubernetes bootstrap token.
    pub secret: String,
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let content = serde_json::to_vec(&self.content).map_err(|_| fmt::Error)?;
        write!(f, "{MAGIC}.{}.{}", self.role.word(), URL_SAFE_NO_PAD.encode(content))
    }
}

impl FromStr for JoinToken {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |what: &str| {
            Failure::new(format!("the join token {what}"))
                .mend("copy it whole from `quarterdeck token create` on a server")
        };
        let mut parts = text.trim().splitn(3, '.');
        if parts.next() != Some(MAGIC) {
            return Err(wrong("does not start with `qd1.`"));
        }
        let role = match parts.next() {
            Some("server") => Role::Server,
            Some("agent") => Role::Agent,
            _ => return Err(wrong("names neither `server` nor `agent`")),
        };
        let bytes = URL_SAFE_NO_PAD
            .decode(parts.next().unwrap_or_default())
            .map_err(|_| wrong("is cut or altered"))?;
        let content: Content = serde_json::from_slice(&bytes).map_err(|_| wrong("is cut or altered"))?;
        if content.servers.is_empty() {
            return Err(wrong("names no server"));
        }
        Ok(JoinToken { role, content })
    }
}

/// Random text in a bootstrap token's alphabet (`[a-z0-9]`).
pub fn random_word(length: usize) -> String {
    use rand::Rng;
    const ALPHABET: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut rng = rand::rng();
    (0..length).map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_round_trip_and_rubbish_is_named() {
        let token = JoinToken {
            role: Role::Agent,
            content: Content {
                servers: vec!["10.0.0.1:6444".into()],
                ca_hash: "ab".into(),
                secret: "a.b".into(),
            },
        };
        let text = token.to_string();
        assert_eq!(text.parse::<JoinToken>().expect("a token"), token);
        for (bad, part) in [
            ("", "does not start"),
            ("K10abc::server:x", "does not start"),
            ("qd1.boss.e30", "neither"),
            ("qd1.agent.!", "cut or altered"),
            (&text[..text.len() - 4], "cut or altered"),
        ] {
            let error = bad.parse::<JoinToken>().expect_err(bad).to_string();
            assert!(error.contains(part), "{bad}: {error}");
        }
        assert_eq!(random_word(6).len(), 6);
    }
}
