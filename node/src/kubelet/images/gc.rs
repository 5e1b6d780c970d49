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
use crate::runtime::bundled;

/// An image that may be removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unused {
    /// The runtime's id.
    pub id: String,
    /// Its size, bytes.
    pub size_bytes: u64,
    /// Time since it was used or, if it never was, since it was first seen.
    pub idle: Duration,
    /// A container used it since the agent started.
    pub was_used: bool,
}

/// The images to remove, in order, until `wanted_bytes` are free: never used ones first, then the longest unused.
pub fn choose(mut unused: Vec<Unused>, wanted_bytes: u64, age_min: Duration) -> Vec<Unused> {
    unused.retain(|image| image.idle >= age_min);
    unused.sort_by(|a, b| (a.was_used, b.idle, &a.id).cmp(&(b.was_used, a.idle, &b.id)));
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
        context.images.remove_outdated(context.config.image_gc_max_age).await;
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
        self.remove(choose(unused, wanted_bytes, self.age_min)).await
    }

    /// Removes images that nobody has used for `age_max`; zero keeps all.
    async fn remove_outdated(&self, age_max: Duration) {
        if age_max.is_zero() {
            return;
        }
        match self.unused().await {
            Ok(unused) => {
                self.remove(choose(unused, u64::MAX, age_max)).await;
            }
            Err(error) => tracing::warn!(%error, "images cannot be listed"),
        }
    }

    async fn remove(&self, images: Vec<Unused>) -> u64 {
        let mut freed = 0;
        for image in images {
            let spec = cri::ImageSpec { image: image.id.clone(), ..Default::default() };
            let request = timed(cri::RemoveImageRequest { image: Some(spec) }, CALL_TIMEOUT);
            match self.runtime().images().remove_image(request).await {
                Ok(_) => {
                    tracing::info!(image = image.id, bytes = image.size_bytes, "removed an unused image");
                    self.access.forget(&image.id);
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
        self.note_seen(images.iter().map(|image| image.id.as_str()), now);
        let free = images.into_iter().filter(|image| {
            let names = || image.repo_tags.iter().chain(&image.repo_digests);
            !is_kept(image) && !used.contains(&image.id) && !names().any(|n| used.contains(n))
        });
        let unused = free.map(|image| {
            let (since, was_used) = self.idle_since(&image.id).unwrap_or((now, false));
            Unused { idle: now.duration_since(since), was_used, id: image.id, size_bytes: image.size }
        });
        Ok(unused.collect())
    }
}

/// What sandboxes are made of and what no registry could bring back stays: images the runtime pinned, the agent's own
/// ones, and pause by name where the runtime cannot pin.
fn is_kept(image: &cri::Image) -> bool {
    let mut names = image.repo_tags.iter().chain(&image.repo_digests);
    image.pinned || names.any(|n| bundled::is_own(n) || n.contains("/pause:") || n.contains("/pause@"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_images_stay() {
        for (tag, pinned, kept) in [
            ("registry.quarterdeck.local/web:v1", false, true),
            ("registry.k8s.io/pause:3.10", false, true),
            ("docker.io/library/nginx:1", true, true),
            ("docker.io/library/nginx:1", false, false),
            ("example.com/registry.quarterdeck.local/web:v1", false, false),
        ] {
            let image = cri::Image { repo_tags: vec![tag.to_owned()], pinned, ..Default::default() };
            assert_eq!(is_kept(&image), kept, "{tag}");
        }
    }

    #[test]
    fn the_longest_unused_go_first() {
        let image = |id: &str, size_bytes, idle| Unused {
            id: id.into(),
            size_bytes,
            idle: Duration::from_secs(idle),
            was_used: id != "fresh",
        };
        let all = vec![
            image("young", 9, 10),
            image("old", 5, 1000),
            image("older", 5, 2000),
            image("mid", 5, 500),
            image("fresh", 5, 130),
        ];
        let ids = |wanted| {
            choose(all.clone(), wanted, Duration::from_secs(120))
                .into_iter()
                .map(|u| u.id)
                .collect::<Vec<_>>()
        };
        assert_eq!(ids(6), ["fresh", "older"]);
        assert_eq!(ids(u64::MAX), ["fresh", "older", "old", "mid"]);
        assert!(ids(0).is_empty());
    }

    #[test]
    fn nothing_goes_below_the_high_mark() {
        assert_eq!(bytes_to_free(1000, 160, 85, 80), 0);
        assert_eq!(bytes_to_free(1000, 100, 85, 80), 100);
        assert_eq!(bytes_to_free(0, 0, 85, 80), 0);
    }
}
