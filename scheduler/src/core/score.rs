//! The score plugins that look at one node at a time: resource fit, balance and image locality.
//!
//! Owns their formulas; the arithmetic (integer divisions, order of float operations) is upstream's, because
//! scores must come out equal.

use std::sync::Arc;

use super::nodes::Nodes;
use super::profile::{FitStrategy, Plugin, PluginArgs, Profile, WeightedResource};
use super::spec::LocalSpec;

/// The best score a plugin gives.
pub const MAX_SCORE: i64 = 100;

/// A resource of the scoring arguments, resolved.
#[derive(Clone, Debug)]
enum Source {
    Cpu,
    Memory,
    Ephemeral,
    Scalar(u16),
}

#[derive(Clone, Debug)]
struct Scored {
    source: Source,
    weight: i64,
    /// What the pod adds.
    request: i64,
}

/// The node-local score of a template.
#[derive(Clone, Debug)]
pub struct LocalScorer {
    fit: Vec<Scored>,
    fit_weight: i64,
    strategy: FitStrategy,
    balanced: Vec<Scored>,
    balanced_weight: i64,
    image_weight: i64,
    images: Vec<Arc<str>>,
    container_count: u32,
}

impl LocalScorer {
    /// Resolves the arguments of a profile for pods with this local part.
    pub fn new(local: &LocalSpec, profile: &Profile, nodes: &mut Nodes) -> Self {
        let PluginArgs { fit_resources, balanced_resources, fit_strategy, .. } = &profile.args;
        let fit = resolve(fit_resources, nodes, |name| match name {
            "cpu" => local.score_milli_cpu,
            "memory" => local.score_memory,
            other => local.requests.get(other),
        });
        let balanced = resolve(balanced_resources, nodes, |name| local.requests.get(name));
        let best_effort = balanced.iter().all(|r| r.request == 0);
        LocalScorer {
            fit,
            fit_weight: profile.weight(Plugin::NodeResourcesFit),
            strategy: fit_strategy.clone(),
            balanced,
            balanced_weight: if best_effort {
                0
            } else {
                profile.weight(Plugin::NodeResourcesBalancedAllocation)
            },
            image_weight: profile.weight(Plugin::ImageLocality),
            images: local.images.clone(),
            container_count: local.container_count,
        }
    }

    /// Weighted scores of NodeResourcesFit and NodeResourcesBalancedAllocation.
    pub fn resources(&self, nodes: &Nodes, node: u32) -> i64 {
        self.fit_weight * self.fit_score(nodes, node)
            + self.balanced_weight * self.balanced_score(nodes, node)
    }

    /// The weighted score of ImageLocality.
    pub fn images(&self, nodes: &Nodes, node: u32) -> i64 {
        self.image_weight * self.image_score(nodes, node)
    }

    /// Whether any image of the pod is on any node, which is when image scores differ.
    pub fn images_matter(&self, nodes: &Nodes) -> bool {
        self.image_weight != 0 && self.images.iter().any(|name| nodes.image(name).is_some())
    }

    /// Score of NodeResourcesFit before its weight.
    pub fn fit_score(&self, nodes: &Nodes, node: u32) -> i64 {
        let row = &nodes.rows[node as usize];
        let amounts = |r: &Scored| match r.source {
            Source::Cpu => (row.cpu, row.nonzero_cpu),
            Source::Memory => (row.memory, row.nonzero_memory),
            Source::Ephemeral => (row.ephemeral, row.used_ephemeral),
            Source::Scalar(id) => scalar(nodes, node, id, r.request),
        };
        let mut sum = 0;
        let mut weights = 0;
        for resource in &self.fit {
            let (capacity, used) = amounts(resource);
            if capacity == 0 {
                continue;
            }
            let score = self.fit_part(used + resource.request, capacity);
            let skips_zero = matches!(self.strategy, FitStrategy::RequestedToCapacityRatio(_));
            if score > 0 || !skips_zero {
                sum += score * resource.weight;
                weights += resource.weight;
            }
        }
        match &self.strategy {
            _ if weights == 0 => 0,
            FitStrategy::RequestedToCapacityRatio(_) => (sum as f64 / weights as f64).round() as i64,
            _ => sum / weights,
        }
    }

    fn fit_part(&self, requested: i64, capacity: i64) -> i64 {
        match &self.strategy {
            FitStrategy::LeastAllocated if requested > capacity => 0,
            FitStrategy::LeastAllocated => (capacity - requested) * MAX_SCORE / capacity,
            FitStrategy::MostAllocated => requested.min(capacity) * MAX_SCORE / capacity,
            FitStrategy::RequestedToCapacityRatio(shape) if requested > capacity => broken_line(shape, 100),
            FitStrategy::RequestedToCapacityRatio(shape) => broken_line(shape, requested * 100 / capacity),
        }
    }

