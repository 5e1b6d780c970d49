//! Carries remembered clients of session affinity over a rewrite of the table.

use std::fmt::Write;

use serde::Deserialize;

use crate::network::nft::{Changes, Slot};

#[derive(Deserialize)]
struct Listing {
    nftables: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    set: Option<ListedSet>,
}

#[derive(Deserialize)]
struct ListedSet {
    name: String,
    #[serde(default)]
    elem: Vec<ListedElement>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ListedElement {
    Timed { elem: Timed },
    Untimed(serde::de::IgnoredAny),
}

#[derive(Deserialize)]
struct Timed {
    val: serde_json::Value,
    timeout: Option<u64>,
    expires: Option<u64>,
}

/// The statements that put the clients of `listing` (nft's JSON) back into those sets that `changes` creates again.
/// What cannot be read is left out: a client then gets a new endpoint.
pub fn restore_clients(table: &str, listing: &str, changes: &Changes) -> String {
    let mut out = String::new();
    let Ok(listing) = serde_json::from_str::<Listing>(listing) else { return out };
    for set in listing.nftables.into_iter().filter_map(|entry| entry.set) {
        let stays = set.name.starts_with("clients-")
            && changes.put.contains_key(&Slot::Set(set.name.as_str().into()));
        if !stays {
            continue;
        }
        for element in set.elem {
            let timed = match element {
                ListedElement::Timed { elem } => elem,
                ListedElement::Untimed(_) => continue,
            };
            let (Some(client), Some(expires)) = (timed.val.as_str(), timed.expires.filter(|left| *left > 0))
            else {
                continue;
            };
            let timeout = timed.timeout.map(|secs| format!(" timeout {secs}s")).unwrap_or_default();
            writeln!(out, "add element {table} {} {{ {client}{timeout} expires {expires}s }}", set.name)
                .expect("writing to a String cannot fail");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::nft::{Fragment, Ledger};

    #[test]
    fn only_clients_of_sets_that_come_back_are_kept() {
        let mut fragment = Fragment::default();
        fragment.set(&"clients-9s-a".into(), "type ipv4_addr;");
        let mut ledger = Ledger::default();
        ledger.set(0, fragment);
        let listing = r#"{"nftables": [{"metainfo": {}},
            {"set": {"name": "clients-9s-a", "elem": [{"elem": {"val": "10.0.0.1", "timeout": 9, "expires": 5}},
                "10.0.0.3", {"elem": {"val": "10.0.0.2"}}]}},
            {"set": {"name": "clients-9s-b", "elem": [{"elem": {"val": "10.0.0.1", "expires": 5}}]}},
            {"set": {"name": "hairpin4"}}]}"#;
        let got = restore_clients("inet t", listing, &ledger.take_all());
        assert_eq!(got, "add element inet t clients-9s-a { 10.0.0.1 timeout 9s expires 5s }\n");
        assert_eq!(restore_clients("inet t", "junk", &ledger.take_all()), "");
    }
}
