//! The order of endpoints behind a virtual address, kept stable over changes.
//!
//! Endpoint number k of a service stands in map number k of the table. Keeping everybody's number while others come
//! and go turns the change of one endpoint among a thousand into two elements instead of a thousand.

use std::net::SocketAddr;

use rustc_hash::FxHashSet;

/// Numbers `wanted` (each once) so that as many as possible keep the number they have in `before`.
pub fn arrange(before: &[SocketAddr], wanted: &[SocketAddr]) -> Vec<SocketAddr> {
    let stays: FxHashSet<_> = wanted.iter().copied().collect();
    let known: FxHashSet<_> = before.iter().copied().collect();
    let mut places: Vec<Option<SocketAddr>> =
        before.iter().map(|at| stays.contains(at).then_some(*at)).collect();
    places.resize(before.len().max(wanted.len()), None);
    let mut newcomers = wanted.iter().copied().filter(|at| !known.contains(at));
    for place in places.iter_mut().take(wanted.len()).filter(|place| place.is_none()) {
        *place = newcomers.next();
    }
    // Survivors beyond the new length move into the places that are still free.
    let mut tail: Vec<_> = places.split_off(wanted.len()).into_iter().flatten().collect();
    for place in places.iter_mut().filter(|place| place.is_none()) {
        *place = tail.pop();
    }
    places.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], port))
    }

    fn check(before: &[u16], wanted: &[u16], expected: &[u16]) {
        let list = |ports: &[u16]| ports.iter().copied().map(at).collect::<Vec<_>>();
        assert_eq!(arrange(&list(before), &list(wanted)), list(expected), "{before:?} -> {wanted:?}");
    }

    #[test]
    fn survivors_keep_their_numbers() {
        check(&[], &[3, 1], &[3, 1]);
        check(&[1, 2, 3], &[1, 3], &[1, 3]);
        check(&[1, 2, 3], &[3, 1, 4], &[1, 4, 3]);
        check(&[1, 2, 3, 4], &[4, 2], &[4, 2]);
        check(&[1, 2], &[], &[]);
    }

    proptest! {
        #[test]
        fn every_endpoint_stands_exactly_once_and_few_move(
            before in prop::collection::btree_set(0u16..30, 0..12),
            wanted in prop::collection::btree_set(0u16..30, 0..12),
        ) {
            let before: Vec<_> = before.into_iter().map(at).collect();
            let wanted: Vec<_> = wanted.into_iter().map(at).collect();
            let mut got = arrange(&before, &wanted);
            let moved = before.iter().zip(&got).filter(|(a, b)| a != b).count();
            let lost = before.iter().filter(|a| !wanted.contains(a)).count();
            prop_assert!(moved <= lost, "only places of the lost change hands");
            got.sort();
            prop_assert_eq!(got, wanted);
        }
    }
}
