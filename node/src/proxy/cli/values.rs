//! Values of flags and configuration fields.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

/// Why the command line cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// A value does not have its form.
    #[error("invalid value {value:?} for {name}: {reason}")]
    Value {
        /// Flag or field.
        name: &'static str,
        /// What was given.
        value: String,
        /// What was expected.
        reason: String,
    },
    /// The configuration file cannot be used.
    #[error("configuration file {path}: {source}")]
    Config {
        /// Its path.
        path: PathBuf,
        /// Cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The node's name is unknown. Give --hostname-override.
    #[error("cannot tell the host name: {0}; give --hostname-override")]
    Hostname(String),
}

/// Reads a value of a flag or field.
pub fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(
    name: &'static str,
    value: &str,
) -> Result<T, CliError> {
    value.parse().map_err(|error: T::Err| CliError::Value {
        name,
        value: value.to_owned(),
        reason: error.to_string(),
    })
}

/// An address and port; empty means off, a bare port or `:port` means every address.
pub fn bind(name: &'static str, value: &str) -> Result<Option<SocketAddr>, CliError> {
    let value = value.trim();
    match value.strip_prefix(':') {
        _ if value.is_empty() => Ok(None),
        Some(port) => Ok(Some(SocketAddr::from(([0, 0, 0, 0], parse(name, port)?)))),
        None => parse(name, value).map(Some),
    }
}

/// A duration as Go writes it: `1h30m`, `2s`, `250ms`.
pub fn go_duration(name: &'static str, text: &str) -> Result<Duration, CliError> {
    let invalid =
        || CliError::Value { name, value: text.to_owned(), reason: "expected a duration such as 30s".into() };
    let mut total = 0.0;
    let mut rest = text;
    while !rest.is_empty() && rest != "0" {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(invalid)?;
        let number: f64 = rest[..digits].parse().map_err(|_| invalid())?;
        let unit_len = rest[digits..].find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len() - digits);
        let unit = match &rest[digits..digits + unit_len] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 0.001,
            _ => return Err(invalid()),
        };
        total += number * unit;
        rest = &rest[digits + unit_len..];
    }
    Duration::try_from_secs_f64(total).map_err(|_| invalid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_durations() {
        for (text, millis) in
            [("1h30m", 5_400_000), ("2s", 2_000), ("250ms", 250), ("1.5s", 1_500), ("0", 0), ("0s", 0)]
        {
            assert_eq!(go_duration("x", text).expect(text), Duration::from_millis(millis), "{text}");
        }
        for text in ["1", "s", "1d", "-1s"] {
            assert!(go_duration("x", text).is_err(), "{text}");
        }
    }
}
