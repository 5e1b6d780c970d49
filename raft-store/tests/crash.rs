//! kill -9 under load, again and again, of a lone member and of any of three: whatever was acknowledged is there, and
//! nothing is there twice. `STORE_KILLS=1000 cargo test --release -p raft-store --test crash` kills a thousand times.

use std::{
    collections::{HashMap, HashSet},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures::StreamExt;
use proto::etcdserverpb::{
    PutRequest, RangeRequest, WatchCreateRequest, WatchRequest, kv_client::KvClient,
    watch_client::WatchClient, watch_request::RequestUnion,
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tonic::transport::{Channel, Endpoint};

/// Times a member is killed in one run, without `STORE_KILLS`.
const KILLS: usize = 8;
/// Clients that write at the same time.
const WRITERS: usize = 8;
/// Longer than a member tries on behalf of a client.
const REQUEST_LIMIT: Duration = Duration::from_secs(12);
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

    fn channel(&self, member: usize) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{}", self.ports[member].0)).unwrap();
        endpoint.connect_timeout(Duration::from_secs(1)).timeout(REQUEST_LIMIT).connect_lazy()
    }

    fn clients(&self) -> Vec<KvClient<Channel>> {
        (0..self.ports.len()).map(|member| KvClient::new(self.channel(member))).collect()
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        (0..self.processes.len()).for_each(|member| self.kill(member));
    }
}

/// What one writer has tried: each attempt is a number of its own, and all but the unknown ones were acknowledged.
#[derive(Default)]
struct Attempts {
    count: u64,
    /// Their answers never came: they may have happened, or happen yet.
    unknown: HashSet<u64>,
}

/// Writes number after number to its own key until an attempt fails or it is told to stop.
async fn write(
    mut client: KvClient<Channel>,
    key: String,
    mut attempts: Attempts,
    stop: Arc<AtomicBool>,
) -> Attempts {
    while !stop.load(Ordering::Relaxed) {
        attempts.count += 1;
        let value = attempts.count.to_string().into();
        if client.put(PutRequest { key: key.clone().into(), value, ..Default::default() }).await.is_err() {
            attempts.unknown.insert(attempts.count);
            break;
        }
    }
    attempts
}

/// The revision of a linearizable read, as soon as one is answered.
async fn read(client: &mut KvClient<Channel>) -> i64 {
    let deadline = Instant::now() + RECOVERY_LIMIT;
    let range = RangeRequest { key: "k".into(), ..Default::default() };
    loop {
        match client.range(range.clone()).await {
            Ok(answer) => return answer.into_inner().header.unwrap().revision,
            Err(status) => assert!(Instant::now() < deadline, "no answer: {status}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// How often each number was written to each key, from the whole history.
async fn history(channel: Channel, upto: i64) -> Vec<HashMap<u64, u32>> {
    let create = WatchCreateRequest {
        key: "k".into(),
        range_end: "l".into(),
        start_revision: 1,
        ..WatchCreateRequest::default()
    };
    let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    let requests = futures::stream::iter([request]).chain(futures::stream::pending());
    let mut answers = WatchClient::new(channel).watch(requests).await.unwrap().into_inner();
    let mut written = vec![HashMap::new(); WRITERS];
    let mut seen = 1;
    while seen < upto {
        for event in answers.message().await.unwrap().unwrap().events {
            let kv = event.kv.unwrap();
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let writer: usize = text(&kv.key[1..]).parse().unwrap();
            *written[writer].entry(text(&kv.value).parse().unwrap()).or_default() += 1;
            seen = kv.mod_revision;
        }
    }
    written
}

/// Every acknowledged write happened once, and every other at most once.
fn check(writer: usize, attempts: &Attempts, written: &HashMap<u64, u32>) {
    for number in 1..=attempts.count {
        let times = written.get(&number).copied().unwrap_or(0);
        let unknown = attempts.unknown.contains(&number);
        assert!(
            times == 1 || unknown && times == 0,
            "writer {writer}: {number} ({unknown}) was written {times} times"
        );
    }
    assert!(
        written.keys().all(|number| *number <= attempts.count),
        "writer {writer}: nothing else was written"
    );
}

async fn kill_again_and_again(count: usize) {
    let dir = tempfile::tempdir().unwrap();
    let mut members = Members::new(dir.path(), count);
    (0..count).for_each(|member| members.start(member));
    let mut rng = StdRng::seed_from_u64(count as u64);
    let mut attempts: Vec<Attempts> = (0..WRITERS).map(|_| Attempts::default()).collect();
    for round in 0..kills() {
        if round > 0 && round.is_multiple_of(50) {
            println!("{round} kills of {count} member(s) so far");
        }
        let clients = members.clients();
        read(&mut clients[rng.random_range(0..count)].clone()).await;
        let stop = Arc::new(AtomicBool::new(false));
        let mut writers = tokio::task::JoinSet::new();
        for (number, attempts) in std::mem::take(&mut attempts).into_iter().enumerate() {
            let (client, stop) = (clients[number % count].clone(), stop.clone());
            writers.spawn(async move { (number, write(client, format!("k{number}"), attempts, stop).await) });
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(200..700))).await;
        let victim = rng.random_range(0..count);
        members.kill(victim);
        stop.store(true, Ordering::Relaxed);
        let mut done = writers.join_all().await;
        done.sort_by_key(|(number, _)| *number);
        attempts = done.into_iter().map(|(_, attempts)| attempts).collect();
        members.start(victim);
    }
    let revision = read(&mut members.clients()[0]).await;
    let written = history(members.channel(0), revision).await;
    for (writer, (attempts, written)) in attempts.iter().zip(&written).enumerate() {
        check(writer, attempts, written);
    }
    let sum: u64 = attempts.iter().map(|attempts| attempts.count).sum();
    let unknown: usize = attempts.iter().map(|attempts| attempts.unknown.len()).sum();
    println!(
        "{} kills of {count} member(s): {sum} writes, {unknown} unanswered, none lost, none twice",
        kills()
    );
    assert!(sum > WRITERS as u64, "writes got through");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_by_a_lone_member_is_lost() {
    kill_again_and_again(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_by_three_members_is_lost() {
    kill_again_and_again(3).await;
}
