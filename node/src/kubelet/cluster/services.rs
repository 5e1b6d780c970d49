//! The cluster's services, for the variables containers find them by.

use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Service;
use kube::runtime::{WatchStreamExt, reflector, watcher};
use kube::{Api, Client};
use machinery::client::watch::lasting;
use tokio_util::sync::CancellationToken;

/// A live copy of every service. Cheap to clone.
#[derive(Clone)]
pub struct Services {
    store: reflector::Store<Service>,
}

impl Services {
    /// Starts watching; ends with the token.
    pub fn watch(client: Client, shutdown: CancellationToken) -> Self {
        let (store, writer) = reflector::store();
        // Only what variables are made of is kept.
        let slim = |service: &mut Service| {
            service.metadata.managed_fields = None;
            service.metadata.annotations = None;
            service.metadata.labels = None;
            service.status = None;
        };
        let stream = lasting(Api::<Service>::all(client), watcher::Config::default())
            .default_backoff()
            .modify(slim)
            .reflect(writer);
        tokio::spawn(async move {
            let drain = stream.for_each(|event| async move {
                if let Err(error) = event {
                    tracing::debug!(%error, "the watch of services was interrupted");
                }
            });
            tokio::select! {
                () = drain => {}
                () = shutdown.cancelled() => {}
            }
        });
        Self { store }
    }

    /// Waits until the first list is complete, at most `limit`; a pod started without it would lack variables.
    pub async fn ready(&self, limit: std::time::Duration) -> bool {
        matches!(tokio::time::timeout(limit, self.store.wait_until_ready()).await, Ok(Ok(())))
    }

    /// The services of a namespace, and the API's own.
    pub fn for_namespace(&self, namespace: &str) -> Vec<Service> {
        let wanted = |s: &Arc<Service>| {
            let own = s.metadata.namespace.as_deref();
            own == Some(namespace)
                || own == Some("default") && s.metadata.name.as_deref() == Some("kubernetes")
        };
        self.store.state().iter().filter(|s| wanted(s)).map(|s| (**s).clone()).collect()
    }
}
