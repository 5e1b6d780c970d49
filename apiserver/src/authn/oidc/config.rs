//! Which issuers are trusted and what their claims mean: from flags, or from a file. Pure.
//!
//! Source: `pkg/apis/apiserver` and `pkg/apis/apiserver/validation` of upstream's apiserver.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jsonwebtoken::Algorithm;
use serde_json::Value;

/// What upstream accepts when nothing is said.
const ALGORITHMS: [(&str, Algorithm); 8] = [
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("PS256", Algorithm::PS256),
    ("PS384", Algorithm::PS384),
    ("PS512", Algorithm::PS512),
];
const API_VERSIONS: [&str; 2] = ["apiserver.config.k8s.io/v1", "apiserver.config.k8s.io/v1beta1"];

/// A claim and what is put before its value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mapping {
    pub claim: String,
    pub prefix: String,
}

/// One trusted issuer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    pub url: String,
    /// Where its configuration is read, when not below `url`.
    pub discovery_url: String,
    /// PEM of the authority of its server; the system's authorities when empty.
    pub authority_pem: String,
    pub audiences: Vec<String>,
    pub algorithms: Vec<Algorithm>,
    pub username: Mapping,
    pub groups: Option<Mapping>,
    pub uid_claim: String,
    /// Claims that must have these values.
    pub required: BTreeMap<String, String>,
}

/// The `--oidc-*` flags.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct Flags {
    /// Issuer of tokens that are accepted, an https URL.
    #[arg(long = "oidc-issuer-url", default_value = "")]
    pub issuer_url: String,
    /// The audience that tokens must have.
    #[arg(long = "oidc-client-id", default_value = "")]
    pub client_id: String,
    /// The claim that is the user's name; `sub` when not given.
    #[arg(long = "oidc-username-claim", default_value = "")]
    pub username_claim: String,
    /// Put before names; `-` for nothing. The issuer and `#` when not given, but for the claim `email`.
    #[arg(long = "oidc-username-prefix", default_value = "", allow_hyphen_values = true)]
    pub username_prefix: String,
    #[arg(long = "oidc-groups-claim", default_value = "")]
    pub groups_claim: String,
    #[arg(long = "oidc-groups-prefix", default_value = "")]
    pub groups_prefix: String,
    /// `claim=value` that tokens must have; may stand several times.
    #[arg(long = "oidc-required-claim", value_delimiter = ',')]
    pub required_claims: Vec<String>,
    /// RS256 when not given.
    #[arg(long = "oidc-signing-algs", value_delimiter = ',')]
    pub signing_algs: Vec<String>,
    /// Authority of the issuer's server; the system's when not given.
    #[arg(long = "oidc-ca-file")]
    pub ca_file: Option<PathBuf>,
    /// Its text, read by the caller.
    #[arg(skip)]
    pub authority_pem: String,
}

/// What a file of kind AuthenticationConfiguration says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuthenticationFile {
    pub issuers: Vec<Issuer>,
    /// Whether requests without proof are let in; `None` leaves that to the flag.
    pub anonymous: Option<bool>,
    /// The paths where they are; empty for all.
    pub anonymous_paths: Vec<String>,
}

/// Why the flags or the file cannot be followed; they have to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("--oidc-issuer-url and --oidc-client-id go together")]
    Incomplete,
    #[error("{place}: {what}")]
    Invalid { place: String, what: String },
}

fn invalid(place: impl Into<String>, what: impl Into<String>) -> ConfigError {
    ConfigError::Invalid { place: place.into(), what: what.into() }
}

fn algorithm(place: &str, name: &str) -> Result<Algorithm, ConfigError> {
    let known = ALGORITHMS.iter().find(|(known, _)| *known == name).map(|(_, algorithm)| *algorithm);
    known.ok_or_else(|| {
        let names: Vec<&str> = ALGORITHMS.iter().map(|(name, _)| *name).collect();
        invalid(place, format!("{name:?} is no signing algorithm; known are {}", names.join(", ")))
    })
}

fn https(place: &str, url: &str) -> Result<(), ConfigError> {
    if url.starts_with("https://") {
        Ok(())
    } else {
        Err(invalid(place, format!("{url:?} is not an https URL")))
    }
}

