//! kill -9 under load, again and again, of a lone member and of any of three: whatever was acknowledged is there, and
//! nothing is there twice. `STORE_KILLS=1000 cargo test --release -p raft-store --test crash again` kills a thousand
//! times; `STORE_SEED` chooses other moments and victims.

mod leases;
mod members;
#[path = "../common/ports.rs"]
mod ports;
mod successor;
mod torn;

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures::StreamExt;
use members::Members;
use proto::etcdserverpb::{
    PutRequest, RangeRequest, WatchCreateRequest, WatchRequest, kv_client::KvClient,
    watch_client::WatchClient, watch_request::RequestUnion,
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tonic::transport::Channel;

/// Times a member is killed in one run, without `STORE_KILLS`.
const KILLS: usize = 8;
/// Clients that write at the same time.
const WRITERS: usize = 8;
/// How long the survivors may take to answer again.
const RECOVERY_LIMIT: Duration = Duration::from_secs(60);

fn number(variable: &str) -> Option<usize> {
    std::env::var(variable).ok().and_then(|text| text.parse().ok())
}

fn kills() -> usize {
    number("STORE_KILLS").unwrap_or(KILLS)
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
    let seed = number("STORE_SEED").unwrap_or(count) as u64;
    let mut rng = StdRng::seed_from_u64(seed);
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
        "{} kills of {count} member(s), seed {seed}: {sum} writes, {unknown} unanswered, none lost, none twice",
        kills()
    );
    assert!(sum > WRITERS as u64, "writes got through");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_again_and_again_a_lone_member_loses_nothing() {
    kill_again_and_again(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_again_and_again_three_members_lose_nothing() {
    kill_again_and_again(3).await;
}
