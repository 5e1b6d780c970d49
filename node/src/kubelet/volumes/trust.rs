//! Certificates of ClusterTrustBundles as one PEM file: each certificate once, in a fixed order.

use std::collections::BTreeSet;

use k8s_openapi::api::certificates::v1beta1::ClusterTrustBundle;
use k8s_openapi::api::core::v1::ClusterTrustBundleProjection;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::ListParams;
use kube::core::Selector;
use kube::{Api, Client};

/// Reads the bundles a projection names. `None` where there are none and the projection may do without.
pub async fn read(client: &Client, wanted: &ClusterTrustBundleProjection) -> Result<Option<Vec<u8>>, String> {
    let api = Api::<ClusterTrustBundle>::all(client.clone());
    let optional = wanted.optional == Some(true);
    let bundles = match (&wanted.name, &wanted.signer_name) {
        (Some(name), _) => {
            let found = api.get_opt(name).await.map_err(|e| e.to_string())?;
            if found.is_none() && !optional {
                return Err(format!("clustertrustbundle \"{name}\" not found"));
            }
            found.into_iter().collect()
        }
        (None, Some(signer)) => by_signer(&api, signer, wanted.label_selector.as_ref()).await?,
        (None, None) => return Err("either name or signerName must be set".into()),
    };
    if bundles.is_empty() && !optional {
        return Err("combination of signerName and labelSelector matched zero ClusterTrustBundles".into());
    }
    let texts = bundles.iter().map(|b| b.spec.trust_bundle.as_str());
    Ok((!bundles.is_empty()).then(|| join(texts).into_bytes()))
}

async fn by_signer(
    api: &Api<ClusterTrustBundle>,
    signer: &str,
    labels: Option<&LabelSelector>,
) -> Result<Vec<ClusterTrustBundle>, String> {
    // An absent selector matches nothing, an empty one everything.
    let Some(labels) = labels else { return Ok(vec![]) };
    let selector = Selector::try_from(labels.clone()).map_err(|e| e.to_string())?;
    let params = ListParams::default().fields(&format!("spec.signerName={signer}")).labels_from(&selector);
    Ok(api.list(&params).await.map_err(|e| e.to_string())?.items)
}

/// Every certificate of the texts once, without what stands between them.
fn join<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    let mut blocks = BTreeSet::new();
    for text in texts {
        let mut block: Option<String> = None;
        for line in text.lines().map(str::trim_end) {
            if line == "-----BEGIN CERTIFICATE-----" {
                block = Some(String::new());
            }
            if let Some(current) = &mut block {
                current.push_str(line);
                current.push('\n');
            }
            if line == "-----END CERTIFICATE-----" {
                blocks.extend(block.take());
            }
        }
    }
    blocks.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::join;

    #[test]
    fn certificates_appear_once() {
        let certificate =
            |body: &str| format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n");
        let (a, b) = (certificate("AAAA"), certificate("BBBB"));
        let texts = [format!("a note\n{b}\n{a}"), a.clone(), "-----BEGIN CERTIFICATE-----\ncut".into()];
        assert_eq!(join(texts.iter().map(String::as_str)), format!("{a}{b}"));
    }
}
