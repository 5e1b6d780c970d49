//! Remembers for a few seconds which tokens were good, so that a signature is not checked on every request.
//!
//! Only successes are kept, only their digests as keys, and never longer than upstream keeps them, which bounds
//! how long a revoked token still works.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use sha2::{Digest, Sha256};

use super::bearer::TokenOutcome;

/// How long a success is believed; upstream's `tokenSuccessCacheTTL`.
const TTL: Duration = Duration::from_secs(10);
/// Above this many entries the expired ones are dropped, and then all: bounds memory under a storm of tokens.
const ENTRIES_MAX: usize = 4096;

#[derive(Default)]
pub struct TokenCache {
    entries: Mutex<FxHashMap<[u8; 32], (Instant, TokenOutcome)>>,
}

impl TokenCache {
    pub fn get(&self, token: &str, audiences: &[String]) -> Option<TokenOutcome> {
        let entries = self.entries.lock();
        let (until, outcome) = entries.get(&key(token, audiences))?;
        (Instant::now() < *until).then(|| outcome.clone())
    }

    pub fn put(&self, token: &str, audiences: &[String], outcome: &TokenOutcome) {
        let now = Instant::now();
        let mut entries = self.entries.lock();
        if entries.len() >= ENTRIES_MAX {
            entries.retain(|_, (until, _)| now < *until);
        }
        if entries.len() >= ENTRIES_MAX {
            entries.clear();
        }
        entries.insert(key(token, audiences), (now + TTL, outcome.clone()));
    }
}

fn key(token: &str, audiences: &[String]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(token.as_bytes());
    for audience in audiences {
        hash.update([0]);
        hash.update(audience.as_bytes());
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::UserInfo;

    #[test]
    fn audiences_are_part_of_the_key_and_the_size_is_bounded() {
        let cache = TokenCache::default();
        let found = TokenOutcome::Found { user: UserInfo::default(), audiences: vec![] };
        cache.put("t", &[], &found);
        assert_eq!(cache.get("t", &[]), Some(found.clone()));
        assert_eq!(cache.get("t", &["a".to_owned()]), None);
        for n in 0..ENTRIES_MAX + 5 {
            cache.put(&n.to_string(), &[], &found);
        }
        assert!(cache.entries.lock().len() <= ENTRIES_MAX);
    }
}
