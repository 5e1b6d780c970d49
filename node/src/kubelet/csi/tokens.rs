//! Tokens of the pod's account for drivers that act in its name (`CSIDriver.spec.tokenRequests`).

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::storage::v1::CSIDriver;
use serde_json::{Map, Value, json};

use super::registry::Plugins;

/// The entry of a request that holds them, by audience.
const KEY: &str = "csi.storage.k8s.io/serviceAccount.tokens";

impl Plugins {
    /// The entry and whether it belongs among the secrets, not the volume's context; `None` where no tokens are asked for.
    pub(super) async fn account_tokens(
        &self,
        driver: Option<&CSIDriver>,
        pod: &Pod,
    ) -> Result<Option<((String, String), bool)>, String> {
        let Some(spec) = driver.map(|driver| &driver.spec) else { return Ok(None) };
        let mut tokens = Map::new();
        for request in spec.token_requests.iter().flatten() {
            let audience = Some(request.audience.as_str());
            let (token, end) = self.tokens.get_with_end(pod, audience, request.expiration_seconds).await?;
            tokens.insert(
                request.audience.clone(),
                json!({"token": token, "expirationTimestamp": end.to_string()}),
            );
        }
        let in_secrets = spec.service_account_token_in_secrets == Some(true);
        let entry = || ((KEY.to_owned(), Value::Object(tokens.clone()).to_string()), in_secrets);
        Ok((!tokens.is_empty()).then(entry))
    }
}
