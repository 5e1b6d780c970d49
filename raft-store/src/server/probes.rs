//! Whether this member is well, as whoever supervises it asks: `/health`, and the named checks of `/livez` and `/readyz`,
//! all of them or one (`/readyz/linearizable_read`), with etcd's words.

use std::{collections::BTreeSet, time::Duration};

use ::http::{HeaderValue, Method, Request, Response, StatusCode, header::ALLOW};
use proto::etcdserverpb::{AlarmType, RangeRequest};
use serde_json::json;
use tonic::body::Body;

use super::http::text;
use crate::{error::Error, member::Member, metrics::SERVER};

/// How long a check may wait for a read.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
const PLAIN: &str = "text/plain; charset=utf-8";

/// One thing that must be so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    /// No member's data differs from the others'.
    DataCorruption,
    /// The state here can be read.
    SerializableRead,
    /// A majority agrees what is newest.
    LinearizableRead,
    /// It votes.
    NonLearner,
}

impl Check {
    fn name(self) -> &'static str {
        match self {
            Self::DataCorruption => "data_corruption",
            Self::SerializableRead => "serializable_read",
            Self::LinearizableRead => "linearizable_read",
            Self::NonLearner => "non_learner",
        }
    }

    async fn run(self, member: &Member) -> Result<(), String> {
        let failed = |failed: bool, reason: &str| if failed { Err(reason.to_owned()) } else { Ok(()) };
        match self {
            Self::DataCorruption => {
                failed(member.raised_alarms().contains(&AlarmType::Corrupt), "alarm activated: CORRUPT")
            }
            Self::NonLearner => failed(member.is_learner(), "not supported for learner"),
            Self::SerializableRead => {
                failed(!member.raft_is_running(), "the consensus core has stopped")?;
                read(member, true).await
            }
            Self::LinearizableRead => read(member, false).await,
        }
    }
}

/// Kinds of checks, and the checks of each.
static KINDS: [(&str, &[Check]); 2] = [
    ("livez", &[Check::SerializableRead]),
    ("readyz", &[Check::DataCorruption, Check::SerializableRead, Check::LinearizableRead, Check::NonLearner]),
];

/// The kind and the checks a path asks for.
fn asked_for(path: &str) -> Option<(&'static str, Vec<Check>)> {
    let path = path.strip_prefix('/')?;
    let (kind, name) = path.split_once('/').map_or((path, None), |(kind, name)| (kind, Some(name)));
    let &(kind, checks) = KINDS.iter().find(|(known, _)| *known == kind)?;
    let checks = checks.iter().copied().filter(|check| name.is_none_or(|name| check.name() == name));
    let checks: Vec<Check> = checks.collect();
    if checks.is_empty() { None } else { Some((kind, checks)) }
}

/// Every value of a name in a query.
fn values<'q>(query: &'q str, name: &str) -> BTreeSet<&'q str> {
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.filter(|(known, _)| *known == name).map(|(_, value)| value).collect()
}

/// The answer to a question about health; nothing when it is another question.
pub async fn answer<B>(member: &Member, request: &Request<B>) -> Option<Response<Body>> {
    let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
    let asked = asked_for(path);
    if path != "/health" && asked.is_none() {
        return None;
    }
    if request.method() != Method::GET {
        let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, PLAIN, "Method Not Allowed\n".into());
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        return Some(refused);
    }
    Some(match asked {
        // A single check cannot be left out.
        Some((kind, checks)) if path != format!("/{kind}") => run(member, kind, checks, query).await,
        Some((kind, mut checks)) => {
            let excluded = values(query, "exclude");
            checks.retain(|check| !excluded.contains(check.name()));
            run(member, kind, checks, query).await
        }
        None => health(member, query).await,
    })
}

async fn run(member: &Member, kind: &str, checks: Vec<Check>, query: &str) -> Response<Body> {
    let (mut said, mut is_well) = (String::new(), true);
    for check in checks {
        let outcome = check.run(member).await;
        SERVER.checked(kind, check.name(), outcome.is_ok());
        match outcome {
            Ok(()) => said += &format!("[+]{} ok\n", check.name()),
            Err(reason) => {
                is_well = false;
                said += &format!("[-]{} failed: {reason}\n", check.name());
            }
        }
    }
    if !is_well {
        return text(StatusCode::SERVICE_UNAVAILABLE, PLAIN, said + "\n");
    }
    let said = if values(query, "verbose").is_empty() { String::new() } else { said };
    text(StatusCode::OK, PLAIN, said + "ok\n")
}

/// etcd's older check: no alarm that is not excluded, a leader, and a read that works.
async fn health(member: &Member, query: &str) -> Response<Body> {
    let excluded = values(query, "exclude");
    let serializable = values(query, "serializable").contains("true");
    let counted = member.raised_alarms().into_iter().find(|alarm| !excluded.contains(alarm.as_str_name()));
    let reason = match counted {
        Some(alarm) => Some(format!("ALARM {}", alarm.as_str_name())),
        None if !serializable && member.leader().is_none() => Some("RAFT NO LEADER".to_owned()),
        None => read(member, serializable).await.err().map(|error| format!("RANGE ERROR:{error}")),
    };
    match reason {
        None => {
            SERVER.healthy.inc();
            text(StatusCode::OK, "application/json", json!({"health": "true", "reason": ""}).to_string())
        }
        Some(reason) => {
            SERVER.unhealthy.inc();
            let body = json!({"health": "false", "reason": reason});
            text(StatusCode::SERVICE_UNAVAILABLE, "application/json", body.to_string())
        }
    }
}

/// Reads a key; which one does not matter.
async fn read(member: &Member, serializable: bool) -> Result<(), String> {
    let request = RangeRequest { key: vec![0].into(), limit: 1, serializable, ..RangeRequest::default() };
    match tokio::time::timeout(READ_TIMEOUT, member.range(request)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(Error::TIMEOUT.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_asks_for_all_checks_of_its_kind_or_for_one() {
        let names = |path| {
            let names =
                |(_, checks): (_, Vec<Check>)| checks.into_iter().map(Check::name).collect::<Vec<_>>();
            asked_for(path).map(names)
        };
        let all = vec!["data_corruption", "serializable_read", "linearizable_read", "non_learner"];
        assert_eq!(names("/readyz"), Some(all));
        assert_eq!(names("/livez"), Some(vec!["serializable_read"]));
        assert_eq!(names("/readyz/non_learner"), Some(vec!["non_learner"]));
        for other in ["/livez/non_learner", "/readyz/", "/healthz", "/", "readyz"] {
            assert_eq!(names(other), None, "{other}");
        }
    }

    #[test]
    fn queries_name_values_once_or_more() {
        assert_eq!(values("exclude=a&verbose&exclude=b", "exclude"), ["a", "b"].into());
        assert_eq!(values("verbose", "verbose"), [""].into());
        assert!(values("", "verbose").is_empty());
    }
}
