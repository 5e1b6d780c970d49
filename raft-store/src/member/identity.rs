//! Who this member is: decided once, kept in its data directory.

use std::{collections::BTreeMap, fs, io, path::Path};

use openraft::Membership;

use super::{layout::write_durably, membership};
use crate::{
    config::{ClusterState, Config},
    error::Error,
    raft::types::{LogId, MemberId, MemberNode, StoredMembership},
};

const HEADLINE: &str = "quarterdeck-store 1";

/// Cluster and member id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster_id: u64,
    /// The member.
    pub member_id: u64,
}

impl Identity {
    /// What a founder of a new cluster computes from the flags; every founder computes the same.
    pub fn of_founder(config: &Config) -> Result<Self, String> {
        let founders = founders(config);
        let own = founders.iter().find(|(name, ..)| *name == config.name).ok_or_else(|| {
            format!("--initial-cluster does not name this member {:?}; add {0}=<its peer URL>", config.name)
        })?;
        let mut advertised = config.initial_advertise_peer_urls.clone();
        advertised.sort();
        if own.1 != advertised {
            return Err(format!(
                "--initial-cluster has {}={:?} but --initial-advertise-peer-urls is {advertised:?}; make them equal",
                config.name, own.1
            ));
        }
        let ids: Vec<u64> = founders.iter().map(|(.., id)| *id).collect();
        Ok(Self { cluster_id: membership::cluster_id(&ids), member_id: own.2 })
    }

    /// Reads the record, if there is one.
    pub fn load(path: &Path) -> io::Result<Option<Self>> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let damaged = || {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{} is damaged; remove this member's data directory and add it anew", path.display()),
            )
        };
        let lines: Vec<&str> = text.lines().collect();
        let [HEADLINE, cluster, member, checksum] = lines.as_slice() else { return Err(damaged()) };
        let number = |line: &str, name: &str| u64::from_str_radix(line.strip_prefix(name)?.trim(), 16).ok();
        let read = || {
            let identity =
                Self { cluster_id: number(cluster, "cluster ")?, member_id: number(member, "member ")? };
            let expected = number(checksum, "checksum ")?;
            (u64::from(crc32fast::hash(identity.body().as_bytes())) == expected).then_some(identity)
        };
        read().map(Some).ok_or_else(damaged)
    }

    /// Writes the record.
    pub fn store(&self, path: &Path) -> io::Result<()> {
        let body = self.body();
        let checksum = crc32fast::hash(body.as_bytes());
        write_durably(path, format!("{body}checksum {checksum:x}\n").as_bytes())
    }

    fn body(&self) -> String {
        format!("{HEADLINE}\ncluster {:x}\nmember {:x}\n", self.cluster_id, self.member_id)
    }
}

/// The founders: name, sorted peer URLs, id.
pub fn founders(config: &Config) -> Vec<(String, Vec<String>, u64)> {
    let mut founders: Vec<(String, Vec<String>)> = Vec::new();
    for (name, url) in &config.initial_cluster {
        match founders.iter_mut().find(|(known, _)| known == name) {
            Some((_, urls)) => urls.push(url.clone()),
            None => founders.push((name.clone(), vec![url.clone()])),
        }
    }
    let with_id = founders.into_iter().map(|(name, mut urls)| {
        urls.sort();
        let id = membership::member_id(&urls, &config.initial_cluster_token, "");
        (name, urls, id)
    });
    with_id.collect()
}

/// The founders as members.
pub fn founding_members(config: &Config) -> BTreeMap<MemberId, MemberNode> {
    founders(config)
        .into_iter()
        .map(|(name, peer_urls, id)| (id, MemberNode { name, peer_urls, ..MemberNode::default() }))
        .collect()
}

/// The membership at the beginning of a log: where consensus puts it when it is initialized.
pub fn beginning(members: BTreeMap<MemberId, MemberNode>) -> Result<StoredMembership, Error> {
    let voters = vec![members.keys().copied().collect()];
    let membership = Membership::new(voters, members).map_err(Error::internal)?;
    Ok(StoredMembership::new(Some(LogId::new_term_index(0, 0)), membership))
}

/// Whether a missing identity is to be made from the flags or asked for.
pub fn is_founder(config: &Config) -> bool {
    config.initial_cluster_state == ClusterState::New
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_and_damage_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity");
        assert_eq!(Identity::load(&path).unwrap(), None);
        let identity = Identity { cluster_id: 0xc0ffee, member_id: 7 };
        identity.store(&path).unwrap();
        assert_eq!(Identity::load(&path).unwrap(), Some(identity));
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace("member 7", "member 8")).unwrap();
        assert!(Identity::load(&path).is_err());
    }

    #[test]
    fn founders_agree_on_everything() {
        let mut configs: Vec<Config> = (1..=3).map(|_| Config::embedded("/none")).collect();
        let cluster: Vec<(String, String)> =
            (1..=3).map(|n| (format!("m{n}"), format!("http://127.0.0.1:{}", 23800 + n))).collect();
        let mut ids = Vec::new();
        for (at, config) in configs.iter_mut().enumerate() {
            config.name = cluster[at].0.clone();
            config.initial_advertise_peer_urls = vec![cluster[at].1.clone()];
            config.initial_cluster = cluster.clone();
            ids.push(Identity::of_founder(config).unwrap());
        }
        assert!(ids.iter().all(|id| id.cluster_id == ids[0].cluster_id));
        assert!(ids[0].member_id != ids[1].member_id && ids[1].member_id != ids[2].member_id);
    }
}
