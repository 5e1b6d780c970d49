//! Which pods may use an image that is there: one that came with a pull secret is for those that could have pulled it
//! themselves. As upstream has it by default, what nobody pulled through this agent and what came without a secret is for
//! all.
//!
//! Owns one file, which holds no secrets, only their digests, and is replaced as a whole at each change. Without it, or
//! where it cannot be read, images are for all, as if they had been put there before.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::PathBuf;

use parking_lot::Mutex;
use proto::cri::{AuthConfig, Image};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::names::registry_and_path;
use crate::whole_file;

/// To whom an image is open under one name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Grant {
    /// It came without a secret once.
    everyone: bool,
    /// Digests of the secrets it came with.
    secrets: BTreeSet<String>,
}

/// By image id and repository.
type Grants = BTreeMap<String, BTreeMap<String, Grant>>;

/// What is known of the images that were pulled.
pub struct Access {
    path: PathBuf,
    grants: Mutex<Grants>,
}

fn repository(image: &str) -> String {
    let (registry, path) = registry_and_path(image);
    format!("{registry}/{path}")
}

fn digest(auth: &AuthConfig) -> String {
    let mut hash = Sha256::new();
    for part in [&auth.username, &auth.password, &auth.identity_token, &auth.registry_token] {
        hash.update(part.len().to_le_bytes());
        hash.update(part.as_bytes());
    }
    hex::encode(hash.finalize())
}

impl Access {
    /// Reads the file.
    pub fn open(path: PathBuf) -> Self {
        let grants = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(%error, path = %path.display(), "who may use which image is not known any more");
                Grants::new()
            }),
            Err(_) => Grants::new(),
        };
        Self { path, grants: Mutex::new(grants) }
    }

    /// True if a pod with these pull secrets may use what is there under the name `image`.
    pub fn allows(&self, image: &str, found: &Image, secrets: &[AuthConfig]) -> bool {
        let grants = self.grants.lock();
        let Some(of_image) = grants.get(&found.id) else { return true };
        let wanted = repository(image);
        match of_image.get(&wanted) {
            Some(grant) => grant.everyone || secrets.iter().any(|s| grant.secrets.contains(&digest(s))),
            // Put there under this very name; a bare id is nobody's name.
            None => found.repo_tags.iter().chain(&found.repo_digests).any(|name| repository(name) == wanted),
        }
    }

    /// Notes that the image came, with this pull secret or without one.
    pub fn note(&self, image: &str, id: &str, secret: Option<&AuthConfig>) {
        let mut grants = self.grants.lock();
        let grant = grants.entry(id.to_owned()).or_default().entry(repository(image)).or_default();
        let is_new = match secret {
            Some(secret) => grant.secrets.insert(digest(secret)),
            None => !std::mem::replace(&mut grant.everyone, true),
        };
        if is_new {
            self.save(&grants);
        }
    }

    /// Forgets an image that was removed.
    pub fn forget(&self, id: &str) {
        let mut grants = self.grants.lock();
        if grants.remove(id).is_some() {
            self.save(&grants);
        }
    }

    fn save(&self, grants: &Grants) {
        let text = serde_json::to_vec(grants).map_err(io::Error::other);
        let done = text.and_then(|text| whole_file::replace(&self.path, &text));
        if let Err(error) = done {
            tracing::warn!(%error, path = %self.path.display(), "who may use which image is not kept");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_with_a_secret_is_for_those_who_have_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("access.json");
        let auth = |password: &str| AuthConfig { password: password.to_owned(), ..Default::default() };
        let image = |id: &str, tag: &str| Image {
            id: id.to_owned(),
            repo_tags: vec![tag.to_owned()],
            ..Default::default()
        };
        let private = image("a", "reg.io/private:1");
        let access = Access::open(path.clone());
        assert!(access.allows("reg.io/private:1", &private, &[]), "nobody pulled it");
        access.note("reg.io/private:1", "a", Some(&auth("right")));
        access.note("reg.io/public:1", "b", None);
        // Another agent reads what this one wrote.
        for access in [access, Access::open(path.clone())] {
            let check = |name: &str, found: &Image, secrets: &[AuthConfig], expected: bool| {
                assert_eq!(access.allows(name, found, secrets), expected, "{name} {secrets:?}");
            };
            check("reg.io/private:1", &private, &[], false);
            check("reg.io/private@sha256:ab", &private, &[auth("wrong")], false);
            check("reg.io/private:2", &private, &[auth("wrong"), auth("right")], true);
            check("sha256:a", &private, &[], false);
            check("reg.io/public:1", &image("b", "reg.io/public:1"), &[], true);
            // The same image was put there under another name.
            check("localhost/mine:1", &image("a", "localhost/mine:1"), &[], true);
        }
        let access = Access::open(path.clone());
        access.note("reg.io/private:1", "a", None);
        assert!(access.allows("reg.io/private:1", &private, &[]), "it came without a secret since");
        access.forget("a");
        fs::write(&path, "{").expect("written");
        assert!(Access::open(path).allows("reg.io/public:1", &image("b", "x"), &[]), "nothing is known");
    }
}
