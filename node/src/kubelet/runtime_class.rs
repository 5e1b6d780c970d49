//! Runtime classes: which handler of the runtime a pod wants.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::node::v1::RuntimeClass;
use kube::{Api, Client};
use parking_lot::Mutex;

/// How long a class is taken for current; classes are immutable in what matters.
const FRESH: Duration = Duration::from_secs(60);

/// Looks up handlers.
pub struct RuntimeClasses {
    client: Client,
    known: Mutex<HashMap<String, (String, Instant)>>,
}

impl RuntimeClasses {
    /// None known yet.
    pub fn new(client: Client) -> Self {
        Self { client, known: Mutex::default() }
    }

    /// The handler of a class; the default one without a class. The error is shown to the user.
    pub async fn handler(&self, class: Option<&str>) -> Result<String, String> {
        let Some(class) = class.filter(|c| !c.is_empty()) else { return Ok(String::new()) };
        let known = self.known.lock().get(class).cloned();
        if let Some((handler, _)) = known.as_ref().filter(|(_, at)| at.elapsed() < FRESH) {
            return Ok(handler.clone());
        }
        let found = Api::<RuntimeClass>::all(self.client.clone()).get_opt(class).await;
        match found {
            Ok(Some(found)) => {
                self.known.lock().insert(class.to_owned(), (found.handler.clone(), Instant::now()));
                Ok(found.handler)
            }
            Ok(None) => Err(format!("failed to get sandbox runtime: RuntimeClass \"{class}\" not found")),
            // While the API is away, what was last known stands.
            Err(error) => known
                .map(|(handler, _)| handler)
                .ok_or_else(|| format!("failed to get sandbox runtime: {error}")),
        }
    }
}
