//! Changes to text for `nft -f -`.
//!
//! The order inside one transaction: declare sets and chains, take elements out, rewrite chains, put elements in, take
//! sets out. A chain that is no longer wanted is only emptied here: kernels before 6.2 still count it as used for a
//! moment after the last element that names it left, so [`delete_chains`] removes it in a later transaction.

use std::fmt::Write;

use super::{Body, Chain, Changes, Set, Slot};

/// Elements a statement: keeps single lines at tens of kilobytes for readers of a failed script.
const ELEMENTS_A_STATEMENT: usize = 1_000;

/// The script that writes `changes` into `table` (family and name, such as `inet quarterdeck`).
pub fn render(table: &str, changes: &Changes) -> String {
    let mut out = String::with_capacity(64 * (changes.put.len() + changes.gone.len()) + 256);
    if changes.replace_table {
        // Deleting needs a table; adding one first makes the pair work whether it was there or not.
        line(&mut out, format_args!("add table {table}\ndelete table {table}\nadd table {table}"));
    }
    for (slot, body) in &changes.put {
        match (slot, body) {
            (Slot::Set(name), Body::Set(set)) => declare_set(&mut out, table, name, set),
            (Slot::Chain(name), Body::Chain(chain)) => declare_chain(&mut out, table, name, chain),
            _ => {}
        }
    }
    elements(&mut out, "delete", table, changes.gone.iter().filter(|(slot, _)| is_element(slot)));
    for slot in changes.gone.keys() {
        if let Slot::Chain(name) = slot {
            line(&mut out, format_args!("flush chain {table} {name}"));
        }
    }
    for (slot, body) in &changes.put {
        if let (Slot::Chain(name), Body::Chain(chain)) = (slot, body) {
            write_rules(&mut out, table, name, chain, changes.replace_table);
        }
    }
    elements(&mut out, "add", table, changes.put.iter().filter(|(slot, _)| is_element(slot)));
    for (slot, body) in &changes.gone {
        if let (Slot::Set(name), Body::Set(set)) = (slot, body) {
            line(&mut out, format_args!("delete {} {table} {name}", set.kind));
        }
    }
    out
}

/// The script that removes chains that nothing refers to any more.
pub fn delete_chains<'a>(table: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    let mut out = String::new();
    for name in names {
        line(&mut out, format_args!("delete chain {table} {name}"));
    }
    out
}

fn is_element(slot: &Slot) -> bool {
    matches!(slot, Slot::Element(..))
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(out, "{text}").expect("writing to a String cannot fail");
}

fn declare_set(out: &mut String, table: &str, name: &str, set: &Set) {
    line(out, format_args!("add {} {table} {name} {{ {} }}", set.kind, set.spec));
}

fn declare_chain(out: &mut String, table: &str, name: &str, chain: &Chain) {
    match chain.hook {
        None => line(out, format_args!("add chain {table} {name}")),
        Some(at) => line(
            out,
            format_args!(
                "add chain {table} {name} {{ type {} hook {} priority {}; }}",
                at.kind, at.hook, at.priority
            ),
        ),
    }
}

fn write_rules(out: &mut String, table: &str, name: &str, chain: &Chain, fresh: bool) {
    if !fresh {
        line(out, format_args!("flush chain {table} {name}"));
    }
    for rule in &chain.rules {
        line(out, format_args!("add rule {table} {name} {rule}"));
    }
}

fn elements<'a>(out: &mut String, verb: &str, table: &str, all: impl Iterator<Item = (&'a Slot, &'a Body)>) {
    let mut open: Option<(&str, usize)> = None;
    for (slot, body) in all {
        let (Slot::Element(set, key), Body::Element(value)) = (slot, body) else { continue };
        match open {
            Some((current, count)) if current == &**set && count < ELEMENTS_A_STATEMENT => {
                out.push_str(", ");
                open = Some((current, count + 1));
            }
            _ => {
                if open.is_some() {
                    out.push_str(" }\n");
                }
                write!(out, "{verb} element {table} {set} {{ ").expect("writing to a String cannot fail");
                open = Some((set, 1));
            }
        }
        out.push_str(key);
        if verb == "add" && !value.is_empty() {
            out.push_str(" : ");
            out.push_str(value);
        }
    }
    if open.is_some() {
        out.push_str(" }\n");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use expect_test::expect;

    use super::{
        super::{Fragment, Hook, Ledger},
        *,
    };

    #[test]
    fn a_table_is_written_once_and_then_by_difference() {
        let (map, chain, base): (Arc<str>, Arc<str>, Arc<str>) = ("ips".into(), "svc".into(), "pre".into());
        let mut ledger = Ledger::default();
        let mut fragment = Fragment::default();
        fragment.map(&map, "type ipv4_addr : verdict;");
        fragment.chain(&chain, None, vec!["drop".into()]);
        fragment.chain(
            &base,
            Some(Hook { kind: "nat", hook: "prerouting", priority: -100 }),
            vec!["ip daddr vmap @ips".into()],
        );
        fragment.entry(&map, "10.0.0.1", "goto svc");
        ledger.set(0, fragment.clone());
        let first = render("inet t", &ledger.take_all());
        expect![[r#"
            add table inet t
            delete table inet t
            add table inet t
            add map inet t ips { type ipv4_addr : verdict; }
            add chain inet t pre { type nat hook prerouting priority -100; }
            add chain inet t svc
            add rule inet t pre ip daddr vmap @ips
            add rule inet t svc drop
            add element inet t ips { 10.0.0.1 : goto svc }
        "#]]
        .assert_eq(&first);

        let mut second = Fragment::default();
        second.map(&map, "type ipv4_addr : verdict;");
        second.chain(
            &base,
            Some(Hook { kind: "nat", hook: "prerouting", priority: -100 }),
            vec!["ip daddr vmap @ips".into()],
        );
        second.entry(&map, "10.0.0.1", "drop");
        second.entry(&map, "10.0.0.2", "accept");
        ledger.set(0, second);
        expect![[r#"
            delete element inet t ips { 10.0.0.1 }
            flush chain inet t svc
            add element inet t ips { 10.0.0.1 : drop, 10.0.0.2 : accept }
        "#]]
        .assert_eq(&render("inet t", &ledger.take_changes()));
    }
}
