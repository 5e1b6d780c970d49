//! The settings of eviction, from flags and the configuration file.

use std::collections::BTreeMap;

use super::file::File;
use super::flags::KubeletArgs;
use super::resolve::{ConfigError, bad, duration};
use crate::kubelet::config::{Config, EVICTION_HARD_DEFAULT};

type Pairs = Vec<(String, String)>;

/// Splits `a<b` or `a=b`; the flag wins over the file.
fn pairs(
    flag: &'static str,
    given: &[String],
    separator: char,
    file: Option<&BTreeMap<String, String>>,
) -> Result<Option<Pairs>, ConfigError> {
    if given.is_empty() {
        return Ok(file.map(|map| map.clone().into_iter().collect()));
    }
    let parse = |text: &String| {
        let pair = text.split_once(separator).map(|(s, v)| (s.to_owned(), v.to_owned()));
        pair.ok_or_else(|| bad(flag, format!("{text} is not signal{separator}value")))
    };
    given.iter().filter(|t| !t.is_empty()).map(parse).collect::<Result<_, _>>().map(Some)
}

/// Fills in everything about eviction.
pub fn apply(config: &mut Config, args: &KubeletArgs, file: &File) -> Result<(), ConfigError> {
    let defaults = || EVICTION_HARD_DEFAULT.iter().map(|(s, v)| ((*s).into(), (*v).into())).collect();
    let hard = pairs("eviction-hard", &args.eviction_hard, '<', file.eviction_hard.as_ref())?;
    config.eviction_hard = hard.unwrap_or_else(defaults);
    let soft = pairs("eviction-soft", &args.eviction_soft, '<', file.eviction_soft.as_ref())?;
    let graces = pairs(
        "eviction-soft-grace-period",
        &args.eviction_soft_grace_period,
        '=',
        file.eviction_soft_grace_period.as_ref(),
    )?
    .unwrap_or_default();
    for (signal, value) in soft.unwrap_or_default() {
        let grace = graces.iter().find(|(s, _)| *s == signal);
        let (_, grace) = grace
            .ok_or_else(|| bad("eviction-soft", format!("{signal} has no --eviction-soft-grace-period")))?;
        let grace = duration("eviction-soft-grace-period", grace)?;
        config.eviction_soft.push((signal, value, grace));
    }
    let reclaim = pairs(
        "eviction-minimum-reclaim",
        &args.eviction_minimum_reclaim,
        '=',
        file.eviction_minimum_reclaim.as_ref(),
    )?;
    config.eviction_minimum_reclaim = reclaim.unwrap_or_default();
    let longest = args.eviction_max_pod_grace_period.or(file.eviction_max_pod_grace_period);
    config.eviction_max_pod_grace_secs = longest.unwrap_or(0).max(0);
    let transition = args.eviction_pressure_transition_period.as_ref();
    if let Some(text) = transition.or(file.eviction_pressure_transition_period.as_ref()) {
        config.eviction_pressure_transition = duration("eviction-pressure-transition-period", text)?;
    }
    Ok(())
}
