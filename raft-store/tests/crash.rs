//! kill -9 under load, again and again, of a lone member and of any of three: whatever was acknowledged is there, and
//! nothing is there twice. `STORE_KILLS=1000 cargo test --release -p raft-store --test crash` kills a thousand times.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use proto::etcdserverpb::{PutRequest, RangeRequest, kv_client::KvClient};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tonic::transport::{Channel, Endpoint};

/// Times a member is killed in one run, without `STORE_KILLS`.
const KILLS: usize = 8;
/// Clients that write at the same time.
const WRITERS: usize = 8;
/// How long the survivors may take to answer again.
const RECOVERY_LIMIT: Duration = Duration::from_secs(60);

fn kills() -> usize {
    std::env::var("STORE_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(KILLS)
}

/// The example that runs a member as a process; cargo builds it beside the tests.
fn binary() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().unwrap().parent().unwrap().join("examples/store")
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

struct Members {
    dir: PathBuf,
    /// Client and peer port of each.
    ports: Vec<(u16, u16)>,
    processes: Vec<Option<Child>>,
}

impl Members {
    fn new(dir: &Path, count: usize) -> Self {
        let ports = (0..count).map(|_| (free_port(), free_port())).collect();
        Self { dir: dir.to_path_buf(), ports, processes: (0..count).map(|_| None).collect() }
    }

    fn start(&mut self, member: usize) {
        let peer_url = |at: usize| format!("http://127.0.0.1:{}", self.ports[at].1);
        let client_url = format!("http://127.0.0.1:{}", self.ports[member].0);
        let cluster: Vec<String> =
            (0..self.ports.len()).map(|at| format!("m{at}={}", peer_url(at))).collect();
        let flags = [
            ("--name", format!("m{member}")),
            ("--data-dir", self.dir.join(member.to_string()).display().to_string()),
            ("--listen-client-urls", client_url.clone()),
            ("--advertise-client-urls", client_url),
            ("--listen-peer-urls", peer_url(member)),
            ("--initial-advertise-peer-urls", peer_url(member)),
            ("--initial-cluster", cluster.join(",")),
            // Often, so that kills hit it, too.
            ("--snapshot-count", "100".to_owned()),
        ];
        let mut command = Command::new(binary());
        for (flag, value) in flags {
            command.arg(flag).arg(value);
        }
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.processes[member] = Some(process.expect("the store example is built"));
    }

    fn kill(&mut self, member: usize) {
        if let Some(mut process) = self.processes[member].take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    fn clients(&self) -> Vec<KvClient<Channel>> {
        let channel = |port| {
            let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}")).unwrap();
            endpoint.connect_timeout(Duration::from_secs(1)).timeout(Duration::from_secs(8)).connect_lazy()
        };
        self.ports.iter().map(|(port, _)| KvClient::new(channel(*port))).collect()
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        (0..self.processes.len()).for_each(|member| self.kill(member));
    }
}

/// Writes 1, 2, 3, … to its own key until an attempt fails or it is told to stop; returns the last number that was
/// acknowledged.
async fn write(mut client: KvClient<Channel>, key: String, mut last: u64, stop: Arc<AtomicBool>) -> u64 {
    while !stop.load(Ordering::Relaxed) {
        let next = (last + 1).to_string();
        let put = PutRequest { key: key.clone().into(), value: next.into(), ..Default::default() };
        match client.put(put).await {
            Ok(_) => last += 1,
            Err(_) => return last,
        }
    }
    last
}

/// Value and version of a key, as soon as a linearizable read is answered.
async fn read(client: &mut KvClient<Channel>, key: &str) -> (u64, i64) {
    let deadline = Instant::now() + RECOVERY_LIMIT;
    let range = RangeRequest { key: key.to_owned().into(), ..Default::default() };
    loop {
        match client.range(range.clone()).await {
            Ok(answer) => {
                let answer = answer.into_inner();
                let Some(kv) = answer.kvs.first() else { return (0, 0) };
                return (String::from_utf8_lossy(&kv.value).parse().unwrap(), kv.version);
            }
            Err(status) => assert!(Instant::now() < deadline, "no answer: {status}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn kill_again_and_again(count: usize) {
    let dir = tempfile::tempdir().unwrap();
    let mut members = Members::new(dir.path(), count);
    (0..count).for_each(|member| members.start(member));
    let mut rng = StdRng::seed_from_u64(count as u64);
    let mut acknowledged = [0_u64; WRITERS];
    let (kills, mut writes) = (kills(), 0);
    for round in 0..kills {
        let clients = members.clients();
        for (number, last) in acknowledged.iter_mut().enumerate() {
            let mut client = clients[rng.random_range(0..count)].clone();
            let (found, version) = read(&mut client, &format!("k{number}")).await;
            // The one write that was under way may have happened, too.
            let may_be = *last..=*last + 1;
            assert!(may_be.contains(&found), "round {round}: {last} was acknowledged, {found} found");
            assert_eq!(found as i64, version, "round {round}: every write was applied exactly once");
            writes += found - *last;
            *last = found;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let mut writers = tokio::task::JoinSet::new();
        for (number, last) in acknowledged.iter().enumerate() {
            let (client, last, stop) = (clients[number % count].clone(), *last, stop.clone());
            writers.spawn(async move { (number, write(client, format!("k{number}"), last, stop).await) });
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(200..700))).await;
        let victim = rng.random_range(0..count);
        members.kill(victim);
        stop.store(true, Ordering::Relaxed);
        for (number, last) in writers.join_all().await {
            writes += last - acknowledged[number];
            acknowledged[number] = last;
        }
        members.start(victim);
    }
    println!(
        "{kills} kills of {count} member(s): {writes} acknowledged writes, none lost, none applied twice"
    );
    assert!(acknowledged.iter().all(|last| *last > 0), "every writer got something through");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_by_a_lone_member_is_lost() {
    kill_again_and_again(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_by_three_members_is_lost() {
    kill_again_and_again(3).await;
}
