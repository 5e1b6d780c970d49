//! Cuts between members: who is deaf to whom, as a pure set of links, and the shell that applies it.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use crate::cluster::{Cluster, Result};

/// (from, to): packets from the first member do not reach the second.
pub type Cuts = BTreeSet<(usize, usize)>;

const FLAP: Duration = Duration::from_millis(250);
/// Of a hundred packets.
const LOSS_PERCENT: u32 = 20;

/// One member and the others do not hear each other.
pub fn isolate(members: usize, lonely: usize) -> Cuts {
    (0..members)
        .filter(|&other| other != lonely)
        .flat_map(|other| [(lonely, other), (other, lonely)])
        .collect()
}

/// The member hears nobody; the others hear it.
pub fn deafen(members: usize, deaf: usize) -> Cuts {
    (0..members).filter(|&other| other != deaf).map(|other| (other, deaf)).collect()
}

/// A random minority and the majority do not hear each other.
pub fn split(members: usize, rng: &mut StdRng) -> Cuts {
    let mut order: Vec<usize> = (0..members).collect();
    order.shuffle(rng);
    let (minority, majority) = order.split_at((members - 1) / 2);
    minority.iter().flat_map(|&a| majority.iter().flat_map(move |&b| [(a, b), (b, a)])).collect()
}

/// Every member hears itself and its neighbours on a ring, as many as make a majority; with three members one link is
/// cut, so that the two at its ends disagree on who is there.
pub fn ring(members: usize) -> Cuts {
    if members == 3 {
        return Cuts::from([(0, 2), (2, 0)]);
    }
    let reach = (members / 2).div_ceil(2);
    let hears = |a: usize, b: usize| {
        let apart = a.abs_diff(b);
        apart.min(members - apart) <= reach
    };
    let pairs = (0..members).flat_map(|a| (0..members).map(move |b| (a, b)));
    pairs.filter(|&(a, b)| !hears(a, b)).collect()
}

pub async fn hold(cluster: &Cluster, cuts: &Cuts, lasts: Duration) -> Result<String> {
    cluster.cut(cuts).await?;
    tokio::time::sleep(lasts).await;
    cluster.cut(&Cuts::new()).await?;
    let links: Vec<String> =
        cuts.iter().map(|&(from, to)| format!("{}-x->{}", cluster.name(from), cluster.name(to))).collect();
    Ok(format!("cut {}", links.join(" ")))
}

pub async fn flap(cluster: &Cluster, member: usize, lasts: Duration) -> Result<String> {
    let until = tokio::time::Instant::now() + lasts;
    while tokio::time::Instant::now() < until {
        cluster.cut(&isolate(cluster.len(), member)).await?;
        tokio::time::sleep(FLAP).await;
        cluster.cut(&Cuts::new()).await?;
        tokio::time::sleep(FLAP).await;
    }
    Ok(format!("the links of {} flapped", cluster.name(member)))
}

pub async fn lossy(cluster: &Cluster, lasts: Duration) -> Result<String> {
    cluster.lose(LOSS_PERCENT).await?;
    tokio::time::sleep(lasts).await;
    cluster.lose(0).await?;
    Ok(format!("{LOSS_PERCENT} % of packets lost"))
}

pub async fn slow(cluster: &Cluster, lasts: Duration) -> Result<String> {
    cluster.slow(true).await?;
    tokio::time::sleep(lasts).await;
    cluster.slow(false).await?;
    Ok("slow links".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn cuts_are_what_their_names_say() {
        assert_eq!(isolate(3, 0), Cuts::from([(0, 1), (1, 0), (0, 2), (2, 0)]));
        assert_eq!(deafen(3, 1), Cuts::from([(0, 1), (2, 1)]));
        for members in [3, 5, 7] {
            let cut = split(members, &mut StdRng::seed_from_u64(1));
            assert_eq!(cut.len(), 2 * ((members - 1) / 2) * (members - (members - 1) / 2));
            let ring = ring(members);
            for member in 0..members {
                let heard = (0..members).filter(|&other| !ring.contains(&(other, member))).count();
                assert!(heard > members / 2, "{member} of {members} hears {heard}");
            }
            assert!(!ring.is_empty());
        }
    }
}
