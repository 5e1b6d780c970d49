//! Pod traffic that leaves the cluster gets the node's address. Pure.
//!
//! The table is small and changes only when nodes come and go, so it is replaced as a whole.

use ipnet::IpNet;

/// Family and name of the table.
pub const TABLE: &str = "inet quarterdeck-network";

/// Removes the table, whether it is there or not.
pub fn removal() -> String {
    format!("add table {TABLE}\ndelete table {TABLE}\n")
}

/// The whole table: from `own` pod ranges to anywhere but `cluster` ranges.
pub fn script(own: &[IpNet], cluster: &[IpNet]) -> String {
    let inside = IpNet::aggregate(&own.iter().chain(cluster).map(IpNet::trunc).collect::<Vec<_>>());
    let mut rules = String::new();
    for (ip, is_v4, multicast) in [("ip", true, "224.0.0.0/4"), ("ip6", false, "ff00::/8")] {
        let list = |nets: &[IpNet]| {
            let mut nets: Vec<String> = nets
                .iter()
                .filter(|net| net.addr().is_ipv4() == is_v4)
                .map(|net| net.trunc().to_string())
                .collect();
            nets.sort();
            nets
        };
        let (own, mut inside) = (list(own), list(&inside));
        if own.is_empty() {
            continue;
        }
        inside.push(multicast.to_owned());
        rules.push_str(&format!(
            "add rule {TABLE} postrouting {ip} saddr {{ {} }} {ip} daddr != {{ {} }} masquerade fully-random\n",
            own.join(", "),
            inside.join(", ")
        ));
    }
    format!(
        "{}add table {TABLE}\n\
        add chain {TABLE} postrouting {{ type nat hook postrouting priority 100; }}\n{rules}",
        removal()
    )
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn ranges_are_merged_and_families_kept_apart() {
        let nets =
            |list: &[&str]| list.iter().map(|net| net.parse().expect("a range")).collect::<Vec<IpNet>>();
        let script = script(
            &nets(&["10.1.0.0/24", "fd00::/64"]),
            &nets(&["10.1.1.0/24", "10.1.0.0/24", "fd00:0:0:1::/64"]),
        );
        expect![[r#"
            add table inet quarterdeck-network
            delete table inet quarterdeck-network
            add table inet quarterdeck-network
            add chain inet quarterdeck-network postrouting { type nat hook postrouting priority 100; }
            add rule inet quarterdeck-network postrouting ip saddr { 10.1.0.0/24 } ip daddr != { 10.1.0.0/23, 224.0.0.0/4 } masquerade fully-random
            add rule inet quarterdeck-network postrouting ip6 saddr { fd00::/64 } ip6 daddr != { fd00::/63, ff00::/8 } masquerade fully-random
        "#]]
        .assert_eq(&script);
    }
}
