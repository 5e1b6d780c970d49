//! Leader election over a `coordination.k8s.io` Lease, with client-go's parameters and record.
//!
//! [`Elector`] decides; [`run`] fetches, writes and sleeps. A leader that shuts down gives the Lease away at once, so
//! that the next one need not wait for it to expire. Whoever loses the Lease must stop acting before
//! `lease_duration` has passed since its last renewal: [`run`] cancels the work `renew_deadline` after it.

mod elector;
mod shell;

use std::time::Duration;

use thiserror::Error;

pub use elector::{Action, Elector, Record};
pub use shell::run;

/// What to hold, as whom, and for how long. Units are in the types.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub lease_name: String,
    pub namespace: String,
    /// Unique among the candidates.
    pub identity: String,
    /// How long others wait after the last renewal they saw.
    pub lease_duration: Duration,
    /// How long the leader tries to renew before it stops leading.
    pub renew_deadline: Duration,
    /// Pause between tries.
    pub retry_period: Duration,
    /// Whether the Lease is given away on shutdown.
    pub release_on_cancel: bool,
}

impl Config {
    /// Upstream's defaults: 15 s, 10 s and 2 s; the Lease is released on shutdown.
    pub fn new(
        namespace: impl Into<String>,
        lease_name: impl Into<String>,
        identity: impl Into<String>,
    ) -> Self {
        Config {
            lease_name: lease_name.into(),
            namespace: namespace.into(),
            identity: identity.into(),
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
            release_on_cancel: true,
        }
    }

    /// Checks the relations between the durations.
    ///
    /// # Errors
    /// The relation that does not hold.
    pub fn check(&self) -> Result<(), LeaderError> {
        let jittered = self.retry_period.mul_f64(JITTER_FACTOR);
        let problem = if self.lease_duration <= self.renew_deadline {
            "leaseDuration must be greater than renewDeadline"
        } else if self.renew_deadline <= jittered {
            "renewDeadline must be greater than retryPeriod*JitterFactor"
        } else if self.lease_duration < Duration::from_secs(1) {
            "leaseDuration must be at least one second"
        } else if self.retry_period.is_zero() {
            "retryPeriod must be greater than zero"
        } else if self.identity.is_empty() {
            "Lock identity is empty"
        } else {
            return Ok(());
        };
        Err(LeaderError::Config(problem))
    }
}

/// Tries are spread over this much of the period, so that candidates do not try in step (client-go's number).
pub const JITTER_FACTOR: f64 = 1.2;

/// Why [`run`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The shutdown token was cancelled; the work has ended and the Lease is released if it was held.
    Shutdown,
    /// The Lease was lost or could not be renewed in time. Call [`run`] again to try anew.
    Lost,
    /// The work ended by itself while leading.
    Finished,
}

/// The election could not be started. Failing requests are not errors: they are tried again.
#[derive(Debug, Error)]
pub enum LeaderError {
    #[error("leader election: {0}; mend the flags")]
    Config(&'static str),
}
