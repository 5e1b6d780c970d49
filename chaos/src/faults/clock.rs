//! Clocks that jump and drift, one member at a time.
//!
//! A jump sets the wall clock, as a wrong time server does; a drift lets the wall clock and the monotonic one run too
//! fast or too slow, as bad hardware does. Timers the kernel keeps still run true.

use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;

use super::not_inflicted;
use crate::cluster::skew::{Offsets, Skew};
use crate::cluster::{Cluster, Result};

const BETWEEN_JUMPS: Duration = Duration::from_millis(700);
/// Seconds, forward or back.
const JUMP_SECS: std::ops::RangeInclusive<i64> = -3_600..=3_600;
const DRIFT_STEP: Duration = Duration::from_millis(10);
/// Nanoseconds of a member's clock, too many or too few, for a nanosecond.
const DRIFT: std::ops::Range<f64> = -0.2..0.25;

pub async fn jump(cluster: &Cluster, member: usize, lasts: Duration, rng: &mut StdRng) -> Result<String> {
    let skew = attach(cluster, member).await?;
    let until = tokio::time::Instant::now() + lasts;
    let mut jumps = 0;
    while tokio::time::Instant::now() < until {
        let wall = i128::from(rng.random_range(JUMP_SECS)) * 1_000_000_000;
        skew.set(Offsets { wall, monotonic: 0 })?;
        jumps += 1;
        tokio::time::sleep(BETWEEN_JUMPS).await;
    }
    skew.set(Offsets::default())?;
    Ok(format!("the wall clock of {} jumped {jumps} times, up to an hour", cluster.name(member)))
}

pub async fn drift(cluster: &Cluster, member: usize, lasts: Duration, rng: &mut StdRng) -> Result<String> {
    let skew = attach(cluster, member).await?;
    let rate: f64 = rng.random_range(DRIFT);
    let began = tokio::time::Instant::now();
    let off = |elapsed: Duration| {
        let nanos = (elapsed.as_nanos() as f64 * rate) as i128;
        Offsets { wall: nanos, monotonic: nanos }
    };
    while began.elapsed() < lasts {
        skew.set(off(began.elapsed()))?;
        tokio::time::sleep(DRIFT_STEP).await;
    }
    // The monotonic clock stays where it got: set back, it would be no monotonic clock.
    let reached = off(began.elapsed());
    skew.set(Offsets { wall: 0, monotonic: reached.monotonic.max(0) })?;
    Ok(format!("the clocks of {} ran {:+.0} % too fast", cluster.name(member), rate * 100.0))
}

async fn attach(cluster: &Cluster, member: usize) -> Result<Skew> {
    cluster.await_answer(member).await?;
    let pid = cluster.pid(member).ok_or_else(|| not_inflicted("the member is down"))?;
    let attached = tokio::task::spawn_blocking(move || Skew::attach(pid)).await;
    attached.map_err(|error| not_inflicted(&error.to_string()))?
}
