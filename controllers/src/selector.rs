//! Which labels a selector picks.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use machinery::selector::Labels;

use crate::meta::StringMap;
use crate::runtime::ReconcileError;

/// A compiled selector.
pub struct Selector {
    labels: Labels,
    picks_all: bool,
}

impl Selector {
    /// Compiles a selector; an empty one picks everything.
    pub fn of(selector: &LabelSelector) -> Result<Self, ReconcileError> {
        let json = serde_json::to_value(selector).unwrap_or_default();
        let labels = Labels::from_value(&json).map_err(|why| ReconcileError::invalid("selector", why))?;
        let picks_all = selector.match_labels.as_ref().is_none_or(|map| map.is_empty())
            && selector.match_expressions.as_ref().is_none_or(|list| list.is_empty());
        Ok(Self { labels, picks_all })
    }

    /// A selector that wants exactly these values.
    pub fn of_map(map: &StringMap) -> Result<Self, ReconcileError> {
        Self::of(&LabelSelector { match_labels: Some(map.clone()), match_expressions: None })
    }

    /// Whether it picks an object with these labels.
    pub fn matches(&self, labels: Option<&StringMap>) -> bool {
        self.labels.matches_fn(|key| labels.and_then(|labels| labels.get(key)).map(String::as_str))
    }

    /// Whether it picks everything.
    pub fn picks_all(&self) -> bool {
        self.picks_all
    }
}

/// Whether labels have all the pairs of a non-empty map; an empty map picks nothing (services, for one).
pub fn map_matches(wanted: Option<&StringMap>, labels: Option<&StringMap>) -> bool {
    let Some(wanted) = wanted.filter(|wanted| !wanted.is_empty()) else { return false };
    wanted.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
}
