//! Which versions of TLS and which cipher suites a port offers, by the names etcd's flags use.

use std::sync::Arc;

use rustls::{
    SupportedProtocolVersion,
    crypto::CryptoProvider,
    version::{TLS12, TLS13},
};

/// Versions and suites; the default is everything that is safe.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsPolicy {
    /// Whether TLS 1.2 is left out.
    without_12: bool,
    /// Whether TLS 1.3 is left out.
    without_13: bool,
    /// Suites of TLS 1.2 that are left, by name; empty for all. Those of TLS 1.3 cannot be chosen, as in Go.
    suites: Vec<String>,
}

/// Suites that etcd knows by name and that are not offered here: without forward secrecy, or with CBC.
const LEFT_OUT: [&str; 15] = [
    "TLS_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
];
/// Suites of TLS 1.3: always on where that version is.
const OF_13: [&str; 3] = ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"];
/// In place of names when none that was asked for is offered: no suite has this name.
const NO_SUITE: &str = "none";
/// Go's older names.
const OLDER: [(&str, &str); 2] = [
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"),
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"),
];

fn version(flag: &str, text: &str) -> Result<u8, String> {
    match text {
        "TLS1.2" => Ok(12),
        "TLS1.3" => Ok(13),
        other => Err(format!("--{flag}: {other:?} is neither TLS1.2 nor TLS1.3")),
    }
}

impl TlsPolicy {
    /// Reads the flags `tls-min-version`, `tls-max-version` and `cipher-suites`; the error names the flag.
    pub fn parse(min: Option<&str>, max: Option<&str>, suites: &[String]) -> Result<Self, String> {
        let min = min.map_or(Ok(12), |text| version("tls-min-version", text))?;
        let max = max.map_or(Ok(13), |text| version("tls-max-version", text))?;
        if min > max {
            return Err("--tls-min-version is greater than --tls-max-version".into());
        }
        if min == 13 && !suites.is_empty() {
            return Err("--cipher-suites cannot be configured when only TLS1.3 is enabled".into());
        }
        let policy = Self { without_12: min > 12, without_13: max < 13, suites: chosen(suites)? };
        if policy.without_13 && policy.suites == [NO_SUITE] {
            return Err("--cipher-suites: none of these is offered; allow TLS1.3 or name a suite of \
                        TLS_ECDHE_* with GCM or CHACHA20"
                .into());
        }
        Ok(policy)
    }

    /// The versions to configure a connection with.
    pub fn versions(&self) -> &'static [&'static SupportedProtocolVersion] {
        static BOTH: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];
        match (self.without_12, self.without_13) {
            (true, _) => &BOTH[..1],
            (_, true) => &BOTH[1..],
            _ => &BOTH,
        }
    }

    /// The cryptography to configure a connection with.
    pub fn provider(&self) -> Arc<CryptoProvider> {
        let mut provider = rustls::crypto::ring::default_provider();
        if !self.suites.is_empty() {
            provider.cipher_suites.retain(|suite| {
                suite.tls13().is_some() || self.suites.contains(&format!("{:?}", suite.suite()))
            });
        }
        Arc::new(provider)
    }
}

/// The suites of TLS 1.2 among these that are offered here. Fewer than were asked for are safe, and said; when none is
/// left, `NO_SUITE` keeps all of them off.
fn chosen(names: &[String]) -> Result<Vec<String>, String> {
    let offered: Vec<String> = rustls::crypto::ring::default_provider()
        .cipher_suites
        .iter()
        .filter(|suite| suite.tls13().is_none())
        .map(|suite| format!("{:?}", suite.suite()))
        .collect();
    let mut chosen = Vec::new();
    for name in names {
        let name = OLDER.iter().find(|(older, _)| older == name).map_or(name.as_str(), |(_, name)| name);
        if offered.iter().any(|offered| offered == name) {
            chosen.push(name.to_owned());
        } else if LEFT_OUT.contains(&name) {
            tracing::warn!(name, "this cipher suite is not offered here: it is one of those now held unsafe");
        } else if !OF_13.contains(&name) {
            return Err(format!("--cipher-suites: unexpected TLS cipher suite {name:?}"));
        }
    }
    if chosen.is_empty() && !names.is_empty() {
        chosen.push(NO_SUITE.into());
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(suites: &[&str]) -> Vec<String> {
        suites.iter().map(|name| (*name).to_owned()).collect()
    }

    /// Both flags, and how many versions are left.
    type Case = (Option<&'static str>, Option<&'static str>, Result<usize, ()>);

    #[test]
    fn versions_are_those_between_the_flags() {
        let cases: [Case; 6] = [
            (None, None, Ok(2)),
            (Some("TLS1.2"), Some("TLS1.2"), Ok(1)),
            (Some("TLS1.3"), None, Ok(1)),
            (Some("TLS1.2"), Some("TLS1.3"), Ok(2)),
            (Some("TLS1.3"), Some("TLS1.2"), Err(())),
            (Some("TLS1.1"), None, Err(())),
        ];
        for (min, max, expected) in cases {
            let found = TlsPolicy::parse(min, max, &[]).map(|policy| policy.versions().len()).map_err(|_| ());
            assert_eq!(found, expected, "{min:?} to {max:?}");
        }
    }

    #[test]
    fn only_the_suites_that_were_named_are_left_of_tls_1_2() {
        let of_12 = |suites: &[&str]| {
            let policy = TlsPolicy::parse(None, None, &names(suites))?;
            let provider = policy.provider();
            let left = provider.cipher_suites.iter().filter(|suite| suite.tls13().is_none());
            Ok::<_, String>(left.map(|suite| format!("{:?}", suite.suite())).collect::<Vec<_>>())
        };
        assert_eq!(of_12(&[]).unwrap().len(), 6);
        let one = "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256";
        assert_eq!(of_12(&[one, "TLS_RSA_WITH_AES_128_CBC_SHA"]).unwrap(), [one]);
        let chacha = of_12(&["TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305"]).unwrap();
        assert_eq!(chacha, ["TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"]);
        assert_eq!(of_12(&["TLS_AES_128_GCM_SHA256"]).unwrap(), Vec::<String>::new());
        assert!(of_12(&["TLS_NO_SUCH_SUITE"]).is_err());
        assert!(TlsPolicy::parse(Some("TLS1.3"), None, &names(&[one])).is_err());
        let weak = names(&["TLS_RSA_WITH_AES_128_CBC_SHA"]);
        assert!(TlsPolicy::parse(None, Some("TLS1.2"), &weak).is_err(), "nothing would be left to offer");
    }
}
