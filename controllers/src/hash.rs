//! Short names for contents: equal contents get equal names, in characters that form no words.

use serde::Serialize;
use sha2::{Digest, Sha256};

/// Characters of generated names: no vowels and nothing that looks like one.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
/// 27^10 is about 2^47: collisions are rare, and counted when they happen.
const LENGTH: usize = 10;

/// A hash of `content`, varied by `collisions` (how often the name was found taken by other content).
pub fn short_hash<T: Serialize>(content: &T, collisions: Option<i32>) -> String {
    // Field order is fixed by the types and maps are sorted, so equal values have equal JSON.
    let mut hasher = Sha256::new();
    hasher.update(serde_json::to_vec(content).unwrap_or_default());
    if let Some(count) = collisions {
        hasher.update(count.to_le_bytes());
    }
    encode(&hasher.finalize())
}

fn encode(digest: &[u8]) -> String {
    digest.iter().take(LENGTH).map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collisions_change_the_name() {
        let names: Vec<String> = [None, Some(0), Some(1)].map(|count| short_hash(&"x", count)).into();
        assert!(names.iter().all(|name| name.len() == LENGTH));
        assert!(names[0] != names[1] && names[1] != names[2]);
        assert_eq!(names[0], short_hash(&"x", None));
    }
}
