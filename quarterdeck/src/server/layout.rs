//! What lies where in a server's data directory, and whose data it is.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::failure::{At, Failure, Result};
use crate::pki::files::{read_text, write_private};

/// Grows when the layout changes; a newer number than this is refused.
const LAYOUT_VERSION: u32 = 1;

/// What a server remembers between starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pub layout_version: u32,
    /// Random, made by `--init`; equal on all servers of a cluster.
    pub cluster_id: String,
    pub name: String,
    pub cluster_cidr: String,
    pub service_cidr: String,
    pub cluster_domain: String,
    /// The secret of server join tokens.
    pub server_secret: String,
    /// `name=https://…` of all members at the time this one started, in etcd's notation.
    pub initial_cluster: String,
    /// `new` for the first server, `existing` for the others.
    pub initial_cluster_state: String,
    /// Where this server was reached at its last start; commands on this machine use it.
    #[serde(default)]
    pub reached_at: Addresses,
    /// All servers that were known when this one last looked, itself among them.
    #[serde(default)]
    pub servers: BTreeMap<String, Addresses>,
    /// The member was taken out of the cluster: this directory is of no more use.
    #[serde(default)]
    pub removed: bool,
}

/// A server's addresses as other machines see them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// `https://…` of the Kubernetes API.
    pub api_url: String,
    /// `https://…` of the store's etcd v3 API.
    pub store_url: String,
    /// `host:port` of the join service.
    pub join: String,
    /// The version that runs there.
    #[serde(default)]
    pub version: String,
}

impl State {
    pub fn new(name: &str) -> Self {
        State {
            layout_version: LAYOUT_VERSION,
            cluster_id: crate::token::random_word(16),
            name: name.to_owned(),
            cluster_cidr: String::new(),
            service_cidr: String::new(),
            cluster_domain: String::new(),
            server_secret: crate::token::random_word(32),
            initial_cluster: String::new(),
            initial_cluster_state: String::new(),
            reached_at: Addresses::default(),
            servers: BTreeMap::new(),
            removed: false,
        }
    }

    /// This server first, then the others.
    pub fn everywhere(&self) -> impl Iterator<Item = (&str, &Addresses)> {
        let others = self.servers.iter().filter(|(name, _)| **name != self.name);
        std::iter::once((&self.name, &self.reached_at)).chain(others).map(|(name, at)| (name.as_str(), at))
    }
}

/// The paths of a data directory.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    pub fn new(root: &Path) -> Self {
        Layout { root: root.to_owned() }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn pki(&self) -> PathBuf {
        self.root.join("pki")
    }

    pub fn pki_file(&self, name: &str) -> PathBuf {
        self.pki().join(name)
    }

    pub fn store(&self) -> PathBuf {
        self.root.join("store")
    }

    /// Keeps others out of the store's folder, should it be there from a time when it was open to them.
    pub fn close_store(&self) -> Result<()> {
        let store = self.store();
        match std::fs::set_permissions(&store, Permissions::from_mode(0o700)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).at("close", &store),
            _ => Ok(()),
        }
    }

    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.root.join("admin.kubeconfig")
    }

    pub fn kubeconfig(&self, user: &str) -> PathBuf {
        self.root.join(format!("{user}.kubeconfig"))
    }

    pub fn token(&self, role: &str) -> PathBuf {
        self.root.join(format!("{role}.token"))
    }

    fn state(&self) -> PathBuf {
        self.root.join("state.json")
    }

    /// The state, or `None` where no server has lived yet. A store without a state belongs to a server all the same: to
    /// start one there anew would take its cluster's authorities away.
    pub fn load(&self) -> Result<Option<State>> {
        let path = self.state();
        if !path.try_exists().at("look for", &path)? {
            // A folder may be there before, as where a disk is mounted; a member makes this one.
            let store = self.store().join("member");
            if !store.try_exists().at("look for", &store)? {
                return Ok(None);
            }
            return Err(Failure::new(format!(
                "{} holds a server's data, but {} is missing",
                store.display(),
                path.display()
            ))
            .mend("bring the file back from a backup, or empty the data directory and join again"));
        }
        let broken = |what: String| {
            Failure::new(format!("{}: {what}", path.display()))
                .mend("restore the file from a backup, or empty the data directory and join again")
        };
        let value: serde_json::Value =
            serde_json::from_str(&read_text(&path)?).map_err(|error| broken(error.to_string()))?;
        match value["layout_version"].as_u64() {
            Some(version) if version > u64::from(LAYOUT_VERSION) => Err(Failure::new(format!(
                "{} was written by a newer quarterdeck (layout {version})",
                path.display()
            ))
            .mend("start the newer version")),
            _ => serde_json::from_value(value).map(Some).map_err(|error| broken(error.to_string())),
        }
    }

    /// Written last when a server comes to be: a directory without it is not yet a server.
    pub fn save(&self, state: &State) -> Result<()> {
        write_private(&self.state(), &serde_json::to_vec_pretty(state)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_is_remembered_and_a_newer_layout_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let layout = Layout::new(dir.path());
        assert_eq!(layout.load().expect("nothing yet"), None);
        let state = State::new("s1");
        layout.save(&state).expect("saved");
        assert_eq!(layout.load().expect("a state"), Some(state));
        std::fs::write(dir.path().join("state.json"), r#"{"layout_version": 2}"#).expect("written");
        assert!(layout.load().expect_err("newer").to_string().contains("newer quarterdeck"));
        std::fs::write(dir.path().join("state.json"), "{").expect("written");
        assert!(layout.load().expect_err("rubbish").to_string().contains("state.json"));
    }

    #[test]
    fn a_server_that_lost_its_state_is_not_taken_for_an_empty_directory() {
        let dir = tempfile::tempdir().expect("a folder");
        let layout = Layout::new(dir.path());
        std::fs::create_dir(layout.store()).expect("a folder for the store");
        assert_eq!(layout.load().expect("nothing yet"), None);
        std::fs::create_dir(layout.store().join("member")).expect("a member");
        let failure = layout.load().expect_err("a store without a state").to_string();
        assert!(failure.contains("state.json is missing"), "{failure}");
        // Nor is one that cannot be looked at.
        let within = Layout::new(&dir.path().join("x".repeat(300)));
        assert!(within.load().is_err());
    }
}
