//! Job and CronJob.

pub mod cron;
pub mod cron_job;
pub mod indexes;
pub mod job;
pub mod job_policies;
pub mod job_prepare;
pub mod job_status;
pub mod job_update;

use super::kind::Kind;

/// The rows of these kinds.
pub const KINDS: &[Kind] = &[
    Kind {
        default: job_prepare::default,
        create: job_prepare::create,
        check: job::check,
        ..Kind::new("batch", "jobs")
    },
    Kind { check: job_status::check, ..Kind::sub("batch", "jobs", "status") },
    Kind { default: cron_job::default, check: cron_job::check, ..Kind::new("batch", "cronjobs") },
];
