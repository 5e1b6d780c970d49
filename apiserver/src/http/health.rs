//! `/healthz`, `/livez` and `/readyz` with named checks.

use std::collections::BTreeMap;
use std::time::Duration;

use http::{Response, StatusCode};
use parking_lot::RwLock;
use tokio_util::sync::CancellationToken;

use super::body::Body;
use super::respond;
use crate::registry::options::Query;
use crate::storage::Store;

/// Which of the three endpoints a check belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct In {
    pub healthz: bool,
    pub livez: bool,
    pub readyz: bool,
}

/// Everywhere.
pub const ALL: In = In { healthz: true, livez: true, readyz: true };
/// Passes once every custom resource that is defined is served (upstream's name of the check).
pub const CUSTOM_RESOURCES: &str = "poststarthook/start-apiextensions-controllers";

/// Only where a not-ready server must not get traffic.
pub const READY_ONLY: In = In { healthz: false, livez: false, readyz: true };

/// How often the store is asked, and how long it has for the answer: a server that is cut off from its majority must
/// stop being ready within about two seconds.
const STORE_CHECK_INTERVAL: Duration = Duration::from_secs(1);
const STORE_CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// Upstream's names of the checks of one store.
pub struct StoreChecks {
    pub everywhere: String,
    readiness: String,
}

impl StoreChecks {
    /// The first store is the usual one, the others are those of single resources.
    pub fn new(index: usize) -> Self {
        match index.checked_sub(1) {
            None => Self { everywhere: "etcd".to_owned(), readiness: "etcd-readiness".to_owned() },
            Some(other) => Self {
                everywhere: format!("etcd-override-{other}"),
                readiness: format!("etcd-override-readiness-{other}"),
            },
        }
    }
}

/// Keeps the checks of a store true to whether it confirms its newest revision by a quorum.
pub async fn follow_store(
    health: &Health,
    checks: &StoreChecks,
    store: &dyn Store,
    shutdown: CancellationToken,
) {
    loop {
        let asked = tokio::time::timeout(STORE_CHECK_TIMEOUT, store.current_revision()).await;
        let failure = match asked {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("no answer within {STORE_CHECK_TIMEOUT:?}")),
        };
        health.set(&checks.everywhere, ALL, failure.as_deref());
        health.set(&checks.readiness, READY_ONLY, failure.as_deref());
        tokio::select! {
            () = tokio::time::sleep(STORE_CHECK_INTERVAL) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// Named checks: each is passing, or has a reason why not.
#[derive(Default)]
pub struct Health {
    checks: RwLock<BTreeMap<String, (In, Option<String>)>>,
}

impl Health {
    /// Adds or changes a check; `None` means it passes.
    pub fn set(&self, name: &str, place: In, failure: Option<&str>) {
        self.checks.write().insert(name.to_owned(), (place, failure.map(str::to_owned)));
    }

    /// Whether the check is known and passes.
    pub fn passes(&self, name: &str) -> bool {
        self.checks.read().get(name).is_some_and(|(_, failure)| failure.is_none())
    }

    /// Whether everything that readiness asks for passes.
    pub fn is_ready(&self) -> bool {
        self.checks.read().values().all(|(place, failure)| !place.readyz || failure.is_none())
    }

    /// Answers one of the endpoints, or a single check below it; `None` for an unknown check.
    pub fn answer(&self, path: &str, query: &Query) -> Option<Response<Body>> {
        let mut parts = path.trim_matches('/').splitn(2, '/');
        let endpoint = parts.next()?;
        let checks = self.checks.read();
        let belongs = |place: &In| match endpoint {
            "healthz" => place.healthz,
            "livez" => place.livez,
            _ => place.readyz,
        };
        if let Some(name) = parts.next().filter(|n| !n.is_empty()) {
            let (_, failure) = checks.get(name).filter(|(place, _)| belongs(place))?;
            return Some(match failure {
                None => respond::text(StatusCode::OK, "ok"),
                Some(why) => respond::text(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    format!("internal server error: {why}\n"),
                ),
            });
        }
        Some(report(endpoint, checks.iter().filter(|(_, (place, _))| belongs(place)), query))
    }
}

fn report<'a>(
    endpoint: &str,
    checks: impl Iterator<Item = (&'a String, &'a (In, Option<String>))>,
    query: &Query,
) -> Response<Body> {
    let mut lines = String::from("[+]ping ok\n");
    let mut failed = false;
    let excluded = query.all("exclude");
    let mut unmatched: Vec<&String> = excluded.iter().filter(|e| !e.is_empty()).collect();
    for (name, (_, failure)) in checks {
        if excluded.contains(name) {
            unmatched.retain(|e| *e != name);
            lines.push_str(&format!("[+]{name} excluded: ok\n"));
            continue;
        }
        match failure {
            None => lines.push_str(&format!("[+]{name} ok\n")),
            Some(_) => {
                failed = true;
                lines.push_str(&format!("[-]{name} failed: reason withheld\n"));
            }
        }
    }
    if !unmatched.is_empty() {
        let names: Vec<String> = unmatched.iter().map(|n| format!("{n:?}")).collect();
        lines.push_str(&format!(
            "warn: some health checks cannot be excluded: no matches for {}\n",
            names.join(",")
        ));
    }
    if failed {
        return respond::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{lines}{endpoint} check failed\n"));
    }
    if query.has("verbose") {
        return respond::text(StatusCode::OK, format!("{lines}{endpoint} check passed\n"));
    }
    respond::text(StatusCode::OK, "ok")
}
