//! What a joining server and a running one say to each other, and the checks on both sides.
//!
//! The joining side trusts nothing but the token's hash: it asks for the authority's certificate, compares, and only
//! then sends its secret, over TLS verified against that certificate.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::layout::State;
use crate::failure::{Failure, Result};

pub const CA_PATH: &str = "/v1/ca";
pub const SERVERS_PATH: &str = "/v1/servers";
/// The cluster's settings and API servers, for agents; holds nothing secret.
pub const CLUSTER_PATH: &str = "/v1/cluster";
/// Clocks further apart than this make certificates and leases misbehave.
const CLOCK_SKEW_MAX: Duration = Duration::from_secs(10);

/// A certificate's common name cannot be longer.
const NAME_BYTES_MAX: usize = 64;

/// A server asks to become a member.
#[derive(Debug, Serialize, Deserialize)]
pub struct JoinRequest {
    pub name: String,
    pub peer_url: String,
    pub client_url: String,
    pub version: String,
    /// Seconds since 1970 on the joining machine.
    pub unix_secs: u64,
}

/// What the new member needs to start.
#[derive(Debug, Serialize, Deserialize)]
pub struct JoinAnswer {
    /// File name in `pki/` to PEM: authorities and service-account keys.
    pub pki: BTreeMap<String, String>,
    pub state: State,
}

/// A refusal, as sent over the wire.
#[derive(Debug, Serialize, Deserialize)]
pub struct Refusal {
    pub error: String,
    #[serde(default)]
    pub mend: Option<String>,
}

/// Refuses where two machines' clocks, in seconds since 1970, are too far apart.
pub fn clocks_agree(here: u64, there: u64) -> Result<()> {
    let apart = here.abs_diff(there);
    if apart <= CLOCK_SKEW_MAX.as_secs() {
        return Ok(());
    }
    Err(Failure::new(format!("the clocks of the two machines are {apart} s apart"))
        .mend("set both clocks (an NTP service such as chrony keeps them) and join again"))
}

pub fn unix_secs(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl JoinRequest {
    /// What must hold before anything is changed for this request.
    pub fn check(&self, now: SystemTime) -> Result<()> {
        clocks_agree(unix_secs(now), self.unix_secs)?;
        if self.version != env!("CARGO_PKG_VERSION") {
            return Err(Failure::new(format!(
                "the joining server is version {}, this one {}",
                self.version,
                env!("CARGO_PKG_VERSION")
            ))
            .mend("install the same version on both"));
        }
        check_name(&self.name)?;
        let address = self.peer_url.strip_prefix("https://").map(str::parse::<std::net::SocketAddr>);
        match address {
            Some(Ok(_)) => Ok(()),
            _ => Err(Failure::new(format!("{:?} is not https://address:port", self.peer_url))),
        }
    }
}

/// A server's name stands in the store's list of members, in certificates, and as a key of a ConfigMap.
pub fn check_name(name: &str) -> Result<()> {
    let fits = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    if !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.chars().all(fits) {
        return Ok(());
    }
    Err(Failure::new(format!("{name:?} cannot be a server's name"))
        .mend("choose a --name of letters, digits, dots and dashes"))
}

/// Equal in constant time, so that the answer's delay tells nothing of the secret.
pub fn secret_matches(expected: &str, header: Option<&str>) -> bool {
    let given = header.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
    let digest = |text: &str| <sha2::Sha256 as sha2::Digest>::digest(text.as_bytes());
    digest(expected).iter().zip(digest(given)).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_checked_before_anything_changes() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let request = |name: &str, version: &str, unix_secs| JoinRequest {
            name: name.into(),
            peer_url: "https://10.0.0.2:2380".into(),
            client_url: "https://10.0.0.2:2379".into(),
            version: version.into(),
            unix_secs,
        };
        let own = env!("CARGO_PKG_VERSION");
        for (request, expected) in [
            (request("b", own, 1_000_009), None),
            (request("b", own, 1_000_011), Some("11 s apart")),
            (request("b", "0.0.0", 1_000_000), Some("version 0.0.0")),
            (request("a,b", own, 1_000_000), Some("cannot be a server's name")),
            (request("m\u{fc}ller", own, 1_000_000), Some("cannot be a server's name")),
            (request("", own, 1_000_000), Some("cannot be a server's name")),
            (request("A-1.b_c", own, 1_000_000), None),
            (
                JoinRequest { peer_url: "https://a:1,b=https://c:2".into(), ..request("b", own, 1_000_000) },
                Some("is not https://address:port"),
            ),
        ] {
            let got = request.check(now).err().map(|error| error.to_string());
            match expected {
                None => assert_eq!(got, None),
                Some(part) => assert!(got.as_deref().is_some_and(|text| text.contains(part)), "{got:?}"),
            }
        }
        assert!(secret_matches("s", Some("Bearer s")));
        assert!(!secret_matches("s", Some("Bearer t")) && !secret_matches("s", None));
    }
}
