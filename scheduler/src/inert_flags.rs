//! kube-scheduler's flags that have nothing to steer here, each with the reason.

use machinery::flags::{COMPONENT, Inert, LOGGING, Table, value};

/// The list.
#[derive(Clone, Debug, Default)]
pub struct KubeScheduler;

impl Table for KubeScheduler {
    const ROWS: &'static [&'static [Inert]] =
        &[COMPONENT, LOGGING, &[value("write-config-to", "the configuration is not written out")]];
}
