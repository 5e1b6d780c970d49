//! The command lines of `kubelet` and `kube-proxy`: flags named as upstream's. Flags that have no effect here
//! (cloud providers, profiling, Windows) are accepted, so that existing unit files keep working.

mod eviction;

mod file;

mod flags;

mod resolve;

pub use crate::proxy::cli::{Args as ProxyArgs, run as run_proxy};
pub use flags::KubeletArgs;
pub use resolve::{ConfigError, resolve};

use tokio_util::sync::CancellationToken;

/// Any error that ends a role.
pub type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// Runs a kubelet alone, beside any control plane, until the token fires. Containers are left running.
pub async fn run_kubelet(args: KubeletArgs, shutdown: CancellationToken) -> Result<(), AnyError> {
    crate::agent::run_kubelet_only(args, shutdown).await
}
