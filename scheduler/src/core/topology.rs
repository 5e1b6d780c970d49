//! Topology columns: for each topology key in use, the domain of every node as a small integer.
//!
//! Owns the numbering of label values. Invariant: `sizes[d]` is the number of nodes in domain `d`, and a domain
//! without nodes gives its number back. It counts nodes only; pods per domain are the templates' business.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::labels::Labels;

/// The domain of a node that lacks the label.
pub const NO_DOMAIN: u32 = u32::MAX;

/// One topology key.
#[derive(Debug)]
pub struct KeyColumn {
    pub key: Arc<str>,
    domain_of_node: Vec<u32>,
    numbers: FxHashMap<Box<str>, u32>,
    sizes: Vec<u32>,
    names: Vec<Box<str>>,
    free: Vec<u32>,
    /// Domains with two nodes or more.
    shared: usize,
}

impl KeyColumn {
    fn new(key: Arc<str>) -> Self {
        KeyColumn {
            key,
            domain_of_node: Vec::new(),
            numbers: FxHashMap::default(),
            sizes: Vec::new(),
            names: Vec::new(),
            free: Vec::new(),
            shared: 0,
        }
    }

    /// The domain of a node, or [`NO_DOMAIN`].
    pub fn domain(&self, node: u32) -> u32 {
        self.domain_of_node.get(node as usize).copied().unwrap_or(NO_DOMAIN)
    }

    /// Whether every domain holds one node at most: counts per domain are counts per node then.
    pub fn is_node_unique(&self) -> bool {
        self.shared == 0
    }

    /// Upper bound of domain numbers, for sizing arrays.
    pub fn domain_limit(&self) -> usize {
        self.sizes.len()
    }

    fn assign(&mut self, node: u32, value: Option<&str>) {
        if self.domain_of_node.len() <= node as usize {
            self.domain_of_node.resize(node as usize + 1, NO_DOMAIN);
        }
        let old = self.domain_of_node[node as usize];
        if old != NO_DOMAIN {
            if value.is_some_and(|v| *self.names[old as usize] == *v) {
                return;
            }
            self.leave(old);
        }
        self.domain_of_node[node as usize] = value.map_or(NO_DOMAIN, |v| self.enter(v));
    }

    fn enter(&mut self, value: &str) -> u32 {
        let domain = match self.numbers.get(value) {
            Some(d) => *d,
            None => self.new_domain(value),
        };
        let size = &mut self.sizes[domain as usize];
        *size += 1;
        if *size == 2 {
            self.shared += 1;
        }
        domain
    }

    fn new_domain(&mut self, value: &str) -> u32 {
        let domain = self.free.pop().unwrap_or(self.sizes.len() as u32);
        if domain as usize == self.sizes.len() {
            self.sizes.push(0);
            self.names.push(value.into());
        } else {
            self.names[domain as usize] = value.into();
        }
        self.numbers.insert(value.into(), domain);
        domain
    }

    fn leave(&mut self, domain: u32) {
        let size = &mut self.sizes[domain as usize];
        *size -= 1;
        match *size {
            1 => self.shared -= 1,
            0 => {
                self.numbers.remove(&self.names[domain as usize]);
                self.free.push(domain);
            }
            _ => {}
        }
    }
}

/// All topology keys that any template has asked for.
#[derive(Debug, Default)]
pub struct Topology {
    columns: Vec<KeyColumn>,
    index: FxHashMap<Arc<str>, usize>,
}

impl Topology {
    /// The column of a key. A new key is filled from `nodes` (slot and labels of every node).
    pub fn key<'a>(&mut self, key: &Arc<str>, nodes: impl Iterator<Item = (u32, &'a Labels)>) -> usize {
        if let Some(at) = self.index.get(key) {
            return *at;
        }
        let mut column = KeyColumn::new(key.clone());
        for (node, labels) in nodes {
            column.assign(node, labels.get(key));
        }
        self.columns.push(column);
        self.index.insert(key.clone(), self.columns.len() - 1);
        self.columns.len() - 1
    }

    /// The column by the number [`Topology::key`] gave.
    pub fn column(&self, key: usize) -> &KeyColumn {
        &self.columns[key]
    }

    /// Takes over the labels of a node; `None` when it is gone.
    pub fn set_node(&mut self, node: u32, labels: Option<&Labels>) {
        for column in &mut self.columns {
            column.assign(node, labels.and_then(|l| l.get(&column.key)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(value: &str) -> Labels {
        [("zone", value)].into_iter().collect()
    }

    #[test]
    fn domains_are_numbered_counted_and_reused() {
        let mut topology = Topology::default();
        let all = [zone("a"), zone("b"), Labels::default()];
        let key = topology.key(&"zone".into(), all.iter().enumerate().map(|(i, l)| (i as u32, l)));
        let domains: Vec<u32> = (0..4).map(|n| topology.column(key).domain(n)).collect();
        assert_eq!(domains, [0, 1, NO_DOMAIN, NO_DOMAIN]);
        assert!(topology.column(key).is_node_unique());

        topology.set_node(2, Some(&zone("a")));
        assert!(!topology.column(key).is_node_unique());
        topology.set_node(2, Some(&zone("c")));
        assert!(topology.column(key).is_node_unique());
        topology.set_node(1, None);
        topology.set_node(3, Some(&zone("d")));
        assert_eq!(topology.column(key).domain(3), 1, "the number of b is used again");
        assert_eq!(topology.column(key).domain_limit(), 3);
    }
}
