//! After healing, writes succeed at every member within a bound (as etcd's robustness suite waits for its cluster to be
//! healthy again): a store that only ever refuses is safe and of no use.
//!
//! Does not judge how long clients waited during the faults; see `gaps`.

use std::time::Duration;

use super::Verdict;

/// After healing, writes must succeed within this.
pub const BOUND: Duration = Duration::from_secs(10);

/// Judges, for each member, how long after healing its first write succeeded; `None` if none did within [`BOUND`].
pub fn check(first_writes: &[(String, Option<Duration>)]) -> Verdict {
    let is_late = |took: &Option<Duration>| took.is_none_or(|took| took > BOUND);
    let late: Vec<&str> =
        first_writes.iter().filter(|(_, took)| is_late(took)).map(|(name, _)| name.as_str()).collect();
    match late.as_slice() {
        [] => Verdict::Valid,
        late => Verdict::Invalid {
            why: format!("no write through {} in {BOUND:?} after healing", late.join(", ")),
            evidence: first_writes.iter().map(|(name, took)| format!("{name}: {took:?}")).collect(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_that_takes_no_write_in_time_convicts() {
        let quick = ("m0".to_owned(), Some(Duration::from_millis(3)));
        for (took, is_valid) in [
            (Some(Duration::from_secs(1)), true),
            (Some(BOUND), true),
            (Some(BOUND + Duration::from_millis(1)), false),
            (None, false),
        ] {
            let verdict = check(&[quick.clone(), ("m1".to_owned(), took)]);
            assert_eq!(verdict == Verdict::Valid, is_valid, "{took:?}: {verdict}");
            assert!(is_valid || verdict.to_string().contains("through m1 in"), "{verdict}");
        }
    }
}
