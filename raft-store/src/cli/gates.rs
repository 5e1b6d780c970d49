//! etcd's feature gates: those that have a flag here stand for it, the others do nothing.

/// Every gate of etcd 3.6 and 3.7, and the flag that does the same here.
const GATES: [(&str, Option<&str>); 11] = [
    ("AllAlpha", None),
    ("AllBeta", None),
    ("CompactHashCheck", Some("compact-hash-check-enabled")),
    ("FastLeaseKeepAlive", None),
    ("InitialCorruptCheck", Some("initial-corrupt-check")),
    ("LeaseCheckpoint", None),
    ("LeaseCheckpointPersist", None),
    ("PriorityRequest", None),
    ("SetMemberLocalAddr", None),
    ("StopGRPCServiceOnDefrag", None),
    ("TxnModeWriteWithSharedBuffer", None),
];

/// Flags and their values that these settings, `name=true` or `name=false` each, stand for.
pub fn flags(settings: &[String]) -> Result<Vec<(&'static str, String)>, String> {
    let is_on = |gate: &str| settings.iter().any(|setting| setting.strip_prefix(gate) == Some("=true"));
    if is_on("LeaseCheckpointPersist") && !is_on("LeaseCheckpoint") && !is_on("AllAlpha") {
        return Err(
            "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint"
                .into(),
        );
    }
    let mut flags = Vec::new();
    for setting in settings {
        let (name, value) = setting.split_once('=').unwrap_or((setting, ""));
        if !matches!(value, "true" | "false") {
            return Err(format!("--feature-gates: {setting:?} is not name=true or name=false"));
        }
        match GATES.iter().find(|(known, _)| *known == name) {
            Some((_, Some(flag))) => flags.push((*flag, value.to_owned())),
            Some((_, None)) => tracing::warn!(name, "this gate of etcd is not needed here and does nothing"),
            None => return Err(format!("--feature-gates: unrecognized feature gate: {name}")),
        }
    }
    Ok(flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_stand_for_flags_do_nothing_or_are_unknown() {
        let check = |setting: &str| flags(&[setting.to_owned()]);
        for (name, flag) in GATES.into_iter().filter(|(name, _)| *name != "LeaseCheckpointPersist") {
            let expected = flag.map(|flag| (flag, "true".to_owned()));
            assert_eq!(check(&format!("{name}=true")), Ok(expected.into_iter().collect()), "{name}");
        }
        let both = ["LeaseCheckpointPersist=true", "LeaseCheckpoint=true"].map(str::to_owned);
        assert_eq!(flags(&both), Ok(Vec::new()));
        for wrong in ["NoSuchGate=true", "AllBeta", "AllBeta=1", "LeaseCheckpointPersist=true"] {
            assert!(check(wrong).is_err(), "{wrong}");
        }
    }
}
