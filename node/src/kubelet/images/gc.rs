//! Removes images that no container uses, the longest unused first, when the disk runs full.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::cri;
use tokio_util::sync::CancellationToken;

use super::manager::Images;
use crate::kubelet::cri::client::{CALL_TIMEOUT, timed};
use crate::kubelet::node::facts;
use crate::kubelet::worker::Pool;

/// An image is left alone for this long after it was used last.
const AGE_MIN: Duration = Duration::from_secs(120);

/// An image that may be removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unused {
    /// The runtime's id.
    pub id: String,
    /// Its size, bytes.
    pub size_bytes: u64,
    /// Time since it was used; unknown counts as for ever.
    pub idle: Duration,
}

/// The images to remove, in order, until `wanted_bytes` are free.
pub fn choose(mut unused: Vec<Unused>, wanted_bytes: u64) -> Vec<Unused> {
    unused.retain(|image| image.idle >= AGE_MIN);
    unused.sort_by(|a, b| (b.idle, &a.id).cmp(&(a.idle, &b.id)));
    let mut freed = 0_u64;
    unused
        .into_iter()
        .take_while(|image| {
            let more = freed < wanted_bytes;
            freed = freed.saturating_add(image.size_bytes);
            more
        })
        .collect()
}

/// How often the disk is looked at.
const PERIOD: Duration = Duration::from_secs(300);

/// Keeps the disk below the configured use until the token fires.
pub async fn run(pool: Arc<Pool>, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(PERIOD) => {}
            () = shutdown.cancelled() => return,
        }
        let context = pool.context();
        let (high, low) = (context.config.image_gc_high_percent, context.config.image_gc_low_percent);
        let Some((capacity, free, ..)) = facts::disk(&context.config.root_dir) else { continue };
        let wanted = bytes_to_free(capacity, free, high, low);
        if wanted > 0 && context.images.collect(wanted).await < wanted {
            let message = format!(
                "Failed to garbage collect required amount of images. Attempted to free {wanted} bytes"
            );
            context.recorder.node(true, "FreeDiskSpaceFailed", message);
        }
    }
}

/// How much must go when the disk is used beyond `high` percent: down to `low` percent.
fn bytes_to_free(capacity: u64, free: u64, high: u8, low: u8) -> u64 {
    let used = u128::from(capacity.saturating_sub(free));
    if capacity == 0 || used * 100 < u128::from(capacity) * u128::from(high) {
        return 0;
    }
    u64::try_from(used.saturating_sub(u128::from(capacity) * u128::from(low) / 100)).unwrap_or(u64::MAX)
}

impl Images {
    /// Removes unused images until `wanted_bytes` are free; the bytes freed.
    pub async fn collect(&self, wanted_bytes: u64) -> u64 {
        let unused = match self.unused().await {
            Ok(unused) => unused,
            Err(error) => {
                tracing::warn!(%error, "images cannot be listed");
                return 0;
            }
        };
        let mut freed = 0;
        for image in choose(unused, wanted_bytes) {
            let spec = cri::ImageSpec { image: image.id.clone(), ..Default::default() };
            let request = timed(cri::RemoveImageRequest { image: Some(spec) }, CALL_TIMEOUT);
            match self.runtime().images().remove_image(request).await {
                Ok(_) => {
                    tracing::info!(image = image.id, bytes = image.size_bytes, "removed an unused image");
                    freed += image.size_bytes;
                }
                Err(error) => tracing::warn!(%error, image = image.id, "an image cannot be removed"),
            }
        }
        freed
    }

    async fn unused(&self) -> Result<Vec<Unused>, crate::kubelet::cri::CriError> {
        let request = timed(cri::ListImagesRequest { filter: None }, CALL_TIMEOUT);
        let images = self.runtime().images().list_images(request).await?.into_inner().images;
        let containers = self.runtime().list_containers(None).await?;
        let used: BTreeSet<String> = containers
            .into_iter()
            .flat_map(|c| [c.image_ref, c.image_id, c.image.map(|i| i.image).unwrap_or_default()])
            .collect();
        let now = Instant::now();
        let free = images.into_iter().filter(|image| {
            let names = || image.repo_tags.iter().chain(&image.repo_digests);
            // The runtime keeps what sandboxes are made of: pinned, or pause by name where it cannot pin.
            let pause = names().any(|n| n.contains("/pause:") || n.contains("/pause@"));
            !image.pinned && !pause && !used.contains(&image.id) && !names().any(|n| used.contains(n))
        });
        let unused = free.map(|image| Unused {
            idle: self.last_used(&image.id).map_or(Duration::MAX, |at| now.duration_since(at)),
            id: image.id,
            size_bytes: image.size,
        });
        Ok(unused.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_unused_go_first() {
        let image = |id: &str, size_bytes, idle| Unused {
            id: id.into(),
            size_bytes,
            idle: Duration::from_secs(idle),
        };
        let all =
            vec![image("young", 9, 10), image("old", 5, 1000), image("older", 5, 2000), image("mid", 5, 500)];
        let ids = |wanted| choose(all.clone(), wanted).into_iter().map(|u| u.id).collect::<Vec<_>>();
        assert_eq!(ids(6), ["older", "old"]);
        assert_eq!(ids(u64::MAX), ["older", "old", "mid"]);
        assert!(ids(0).is_empty());
    }

    #[test]
    fn nothing_goes_below_the_high_mark() {
        assert_eq!(bytes_to_free(1000, 160, 85, 80), 0);
        assert_eq!(bytes_to_free(1000, 100, 85, 80), 100);
        assert_eq!(bytes_to_free(0, 0, 85, 80), 0);
    }
}
