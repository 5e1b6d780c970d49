//! The configuration file: `name: value` lines as in etcd's sample.

use std::collections::BTreeMap;

use serde_yaml_ng::Value;

use super::{
    check::is_duration,
    flags::{FLAGS, Role},
};

/// Blocks of the file, and what stands before their settings' names as flags. Names within a block that are no flag's
/// even so are in the second table.
const BLOCKS: [(&str, &str); 4] = [
    ("client-transport-security", ""),
    ("peer-transport-security", "peer-"),
    ("socket-options", "socket-"),
    ("discovery-config", "discovery-"),
];
/// Block, name within it, flag.
const WITHIN_BLOCKS: [(&str, &str, &str); 8] = [
    ("client-transport-security", "allowed-cn", "client-cert-allowed-cn"),
    ("client-transport-security", "allowed-hostname", "client-cert-allowed-hostname"),
    ("client-transport-security", "crl-file", "client-crl-file"),
    ("client-transport-security", "skip-client-san-verification", "peer-skip-client-san-verification"),
    ("peer-transport-security", "allowed-cn", "peer-cert-allowed-cn"),
    ("peer-transport-security", "allowed-hostname", "peer-cert-allowed-hostname"),
    ("peer-transport-security", "skip-client-san-verification", "peer-skip-client-san-verification"),
    ("discovery-config", "discovery", "discovery"),
];
fn flag_of(block: &str, prefix: &str, name: &str) -> String {
    let listed = WITHIN_BLOCKS.iter().find(|(within, known, _)| *within == block && *known == name);
    listed.map_or_else(|| format!("{prefix}{name}"), |(.., flag)| (*flag).to_owned())
}

/// The settings in a file by flag name.
pub fn read(path: &str) -> Result<BTreeMap<String, String>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("--config-file {path}: {error}"))?;
    parse(&text).map_err(|error| format!("--config-file {path}: {error}"))
}

fn parse(text: &str) -> Result<BTreeMap<String, String>, String> {
    let file: BTreeMap<String, Value> = serde_yaml_ng::from_str(text).map_err(|error| error.to_string())?;
    let mut values = BTreeMap::new();
    for (name, value) in &file {
        let block = BLOCKS.iter().find(|(block, _)| block == name);
        match (block, value) {
            (Some((block, prefix)), Value::Mapping(settings)) => {
                for (inner, value) in settings {
                    put(&mut values, flag_of(block, prefix, inner.as_str().unwrap_or_default()), value)?;
                }
            }
            (Some(_), Value::Null) => {}
            _ => put(&mut values, name.clone(), value)?,
        }
    }
    Ok(values)
}

fn put(values: &mut BTreeMap<String, String>, name: String, value: &Value) -> Result<(), String> {
    let known =
        FLAGS.iter().find(|flag| flag.name == name).ok_or_else(|| format!("unknown setting {name:?}"))?;
    let text = match value {
        Value::Null => return Ok(()),
        Value::Bool(value) => value.to_string(),
        // Go writes durations as nanoseconds in files.
        Value::Number(value) if is_duration(&name) => format!("{value}ns"),
        Value::Number(value) => value.to_string(),
        Value::String(value) => value.clone(),
        Value::Sequence(list) => list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","),
        _ if known.role == Role::Unneeded => return Ok(()),
        _ => return Err(format!("{name} cannot be read")),
    };
    values.insert(name, text);
    Ok(())
}
