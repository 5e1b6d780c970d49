//! Who came, whether they were let in, and what admission said.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use machinery::status::StatusError;
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec};

use super::labelled::Labelled;
use super::{Family, exponential};
use crate::contract::{Admission, AdmissionChain, Decision, Operation, UserInfo};

/// Upstream's buckets of admission steps.
const ADMISSION_BUCKETS: [f64; 5] = [0.005, 0.025, 0.1, 0.5, 2.5];

struct Handles {
    total: IntCounter,
    duration: Histogram,
}

/// The families of authentication, authorization and admission.
pub struct Access {
    authentications: IntCounterVec,
    authentication_durations: HistogramVec,
    users: IntCounterVec,
    authorizations: IntCounterVec,
    authorization_durations: HistogramVec,
    decisions: IntCounterVec,
    admission: HistogramVec,
    handles: Labelled<Handles>,
    counters: Labelled<IntCounter>,
    histograms: Labelled<Histogram>,
}

impl Access {
    pub(super) fn new(family: &Family<'_>) -> Result<Self, prometheus::Error> {
        let buckets = exponential(0.001, 2.0, 15);
        Ok(Self {
            authentications: family.counter(
                "authentication_attempts",
                "Attempts by their outcome.",
                &["result"],
            )?,
            authentication_durations: family.histogram(
                "authentication_duration_seconds",
                "Time authentication took.",
                &["result"],
                buckets.clone(),
            )?,
            users: family.counter(
                "authenticated_user_requests",
                "Requests by user, whose name is only given for the system's own.",
                &["username"],
            )?,
            authorizations: family.counter(
                "authorization_attempts_total",
                "Attempts by their outcome.",
                &["result"],
            )?,
            authorization_durations: family.histogram(
                "authorization_duration_seconds",
                "Time authorization took.",
                &["result"],
                buckets,
            )?,
            decisions: family.counter(
                "apiserver_authorization_decisions_total",
                "Decisions that allowed or denied a request.",
                &["type", "name", "decision"],
            )?,
            admission: family.histogram(
                "apiserver_admission_step_admission_duration_seconds",
                "Time the mutating or validating half of admission took.",
                &["type", "operation", "rejected"],
                ADMISSION_BUCKETS.to_vec(),
            )?,
            handles: Labelled::default(),
            counters: Labelled::default(),
            histograms: Labelled::default(),
        })
    }

    /// Counts one attempt to authenticate.
    pub fn authenticated(&self, user: Option<&UserInfo>, took: Duration) {
        let result = if user.is_some() { "success" } else { "failure" };
        self.attempt("authentication", result, took, &self.authentications, &self.authentication_durations);
        if let Some(user) = user {
            let name = user_label(&user.name);
            self.counters.get(&[name], || self.users.with_label_values(&[name])).inc();
        }
    }

    /// Counts one decision about a request.
    pub fn authorized(&self, decision: &Decision, took: Duration) {
        let result = match decision {
            Decision::Allow { .. } => "allowed",
            Decision::Deny { .. } => "denied",
            Decision::NoOpinion { .. } => "no-opinion",
        };
        self.attempt("authorization", result, took, &self.authorizations, &self.authorization_durations);
        if result != "no-opinion" {
            let labels = ["Union", "union", result];
            self.counters.get(&labels, || self.decisions.with_label_values(&labels)).inc();
        }
    }

    fn attempt(&self, what: &str, result: &str, took: Duration, total: &IntCounterVec, times: &HistogramVec) {
        let make = || Handles {
            total: total.with_label_values(&[result]),
            duration: times.with_label_values(&[result]),
        };
        let handles = self.handles.get(&[what, result], make);
        handles.total.inc();
        handles.duration.observe(took.as_secs_f64());
    }

    /// Notes how long one half of admission took; `half` is `admit` or `validate`.
    fn admitted(&self, half: &str, operation: Operation, rejected: bool, took: Duration) {
        let operation = match operation {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
            Operation::Connect => "CONNECT",
        };
        let labels = [half, operation, if rejected { "true" } else { "false" }];
        let make = || self.admission.with_label_values(&labels);
        self.histograms.get(&labels, make).observe(took.as_secs_f64());
    }
}

/// An admission chain that is timed.
pub struct MeteredAdmission {
    inner: Arc<dyn AdmissionChain>,
    access: Arc<Access>,
}

impl MeteredAdmission {
    pub fn new(inner: Arc<dyn AdmissionChain>, access: Arc<Access>) -> Self {
        Self { inner, access }
    }
}

#[async_trait]
impl AdmissionChain for MeteredAdmission {
    async fn mutate(&self, request: &mut Admission<'_>) -> Result<(), StatusError> {
        let (operation, started) = (request.operation, Instant::now());
        let said = self.inner.mutate(request).await;
        self.access.admitted("admit", operation, said.is_err(), started.elapsed());
        said
    }

    async fn validate(&self, request: &Admission<'_>) -> Result<(), StatusError> {
        let started = Instant::now();
        let said = self.inner.validate(request).await;
        self.access.admitted("validate", request.operation, said.is_err(), started.elapsed());
        said
    }
}

/// Upstream names only the system's own users; everybody else would make a series a person.
fn user_label(name: &str) -> &str {
    let is_node = name.starts_with("system:node:");
    let is_account = name.starts_with("system:serviceaccount:");
    let own = name.starts_with("system:") && !is_node && !is_account;
    if own { name } else { "other" }
}

#[cfg(test)]
mod tests {
    use super::user_label;

    #[test]
    fn people_are_not_named() {
        for (name, label) in [
            ("system:apiserver", "system:apiserver"),
            ("system:serviceaccount:a:b", "other"),
            ("system:node:n", "other"),
            ("jane", "other"),
        ] {
            assert_eq!(user_label(name), label, "{name}");
        }
    }
}