impl Flags {
    /// The issuer that the flags describe; `None` when they describe none.
    pub fn issuer(&self) -> Result<Option<Issuer>, ConfigError> {
        if self.issuer_url.is_empty() && self.client_id.is_empty() {
            return Ok(None);
        }
        if self.issuer_url.is_empty() || self.client_id.is_empty() {
            return Err(ConfigError::Incomplete);
        }
        https("--oidc-issuer-url", &self.issuer_url)?;
        let claim = if self.username_claim.is_empty() { "sub" } else { &self.username_claim };
        // Names that only one issuer vouches for must not be taken for another's; addresses are unique by themselves.
        let prefix = match self.username_prefix.as_str() {
            "-" => String::new(),
            "" if claim != "email" => format!("{}#", self.issuer_url),
            given => given.to_owned(),
        };
        let names = self.signing_algs.iter().filter(|name| !name.is_empty());
        let algorithms: Result<Vec<_>, _> =
            names.map(|name| algorithm("--oidc-signing-algs", name)).collect();
        let algorithms =
            Some(algorithms?).filter(|all| !all.is_empty()).unwrap_or_else(|| vec![Algorithm::RS256]);
        let required = self.required_claims.iter().filter(|pair| !pair.is_empty()).map(|pair| {
            let (claim, value) = pair
                .split_once('=')
                .ok_or_else(|| invalid("--oidc-required-claim", format!("{pair:?} is not claim=value")))?;
            Ok((claim.to_owned(), value.to_owned()))
        });
        let groups = Some(self.groups_claim.clone()).filter(|claim| !claim.is_empty());
        Ok(Some(Issuer {
            url: self.issuer_url.clone(),
            discovery_url: String::new(),
            authority_pem: self.authority_pem.clone(),
            audiences: vec![self.client_id.clone()],
            algorithms,
            username: Mapping { claim: claim.to_owned(), prefix },
            groups: groups.map(|claim| Mapping { claim, prefix: self.groups_prefix.clone() }),
            uid_claim: String::new(),
            required: required.collect::<Result<_, _>>()?,
        }))
    }
}

