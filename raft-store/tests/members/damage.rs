//! Files that are damaged: found, named, never served, and mended from the peers.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use proto::etcdserverpb::{MemberAddRequest, MemberListRequest, MemberRemoveRequest, RangeRequest};
use raft_store::{ClusterState, Config, Error, Member, StartError};

use crate::harness::{Cluster, POLLS, config, count, free_url, put};

const KEYS: i64 = 400;

/// Files under a folder whose names end so, largest first.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found: Vec<(u64, PathBuf)> = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let (path, data) = (entry.path(), entry.metadata().unwrap());
            if data.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(ending) {
                found.push((data.len(), path));
            }
        }
    }
    found.sort();
    found.into_iter().rev().map(|(_, path)| path).collect()
}

fn flip_in_the_middle(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    // Where the entries are, not the index behind them.
    let at = bytes.len() / 3;
    bytes[at] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

fn cut_in_half(path: &Path) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}

/// A member that has written `KEYS` keys and stopped.
async fn stopped_member() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let member = Member::start(Config::embedded(dir.path())).await.unwrap();
    for number in 0..KEYS {
        member.put(put(format!("{number:04}"), &"value".repeat(200))).await.unwrap();
    }
    member.shutdown().await;
    dir
}

/// A member on damaged files either refuses to start, or refuses to answer; it never gives a wrong answer.
async fn start_and_read(dir: &Path) -> Result<(), String> {
    let member = Member::start(Config::embedded(dir)).await.map_err(|error| error.to_string())?;
    let all = RangeRequest {
        key: vec![0].into(),
        range_end: vec![0].into(),
        serializable: true,
        ..RangeRequest::default()
    };
    let answer = member.range(all).await;
    member.shutdown().await;
    let answer = answer.map_err(|error| error.to_string())?;
    assert_eq!(answer.count, KEYS, "what is answered is right");
    assert!(answer.kvs.iter().all(|kv| kv.value == "value".repeat(200)));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_and_a_cut_file_are_found_and_named() {
    start_and_read(stopped_member().await.path()).await.expect("undamaged files are read");
    type Harm = fn(&Path);
    let cases: [(&str, &str, Harm); 5] = [
        ("state-1", ".sst", flip_in_the_middle),
        ("state-1", ".sst", cut_in_half),
        ("log", ".log", flip_in_the_middle),
        ("state-1", "CURRENT", cut_in_half),
        ("log", "CURRENT", cut_in_half),
    ];
    for (folder, ending, harm) in cases {
        let dir = stopped_member().await;
        let folder = dir.path().join("member").join(folder);
        harm(files(&folder, ending).first().unwrap_or_else(|| panic!("a {ending} in {}", folder.display())));
        let refused = start_and_read(dir.path()).await;
        let message = refused.expect_err(&format!("{ending} in {} is damaged", folder.display()));
        let names_it = message.contains("member/") || message.contains(".sst");
        assert!(names_it, "the message says where: {message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_ends_before_what_was_applied_from_it_is_refused() {
    let dir = stopped_member().await;
    let log = dir.path().join("member/log");
    // What was written last is gone without a trace: no checksum tells.
    fs::remove_dir_all(&log).unwrap();
    let refused = start_and_read(dir.path()).await.expect_err("the log is lost");
    assert!(refused.contains(&log.display().to_string()), "{refused}");
    assert!(refused.contains("the end of the log is lost"), "{refused}");
    let forced = Config { force_new_cluster: true, ..Config::embedded(dir.path()) };
    let member = Member::start(forced).await.expect("with what is left, when told to");
    assert_eq!(count(&member, false).await, KEYS);
    member.shutdown().await;
    start_and_read(dir.path()).await.expect("from then on as ever");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_lost_its_files_is_rebuilt_from_its_peers() {
    let mut cluster = Cluster::start(3).await;
    for number in 0..300 {
        cluster.running()[0].put(put(format!("{number:04}"), "value")).await.unwrap();
    }
    let leader = cluster.leader().await;
    let broken = (leader + 1) % 3;
    let id = cluster.members[broken].as_ref().unwrap().id();
    cluster.stop_member(broken).await;
    fs::remove_dir_all(cluster.dirs[broken].path().join("member")).unwrap();
    let leading = cluster.members[leader].clone().unwrap();
    leading.member_remove(MemberRemoveRequest { id }).await.unwrap();
    let peer_ur_ls = vec![cluster.names[broken].1.clone()];
    leading.member_add(MemberAddRequest { peer_ur_ls, is_learner: false }).await.unwrap();
    let name = cluster.names[broken].0.clone();
    let joining = Config {
        initial_cluster_state: ClusterState::Existing,
        ..config(&name, cluster.dirs[broken].path(), &cluster.names)
    };
    let rebuilt = Member::start(joining).await.unwrap();
    for _ in 0..POLLS {
        if count(&rebuilt, true).await == 300 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    leading.put(put("after".into(), "x")).await.unwrap();
    for _ in 0..POLLS {
        if rebuilt.read_barrier().await.is_ok() && count(&rebuilt, true).await == 301 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(rebuilt.hash_kv(0).await.unwrap().hash, leading.hash_kv(0).await.unwrap().hash);
    cluster.members[broken] = Some(rebuilt);
    drop(leading);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_lost_its_files_does_not_come_back_as_if_it_were_new() {
    let mut cluster = Cluster::start(3).await;
    let clients = free_url();
    let config = Config {
        listen_client_urls: vec![clients.clone()],
        advertise_client_urls: vec![clients],
        ..config(&cluster.names[1].0, cluster.dirs[1].path(), &cluster.names)
    };
    cluster.stop_member(1).await;
    let lost = Member::start(config.clone()).await.expect("with its files it comes back");
    let id = lost.id();
    let other = cluster.members[0].clone().unwrap();
    let knows = async || {
        let list = other.member_list(MemberListRequest { linearizable: false }).await.unwrap();
        list.members.iter().any(|member| member.id == id && !member.client_ur_ls.is_empty())
    };
    for _ in 0..POLLS {
        if knows().await {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    lost.shutdown().await;
    drop(lost);
    fs::remove_dir_all(cluster.dirs[1].path().join("member")).unwrap();
    let refused = Member::start(config).await.err().expect("what it promised is forgotten");
    assert!(refused.to_string().contains("has already been bootstrapped"), "{refused}");
    drop(other);
    cluster.stop().await;
}

/// Changes a value in a stopped member's state behind its back, with all checksums right.
fn forge(dir: &Path) {
    let path = dir.join("member/state-1");
    let mut options = rocksdb::Options::default();
    let families = rocksdb::DB::list_cf(&options, &path).unwrap();
    options.set_atomic_flush(true);
    let db = rocksdb::DB::open_cf(&options, &path, families).unwrap();
    let events = db.cf_handle("events").unwrap();
    let (key, value) = db.iterator_cf(events, rocksdb::IteratorMode::Start).next().unwrap().unwrap();
    let mut forged = value.to_vec();
    *forged.last_mut().unwrap() ^= 1;
    db.put_cf(events, key, forged).unwrap();
    db.flush_cf(events).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn members_that_differ_raise_corrupt_and_refuse_writes() {
    let mut cluster = Cluster::start(3).await;
    cluster.running()[0].put(put("a".into(), "value")).await.unwrap();
    for at in 0..3 {
        cluster.stop_member(at).await;
    }
    forge(cluster.dirs[1].path());
    for at in 0..3 {
        let config = Config {
            corrupt_check_interval: Duration::from_millis(500),
            ..config(&cluster.names[at].0, cluster.dirs[at].path(), &cluster.names)
        };
        cluster.members[at] = Some(Member::start(config).await.unwrap());
    }
    cluster.leader().await;
    let mut refused = None;
    for number in 0..POLLS {
        match cluster.running()[0].put(put(format!("{number}"), "x")).await {
            Err(error) if error == Error::CORRUPT => {
                refused = Some(error);
                break;
            }
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    assert_eq!(refused, Some(Error::CORRUPT));
    let errors = cluster.running()[0].status().await.unwrap().errors;
    assert!(errors.iter().any(|error| error.contains("CORRUPT")), "{errors:?}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_to_compare_first_does_not_serve_other_data() {
    let mut cluster = Cluster::start(3).await;
    cluster.running()[0].put(put("a".into(), "value")).await.unwrap();
    for member in cluster.running() {
        member.read_barrier().await.unwrap();
    }
    cluster.stop_member(1).await;
    let compares = |dir: &Path| Config {
        initial_corrupt_check: true,
        ..config(&cluster.names[1].0, dir, &cluster.names)
    };
    let intact = Member::start(compares(cluster.dirs[1].path())).await.expect("what is the same is served");
    intact.shutdown().await;
    drop(intact);
    forge(cluster.dirs[1].path());
    let refused = Member::start(compares(cluster.dirs[1].path())).await;
    assert!(matches!(refused.err(), Some(StartError::Differs { .. })));
    cluster.stop().await;
}
