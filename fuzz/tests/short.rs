//! Every target on its examples and on changed copies of them: short, and the same every time.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fuzz::mutate::{Random, mutate};
use fuzz::{TARGETS, Target};

/// Changed copies a target gets, spread over its examples.
const MUTANTS: usize = 3000;
/// One input that takes longer than this on an unoptimised build and a busy machine is a way to stall a server.
const INPUT_MAX: Duration = Duration::from_secs(20);

#[test]
fn no_decoder_panics() {
    let (next, failures) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(target) = TARGETS.get(next.fetch_add(1, Ordering::Relaxed)) {
                    failures.fetch_add(usize::from(!runs(target)), Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(failures.into_inner(), 0, "see the inputs above");
}

/// Runs one target; tells the first input that breaks it.
fn runs(target: &Target) -> bool {
    let (mut random, examples) = (Random::new(0x5eed), (target.examples)());
    assert!(!examples.is_empty(), "{} has no examples", target.name);
    let copies = MUTANTS.div_ceil(examples.len());
    examples.iter().all(|example| {
        runs_on(target, example) && (0..copies).all(|_| runs_on(target, &mutate(example, &mut random)))
    })
}

fn runs_on(target: &Target, input: &[u8]) -> bool {
    let begin = Instant::now();
    let held = catch_unwind(AssertUnwindSafe(|| (target.run)(input))).is_ok() && begin.elapsed() < INPUT_MAX;
    if !held {
        eprintln!("{} on b\"{}\"", target.name, input.escape_ascii());
    }
    held
}

#[test]
fn names_are_unique() {
    for target in TARGETS {
        assert_eq!(TARGETS.iter().filter(|other| other.name == target.name).count(), 1, "{}", target.name);
        assert!(fuzz::target(target.name).is_some());
    }
}
