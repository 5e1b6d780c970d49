//! All members hold the same bytes once the faults are over: HashKV, which covers every key, value and revision up to
//! one revision, is the same at each (etcd's own check of its members, `etcdctl endpoint hashkv`).
//!
//! Does not say whether the bytes are right: that is the other checkers' part.

use super::Verdict;

/// Judges each member's hash at one revision.
pub fn check(hashes: &[(String, u32)]) -> Verdict {
    if hashes.windows(2).all(|pair| pair[0].1 == pair[1].1) {
        return Verdict::Valid;
    }
    Verdict::Invalid {
        why: "HashKV differs at one revision".to_owned(),
        evidence: hashes.iter().map(|(name, hash)| format!("{name}: {hash:#010x}")).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_member_that_differs_convicts() {
        let hashes = |all: &[u32]| -> Vec<(String, u32)> {
            all.iter().enumerate().map(|(at, hash)| (format!("m{at}"), *hash)).collect()
        };
        assert_eq!(check(&hashes(&[7, 7, 7])), Verdict::Valid);
        for planted in [[8, 7, 7], [7, 8, 7], [7, 7, 8]] {
            let Verdict::Invalid { evidence, .. } = check(&hashes(&planted)) else { panic!("{planted:?}") };
            assert_eq!(evidence.len(), 3);
        }
    }
}
