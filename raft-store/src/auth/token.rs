//! Tokens: how a connection proves who it is after it has authenticated once.

use std::{collections::HashMap, path::Path, time::Duration};

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use parking_lot::Mutex;
use rand::{Rng, distr::Alphabetic};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::error::Error;

/// Letters of a simple token.
const SIMPLE_TOKEN_LEN: usize = 16;
/// How long a JWT lives when the flag does not say.
const JWT_TTL_DEFAULT: Duration = Duration::from_secs(300);
/// Simple tokens kept at once; the oldest unused go first.
const SIMPLE_TOKENS_MAX: usize = 100_000;

/// What `--auth-token` asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TokenSpec {
    /// Random letters, known to every member through the log.
    #[default]
    Simple,
    /// Signed by a key every member has.
    Jwt {
        /// PEM of the key that signs, or that only verifies.
        private_key: Option<String>,
        /// PEM of the key that verifies.
        public_key: Option<String>,
        /// The algorithm's name, for example `RS256`.
        sign_method: String,
        /// Life of a token.
        ttl: Duration,
    },
}

impl TokenSpec {
    /// Reads the flag: `simple`, or `jwt,pub-key=…,priv-key=…,sign-method=…,ttl=…`.
    pub fn parse(flag: &str) -> Result<Self, String> {
        let mut parts = flag.split(',');
        match parts.next() {
            Some("simple" | "") | None => return Ok(TokenSpec::Simple),
            Some("jwt") => {}
            Some(other) => return Err(format!("--auth-token: {other:?} is neither simple nor jwt")),
        }
        let options: HashMap<&str, &str> = parts.filter_map(|part| part.split_once('=')).collect();
        let read = |path: &&str| {
            std::fs::read_to_string(Path::new(path)).map_err(|error| format!("--auth-token: {path}: {error}"))
        };
        let ttl = match options.get("ttl") {
            Some(ttl) => {
                crate::cli::duration::parse(ttl).map_err(|error| format!("--auth-token: ttl: {error}"))?
            }
            None => JWT_TTL_DEFAULT,
        };
        let sign_method = options.get("sign-method").ok_or("--auth-token: jwt needs sign-method")?;
        Ok(TokenSpec::Jwt {
            private_key: options.get("priv-key").map(read).transpose()?,
            public_key: options.get("pub-key").map(read).transpose()?,
            sign_method: (*sign_method).to_owned(),
            ttl,
        })
    }
}

#[derive(Serialize, Deserialize)]
struct Claims {
    username: String,
    revision: u64,
    exp: u64,
}

/// Who a token speaks for, and the auth revision it was given at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user.
    pub user: String,
    /// The auth revision checks are made against.
    pub revision: u64,
}

struct SimpleToken {
    user: String,
    last_used: Instant,
}

enum Kind {
    Simple { tokens: Mutex<HashMap<String, SimpleToken>>, ttl: Duration },
    Jwt { sign: Option<Box<EncodingKey>>, verify: Box<DecodingKey>, algorithm: Algorithm, ttl: Duration },
}

/// Makes and checks tokens.
pub struct TokenProvider {
    kind: Kind,
}

impl TokenProvider {
    /// Loads the keys; fails with a message that names the flag. `simple_ttl` is how long a simple token lives after its
    /// last use.
    pub fn new(spec: &TokenSpec, simple_ttl: Duration) -> Result<Self, String> {
        let TokenSpec::Jwt { private_key, public_key, sign_method, ttl } = spec else {
            return Ok(Self { kind: Kind::Simple { tokens: Mutex::default(), ttl: simple_ttl } });
        };
        let algorithm: Algorithm =
            sign_method.parse().map_err(|_| format!("--auth-token: unknown sign-method {sign_method:?}"))?;
        let bad = |error: jsonwebtoken::errors::Error| format!("--auth-token: unusable key: {error}");
        let missing = "--auth-token: jwt needs pub-key or priv-key".to_owned();
        let (sign, verify) = match algorithm {
            Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => {
                let secret = private_key.as_ref().or(public_key.as_ref()).ok_or(missing)?.as_bytes();
                (Some(EncodingKey::from_secret(secret)), DecodingKey::from_secret(secret))
            }
            Algorithm::ES256 | Algorithm::ES384 => {
                let public = public_key.as_ref().ok_or(missing)?.as_bytes();
                let sign = private_key.as_ref().map(|key| EncodingKey::from_ec_pem(key.as_bytes()));
                (sign.transpose().map_err(bad)?, DecodingKey::from_ec_pem(public).map_err(bad)?)
            }
            Algorithm::EdDSA => {
                let public = public_key.as_ref().ok_or(missing)?.as_bytes();
                let sign = private_key.as_ref().map(|key| EncodingKey::from_ed_pem(key.as_bytes()));
                (sign.transpose().map_err(bad)?, DecodingKey::from_ed_pem(public).map_err(bad)?)
            }
            _ => {
                let public = public_key.as_ref().ok_or(missing)?.as_bytes();
                let sign = private_key.as_ref().map(|key| EncodingKey::from_rsa_pem(key.as_bytes()));
                (sign.transpose().map_err(bad)?, DecodingKey::from_rsa_pem(public).map_err(bad)?)
            }
        };
        Ok(Self {
            kind: Kind::Jwt { sign: sign.map(Box::new), verify: Box::new(verify), algorithm, ttl: *ttl },
        })
    }

