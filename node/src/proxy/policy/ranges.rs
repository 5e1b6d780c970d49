//! Address ranges of `ipBlock`: a range minus its exceptions, as ranges that do not overlap.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::network::view::{Family, IpBlock};

/// First and last address, both included.
type Range = (u128, u128);

/// All addresses of the blocks in one family, as nft writes elements of an interval set.
pub fn elements<'a>(blocks: impl IntoIterator<Item = &'a IpBlock>, family: Family) -> Vec<String> {
    let mut all: Vec<Range> = Vec::new();
    for block in blocks.into_iter().filter(|block| Family::of(block.cidr.addr()) == family) {
        let holes = block.except.iter().filter(|net| Family::of(net.addr()) == family).map(range).collect();
        all.extend(subtract(range(&block.cidr), holes));
    }
    merge(all).into_iter().map(|range| spell(range, family)).collect()
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u32::from(ip).into(),
        IpAddr::V6(ip) => ip.into(),
    }
}

fn range(net: &IpNet) -> Range {
    (number(net.network()), number(net.broadcast()))
}

fn subtract(whole: Range, mut holes: Vec<Range>) -> Vec<Range> {
    holes.sort_unstable();
    let mut left = Vec::new();
    let mut next = Some(whole.0);
    for (from, to) in holes {
        let Some(start) = next else { break };
        if to < start || from > whole.1 {
            continue;
        }
        if from > start {
            left.push((start, from - 1));
        }
        next = to.checked_add(1).filter(|next| *next <= whole.1);
    }
    left.extend(next.map(|start| (start, whole.1)));
    left
}

fn merge(mut ranges: Vec<Range>) -> Vec<Range> {
    ranges.sort_unstable();
    let mut merged: Vec<Range> = Vec::new();
    for (from, to) in ranges {
        match merged.last_mut() {
            Some(last) if from <= last.1.saturating_add(1) => last.1 = last.1.max(to),
            _ => merged.push((from, to)),
        }
    }
    merged
}

fn spell((from, to): Range, family: Family) -> String {
    let ip = |number: u128| match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX))),
        Family::V6 => IpAddr::V6(Ipv6Addr::from(number)),
    };
    if from == to { ip(from).to_string() } else { format!("{}-{}", ip(from), ip(to)) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn block(cidr: &str, except: &[&str]) -> IpBlock {
        let net = |text: &str| text.parse().expect("a range");
        IpBlock { cidr: net(cidr), except: except.iter().map(|text| net(text)).collect() }
    }

    fn check(blocks: &[IpBlock], family: Family, expected: &[&str]) {
        assert_eq!(elements(blocks, family), expected, "{blocks:?}");
    }

    #[test]
    fn exceptions_cut_holes_and_overlaps_merge() {
        let v4 = Family::V4;
        check(&[block("10.0.0.0/8", &[])], v4, &["10.0.0.0-10.255.255.255"]);
        check(
            &[block("10.0.0.0/24", &["10.0.0.0/26", "10.0.0.128/32"])],
            v4,
            &["10.0.0.64-10.0.0.127", "10.0.0.129-10.0.0.255"],
        );
        check(&[block("10.0.0.0/24", &["10.0.0.0/23"])], v4, &[]);
        check(&[block("0.0.0.0/0", &["255.255.255.255/32"])], v4, &["0.0.0.0-255.255.255.254"]);
        check(&[block("10.0.0.0/25", &[]), block("10.0.0.128/25", &[])], v4, &["10.0.0.0-10.0.0.255"]);
        check(&[block("10.0.0.1/32", &[]), block("fd00::/128", &[])], Family::V6, &["fd00::"]);
    }

    proptest! {
        #[test]
        fn membership_is_what_the_blocks_say(
            blocks in prop::collection::vec((any::<u8>(), 24u8..=32, prop::collection::vec((any::<u8>(), 24u8..=32), 0..3)), 0..4)
        ) {
            let net = |octet: u8, len: u8| -> IpNet { format!("10.0.0.{octet}/{len}").parse().expect("a range") };
            let blocks: Vec<IpBlock> = blocks
                .into_iter()
                .map(|(octet, len, holes)| IpBlock {
                    cidr: net(octet, len),
                    except: holes.into_iter().map(|(octet, len)| net(octet, len)).collect(),
                })
                .collect();
            let ranges = elements(&blocks, Family::V4);
            for octet in 0..=255u8 {
                let ip = IpAddr::from([10, 0, 0, octet]);
                let slow = blocks
                    .iter()
                    .any(|block| block.cidr.contains(&ip) && !block.except.iter().any(|hole| hole.contains(&ip)));
                let fast = ranges.iter().any(|range| {
                    let (from, to) = range.split_once('-').unwrap_or((range, range));
                    let bound = |text: &str| text.parse::<IpAddr>().expect("an address");
                    bound(from) <= ip && ip <= bound(to)
                });
                prop_assert_eq!(fast, slow, "{}", ip);
            }
        }
    }
}