impl AuthenticationFile {
    /// Reads the file's text, YAML or JSON.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let file: Value = serde_yaml_ng::from_str(text).map_err(|e| invalid("the file", e.to_string()))?;
        if file["kind"] != "AuthenticationConfiguration"
            || !API_VERSIONS.contains(&file["apiVersion"].as_str().unwrap_or_default())
        {
            let wanted = format!("expected kind AuthenticationConfiguration of {}", API_VERSIONS[0]);
            return Err(invalid("apiVersion, kind", wanted));
        }
        let rows = file["jwt"].as_array().into_iter().flatten().enumerate();
        let issuers: Vec<Issuer> =
            rows.map(|(i, row)| issuer(&format!("jwt[{i}]"), row)).collect::<Result<_, _>>()?;
        for (i, one) in issuers.iter().enumerate() {
            if issuers[..i].iter().any(|other| other.url == one.url) {
                return Err(invalid(format!("jwt[{i}].issuer.url"), "stands twice"));
            }
        }
        let conditions = file["anonymous"]["conditions"].as_array().into_iter().flatten();
        Ok(Self {
            issuers,
            anonymous: file["anonymous"]["enabled"].as_bool(),
            anonymous_paths: conditions.filter_map(|c| c["path"].as_str()).map(str::to_owned).collect(),
        })
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn issuer(place: &str, row: &Value) -> Result<Issuer, ConfigError> {
    refuse_expressions(place, row)?;
    let source = &row["issuer"];
    let (url, discovery_url) = (text(&source["url"]), text(&source["discoveryURL"]));
    https(&format!("{place}.issuer.url"), &url)?;
    if !discovery_url.is_empty() {
        https(&format!("{place}.issuer.discoveryURL"), &discovery_url)?;
    }
    let audiences: Vec<String> = source["audiences"].as_array().into_iter().flatten().map(text).collect();
    if audiences.is_empty() {
        return Err(invalid(format!("{place}.issuer.audiences"), "at least one is needed"));
    }
    let rules = row["claimValidationRules"].as_array().into_iter().flatten();
    let maps = &row["claimMappings"];
    Ok(Issuer {
        url,
        discovery_url,
        authority_pem: text(&source["certificateAuthority"]),
        audiences,
        algorithms: ALGORITHMS.iter().map(|(_, algorithm)| *algorithm).collect(),
        username: mapping(&format!("{place}.claimMappings.username"), &maps["username"])?
            .ok_or_else(|| invalid(format!("{place}.claimMappings.username"), "a claim is needed"))?,
        groups: mapping(&format!("{place}.claimMappings.groups"), &maps["groups"])?,
        uid_claim: text(&maps["uid"]["claim"]),
        required: rules.map(|rule| (text(&rule["claim"]), text(&rule["requiredValue"]))).collect(),
    })
}

fn mapping(place: &str, map: &Value) -> Result<Option<Mapping>, ConfigError> {
    let claim = text(&map["claim"]);
    if claim.is_empty() {
        return Ok(None);
    }
    // As upstream: an empty prefix is fine, a forgotten one is not.
    let prefix =
        map["prefix"].as_str().ok_or_else(|| invalid(place, "a prefix is needed; it may be \"\""))?;
    Ok(Some(Mapping { claim, prefix: prefix.to_owned() }))
}

fn refuse_expressions(place: &str, value: &Value) -> Result<(), ConfigError> {
    match value {
        Value::Object(members) => members.iter().try_for_each(|(name, child)| {
            if name == "expression" || name == "valueExpression" {
                return Err(invalid(
                    format!("{place}.{name}"),
                    "CEL expressions are not supported; use claims",
                ));
            }
            refuse_expressions(&format!("{place}.{name}"), child)
        }),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .try_for_each(|(i, child)| refuse_expressions(&format!("{place}[{i}]"), child)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags() {
        assert_eq!(Flags::default().issuer(), Ok(None));
        let flags = Flags { issuer_url: "https://i".into(), client_id: "c".into(), ..Flags::default() };
        let issuer = flags.issuer().ok().flatten().expect("an issuer");
        assert_eq!((issuer.username.claim.as_str(), issuer.username.prefix.as_str()), ("sub", "https://i#"));
        let check = |flags: Flags, part: &str| {
            let error = flags.issuer().expect_err(part).to_string();
            assert!(error.contains(part), "{error}");
        };
        check(Flags { client_id: String::new(), ..flags.clone() }, "go together");
        check(Flags { issuer_url: "http://i".into(), ..flags.clone() }, "https");
        check(Flags { signing_algs: vec!["HS256".into()], ..flags.clone() }, "HS256");
        check(Flags { required_claims: vec!["x".into()], ..flags }, "claim=value");
    }

    const FILE: &str = r#"
apiVersion: apiserver.config.k8s.io/v1
kind: AuthenticationConfiguration
jwt:
- issuer: {url: "https://i", audiences: [a, b]}
  claimMappings: {username: {claim: sub, prefix: "i:"}, groups: {claim: roles, prefix: ""}, uid: {claim: oid}}
  claimValidationRules: [{claim: hd, requiredValue: example.com}]
anonymous: {enabled: true, conditions: [{path: /livez}]}
"#;

    #[test]
    fn files() {
        let file = AuthenticationFile::parse(FILE).expect("a good file");
        let issuer = &file.issuers[0];
        assert_eq!((issuer.audiences.len(), issuer.uid_claim.as_str()), (2, "oid"));
        assert_eq!(
            (file.anonymous, file.anonymous_paths.as_slice()),
            (Some(true), &["/livez".to_owned()][..])
        );
        for (from, to, part) in [
            ("https://i", "http://i", "jwt[0].issuer.url"),
            ("[a, b]", "[]", "audiences"),
            (", prefix: \"i:\"", "", "prefix"),
            ("{claim: oid}", "{expression: x}", "claimMappings.uid.expression"),
            ("kind: Auth", "kind: X", "kind"),
        ] {
            let error = AuthenticationFile::parse(&FILE.replace(from, to)).expect_err(part).to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