    /// Makes a token. `needs_log` says that every member must be told before it can be used.
    pub fn issue(&self, user: &str, auth_revision: u64, log_index: u64) -> Result<NewToken, Error> {
        match &self.kind {
            Kind::Simple { .. } => {
                let letters = rand::rng().sample_iter(Alphabetic).take(SIMPLE_TOKEN_LEN);
                let letters: String = letters.map(char::from).collect();
                Ok(NewToken { token: format!("{letters}.{log_index}"), needs_log: true })
            }
            Kind::Jwt { sign, algorithm, ttl, .. } => {
                let key = sign.as_ref().ok_or(Error::AUTH_FAILED)?;
                let claims = Claims {
                    username: user.to_owned(),
                    revision: auth_revision,
                    exp: jsonwebtoken::get_current_timestamp() + ttl.as_secs(),
                };
                let token =
                    jsonwebtoken::encode(&Header::new(*algorithm), &claims, key).map_err(Error::internal)?;
                Ok(NewToken { token, needs_log: false })
            }
        }
    }

    /// Learns a simple token from the log.
    pub fn learn(&self, user: &str, token: &str) {
        let Kind::Simple { tokens, ttl } = &self.kind else { return };
        let mut tokens = tokens.lock();
        if tokens.len() >= SIMPLE_TOKENS_MAX {
            tokens.retain(|_, token| token.last_used.elapsed() < *ttl);
        }
        tokens.insert(token.to_owned(), SimpleToken { user: user.to_owned(), last_used: Instant::now() });
    }

    /// Forgets the simple tokens of a user, or all of them.
    pub fn forget(&self, user: Option<&str>) {
        if let Kind::Simple { tokens, .. } = &self.kind {
            tokens.lock().retain(|_, token| user.is_some_and(|user| token.user != user));
        }
    }

    /// Who a token speaks for. `auth_revision` is the present one, which simple tokens are checked against.
    pub fn identify(&self, token: &str, auth_revision: u64) -> Result<Identity, Error> {
        match &self.kind {
            Kind::Simple { tokens, ttl } => {
                let mut tokens = tokens.lock();
                let found = tokens.get_mut(token).ok_or(Error::INVALID_AUTH_TOKEN)?;
                if found.last_used.elapsed() > *ttl {
                    tokens.remove(token);
                    return Err(Error::INVALID_AUTH_TOKEN);
                }
                found.last_used = Instant::now();
                Ok(Identity { user: found.user.clone(), revision: auth_revision })
            }
            Kind::Jwt { verify, algorithm, .. } => {
                let mut rules = Validation::new(*algorithm);
                // The library would take a token for a minute longer than it lives.
                rules.leeway = 0;
                let checked = jsonwebtoken::decode::<Claims>(token, verify, &rules);
                let claims = checked.map_err(|_| Error::INVALID_AUTH_TOKEN)?.claims;
                Ok(Identity { user: claims.username, revision: claims.revision })
            }
        }
    }
}

/// A token just made.
pub struct NewToken {
    /// What the client is given.
    pub token: String,
    /// Every member must learn it through the log first.
    pub needs_log: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_simple_token_lives_as_long_after_its_last_use_as_it_was_given() {
        for (ttl, lives) in [(Duration::from_secs(300), true), (Duration::ZERO, false)] {
            let tokens = TokenProvider::new(&TokenSpec::Simple, ttl).unwrap();
            tokens.learn("alice", "secret");
            std::thread::sleep(Duration::from_millis(2));
            let found = tokens.identify("secret", 7).map(|identity| identity.user);
            assert_eq!(found, if lives { Ok("alice".to_owned()) } else { Err(Error::INVALID_AUTH_TOKEN) });
        }
    }
}
