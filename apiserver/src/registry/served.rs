//! `--runtime-config`: which built-in versions are served. Pure.
//!
//! `group/version=false` (or `v1=false`) takes one out, `api/all` and `api/ga` speak for all that are not named.
//! Versions that are not generally available are not here, so switching one on is refused instead of passed over.

use machinery::resources::{Resource, resources};

/// What the flag says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// `api/all` or `api/ga` is false.
    closed: bool,
    named: Vec<(String, bool)>,
}

/// Why the flag cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServedError {
    #[error("--runtime-config: {0:?} is not NAME=true|false")]
    Form(String),
    #[error("--runtime-config: there is no version {0:?} here to switch on")]
    Unknown(String),
}

impl Served {
    /// From the parts of the flag.
    ///
    /// # Errors
    /// A part is no pair, or switches on what is not there.
    pub fn parse(parts: &[String]) -> Result<Self, ServedError> {
        let mut served = Self::default();
        for part in parts.iter().map(|p| p.trim()).filter(|p| !p.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, "true"));
            let on = value.parse::<bool>().map_err(|_| ServedError::Form(part.to_owned()))?;
            match name {
                "api/all" | "api/ga" => served.closed = !on,
                "api/beta" | "api/alpha" => {}
                // What upstream calls `api/legacy` is the core group.
                "api/legacy" => served.named.push(("v1".to_owned(), on)),
                _ if on && !is_known(name) => return Err(ServedError::Unknown(name.to_owned())),
                _ => served.named.push((name.to_owned(), on)),
            }
        }
        Ok(served)
    }

    /// Whether the version of the row is served; the names that say so last count.
    pub fn has(&self, row: &Resource) -> bool {
        let version = machinery::resources::api_version(row.group, row.version);
        let named = self.named.iter().rev().find(|(name, _)| *name == version);
        row.served_by_default() && named.map_or(!self.closed, |(_, on)| *on)
    }
}

fn is_known(name: &str) -> bool {
    let of = |row: &Resource| machinery::resources::api_version(row.group, row.version) == name;
    resources().iter().any(|row| row.served_by_default() && of(row))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_switched() {
        let row =
            |group: &str| resources().iter().find(|r| r.group == group && r.version == "v1").expect("a row");
        let check = |flag: &str, group: &str, expected: bool| {
            let parts: Vec<String> = flag.split(',').map(str::to_owned).collect();
            assert_eq!(Served::parse(&parts).map(|s| s.has(row(group))), Ok(expected), "{flag} {group}");
        };
        check("", "batch", true);
        check("batch/v1=false", "batch", false);
        check("batch/v1=false", "apps", true);
        check("api/all=false,v1=true", "", true);
        check("api/all=false,v1=true", "apps", false);
        check("apps/v1", "apps", true);
        assert_eq!(Served::parse(&["x=y".into()]), Err(ServedError::Form("x=y".into())));
        let unknown = "resource.k8s.io/v1beta1".to_owned();
        assert_eq!(Served::parse(&[format!("{unknown}=true")]), Err(ServedError::Unknown(unknown.clone())));
        assert!(Served::parse(&[format!("{unknown}=false")]).is_ok());
    }
}
