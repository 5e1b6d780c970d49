//! kill -9 under load, again and again: whatever was acknowledged is there, and nothing is there twice.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use proto::etcdserverpb::{PutRequest, RangeRequest, kv_client::KvClient};
use tonic::transport::{Channel, Endpoint};

/// Times the member is killed in one run; the bench's harness repeats it.
const KILLS: usize = 8;
/// Clients that write at the same time.
const WRITERS: usize = 8;

/// The example that runs a member as a process; cargo builds it beside the tests.
fn binary() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().unwrap().parent().unwrap().join("examples/store")
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn start(dir: &Path, client: u16, peer: u16) -> Child {
    let peer_url = format!("http://127.0.0.1:{peer}");
    let client_url = format!("http://127.0.0.1:{client}");
    let flags = [
        ("--data-dir", dir.display().to_string()),
        ("--listen-client-urls", client_url.clone()),
        ("--advertise-client-urls", client_url),
        ("--listen-peer-urls", peer_url.clone()),
        ("--initial-advertise-peer-urls", peer_url.clone()),
        ("--initial-cluster", format!("default={peer_url}")),
        ("--snapshot-count", "100".to_owned()),
    ];
    let mut command = Command::new(binary());
    for (flag, value) in flags {
        command.arg(flag).arg(value);
    }
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the store example is built")
}

async fn connect(port: u16) -> KvClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}")).unwrap();
    for _ in 0..200 {
        if let Ok(channel) = endpoint.connect().await {
            return KvClient::new(channel);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the member does not come up")
}

/// Writes 1, 2, 3, … to its own key until the member dies; returns the last number that was acknowledged.
async fn write(mut client: KvClient<Channel>, key: String, mut last: u64) -> u64 {
    loop {
        let next = (last + 1).to_string();
        let put = PutRequest { key: key.clone().into(), value: next.into(), ..Default::default() };
        match client.put(put).await {
            Ok(_) => last += 1,
            Err(_) => return last,
        }
    }
}

async fn read(client: &mut KvClient<Channel>, key: &str) -> (u64, i64) {
    let range = RangeRequest { key: key.to_owned().into(), ..Default::default() };
    let answer = client.range(range).await.unwrap().into_inner();
    let Some(kv) = answer.kvs.first() else { return (0, 0) };
    (String::from_utf8_lossy(&kv.value).parse().unwrap(), kv.version)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let (client_port, peer_port) = (free_port(), free_port());
    let mut acknowledged = [0_u64; WRITERS];
    for round in 0..KILLS {
        let mut process = start(dir.path(), client_port, peer_port);
        let mut client = connect(client_port).await;
        for (number, last) in acknowledged.iter_mut().enumerate() {
            let (found, version) = read(&mut client, &format!("k{number}")).await;
            // The one write that was under way may have happened, too.
            assert!(
                found == *last || found == *last + 1,
                "round {round}: {last} was acknowledged, {found} found"
            );
            assert_eq!(found as i64, version, "round {round}: every write was applied exactly once");
            *last = found;
        }
        let mut writers = tokio::task::JoinSet::new();
        for (number, last) in acknowledged.iter().enumerate() {
            let (client, last) = (client.clone(), *last);
            writers.spawn(async move { (number, write(client, format!("k{number}"), last).await) });
        }
        tokio::time::sleep(Duration::from_millis(300 + 70 * round as u64)).await;
        process.kill().unwrap();
        process.wait().unwrap();
        for (number, last) in writers.join_all().await {
            acknowledged[number] = last;
        }
    }
    assert!(acknowledged.iter().all(|last| *last > 0), "every writer got something through");
}
