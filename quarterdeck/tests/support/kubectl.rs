//! Which kubectl is there.

use std::process::Command;

/// The oldest minor version of 1.x that the tours have passed with. Debian 12's is 1.20, which lacks commands and prints
/// others.
const MINOR_MIN: u32 = 32;

/// Why the tours cannot use this machine's kubectl. On CI they must be able to.
pub fn too_old() -> Option<String> {
    let output = Command::new("kubectl").args(["version", "--client", "--output=json"]).output();
    let why = match output {
        Err(error) => format!("kubectl cannot be started: {error}"),
        Ok(output) => {
            let version: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
            let minor = version["clientVersion"]["minor"].as_str().unwrap_or_default();
            match minor.trim_end_matches('+').parse::<u32>() {
                Ok(minor) if minor >= MINOR_MIN => return None,
                _ => format!("kubectl is 1.{minor}, and the tours need 1.{MINOR_MIN} or newer"),
            }
        }
    };
    assert!(std::env::var_os("CI").is_none(), "on CI the tours must run: {why}");
    Some(why)
}