    /// Score of NodeResourcesBalancedAllocation before its weight.
    pub fn balanced_score(&self, nodes: &Nodes, node: u32) -> i64 {
        if self.balanced_weight == 0 {
            return 0;
        }
        let row = &nodes.rows[node as usize];
        let mut with = Fractions::default();
        let mut without = Fractions::default();
        for resource in &self.balanced {
            let (capacity, used) = match resource.source {
                Source::Cpu => (row.cpu, row.used_cpu),
                Source::Memory => (row.memory, row.used_memory),
                Source::Ephemeral => (row.ephemeral, row.used_ephemeral),
                Source::Scalar(id) => scalar(nodes, node, id, resource.request),
            };
            if capacity != 0 {
                with.push(used + resource.request, capacity);
                without.push(used, capacity);
            }
        }
        MAX_SCORE / 2 + (MAX_SCORE / 2 + with.score() - without.score()) / 2
    }

    /// Score of ImageLocality before its weight.
    pub fn image_score(&self, nodes: &Nodes, node: u32) -> i64 {
        const MIB: i64 = 1024 * 1024;
        const MIN: i64 = 23 * MIB;
        let max = 1000 * MIB * i64::from(self.container_count);
        let total = nodes.count();
        let sum: i64 = self
            .images
            .iter()
            .filter(|name| nodes.has_image(node, name))
            .filter_map(|name| nodes.image(name))
            .map(|state| (state.size_bytes as f64 * (f64::from(state.nodes) / total as f64)) as i64)
            .sum();
        let bounded = if sum < MIN { MIN } else { sum.min(max) };
        if max == MIN { 0 } else { MAX_SCORE * (bounded - MIN) / (max - MIN) }
    }
}

/// A scalar resource counts only where the pod asks for it.
fn scalar(nodes: &Nodes, node: u32, id: u16, request: i64) -> (i64, i64) {
    if request == 0 {
        return (0, 0);
    }
    let scalar = nodes.scalar(node, id);
    (scalar.allocatable, scalar.used)
}

fn resolve(resources: &[WeightedResource], nodes: &mut Nodes, request: impl Fn(&str) -> i64) -> Vec<Scored> {
    let source = |name: &Arc<str>, nodes: &mut Nodes| match &**name {
        "cpu" => Source::Cpu,
        "memory" => Source::Memory,
        "ephemeral-storage" => Source::Ephemeral,
        _ => Source::Scalar(nodes.scalar_id(name)),
    };
    resources
        .iter()
        .map(|r| Scored { source: source(&r.name, nodes), weight: r.weight, request: request(&r.name) })
        .collect()
}

/// Straight lines between the points of a shape, constant outside.
pub fn broken_line(shape: &[(i64, i64)], at: i64) -> i64 {
    for (i, &(x, y)) in shape.iter().enumerate() {
        if at <= x {
            let Some(&(x0, y0)) = i.checked_sub(1).and_then(|p| shape.get(p)) else { return y };
            return y0 + (y - y0) * (at - x0) / (x - x0);
        }
    }
    shape.last().map_or(0, |(_, y)| *y)
}

/// Shares of used capacity; two of them almost always.
#[derive(Default)]
struct Fractions(smallvec::SmallVec<[f64; 4]>);

impl Fractions {
    fn push(&mut self, used: i64, capacity: i64) {
        let fraction = used as f64 / capacity as f64;
        self.0.push(if fraction > 1.0 { 1.0 } else { fraction });
    }

    /// One hundred times one minus the standard deviation.
    fn score(&self) -> i64 {
        let deviation = match *self.0 {
            [] | [_] => 0.0,
            [a, b] => ((a - b) / 2.0).abs(),
            ref all => {
                let mean = all.iter().fold(0.0, |sum, f| sum + f) / all.len() as f64;
                let sum = all.iter().fold(0.0, |sum, f| sum + (f - mean) * (f - mean));
                (sum / all.len() as f64).sqrt()
            }
        };
        ((1.0 - deviation) * MAX_SCORE as f64) as i64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_lines_interpolate_and_stay_constant_outside() {
        let shape = [(10, 0), (50, 100), (90, 20)];
        for (at, expected) in [(0, 0), (10, 0), (30, 50), (50, 100), (70, 60), (90, 20), (100, 20)] {
            assert_eq!(broken_line(&shape, at), expected, "at {at}");
        }
    }

    #[test]
    fn balance_is_the_spread_of_the_used_shares() {
        let score = |parts: &[(i64, i64)]| {
            let mut fractions = Fractions::default();
            parts.iter().for_each(|(u, c)| fractions.push(*u, *c));
            fractions.score()
        };
        assert_eq!(score(&[(5, 10), (5, 10)]), 100);
        assert_eq!(score(&[(10, 10), (0, 10)]), 50);
        assert_eq!(score(&[(20, 10), (10, 10)]), 100, "shares above one count as one");
        assert_eq!(score(&[(6, 10), (0, 10), (3, 10)]), 75);
    }
}
