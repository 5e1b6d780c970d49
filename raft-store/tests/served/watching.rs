//! Watches as their clients see them: pieces of large messages, filters, progress, cancelling, compacted history; and
//! transactions within transactions.

use std::time::Duration;

use proto::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, PutRequest, RequestOp, TxnRequest, WatchCancelRequest,
    WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
    compare::{CompareResult, CompareTarget, TargetUnion},
    kv_client::KvClient,
    request_op::Request as Op,
    response_op::Response as Answer,
    watch_client::WatchClient,
    watch_create_request::FilterType,
    watch_request::RequestUnion,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};

use crate::listening::Listening;

const LIMIT: Duration = Duration::from_secs(60);

/// A stream of watches.
struct Watches {
    requests: mpsc::Sender<WatchRequest>,
    responses: Streaming<WatchResponse>,
}

impl Watches {
    async fn open(channel: Channel) -> Self {
        let (requests, stream) = mpsc::channel(16);
        let mut client = WatchClient::new(channel).max_decoding_message_size(16 << 20);
        let responses = client.watch(ReceiverStream::new(stream)).await.unwrap().into_inner();
        Self { requests, responses }
    }

    async fn ask(&self, union: RequestUnion) {
        self.requests.send(WatchRequest { request_union: Some(union) }).await.unwrap();
    }

    async fn next(&mut self) -> WatchResponse {
        let message = tokio::time::timeout(LIMIT, self.responses.message()).await.expect("an answer");
        message.unwrap().expect("an open stream")
    }

    async fn create(&mut self, create: WatchCreateRequest) -> WatchResponse {
        self.ask(RequestUnion::CreateRequest(create)).await;
        self.next().await
    }
}

fn prefix(key: &str) -> WatchCreateRequest {
    let mut end = key.as_bytes().to_vec();
    *end.last_mut().unwrap() += 1;
    WatchCreateRequest { key: key.to_owned().into(), range_end: end.into(), ..Default::default() }
}

fn put(key: &str, value: Vec<u8>) -> PutRequest {
    PutRequest { key: key.to_owned().into(), value: value.into(), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_larger_than_a_request_comes_in_pieces_to_who_asks_for_them() {
    let listening = Listening::start(|_| ()).await;
    let mut watches = Watches::open(listening.channel().await).await;
    let create = WatchCreateRequest { prev_kv: true, fragment: true, ..prefix("f/") };
    assert!(watches.create(create).await.created);
    for key in ["f/1", "f/2", "f/3"] {
        listening.member.put(put(key, vec![b'v'; 1 << 20])).await.unwrap();
        assert_eq!(watches.next().await.events.len(), 1);
    }
    let all = DeleteRangeRequest { key: "f/".into(), range_end: "f0".into(), ..Default::default() };
    listening.member.delete_range(all).await.unwrap();
    let (mut keys, mut pieces) = (Vec::new(), 0);
    loop {
        let piece = watches.next().await;
        pieces += 1;
        for event in piece.events {
            assert_eq!(event.prev_kv.unwrap().value.len(), 1 << 20);
            keys.push(event.kv.unwrap().key);
        }
        if !piece.fragment {
            break;
        }
    }
    assert_eq!((keys.len(), pieces > 1), (3, true), "{pieces} pieces");
    drop(watches);
    listening.member.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_progress_and_cancelling() {
    let listening = Listening::start(|_| ()).await;
    let mut watches = Watches::open(listening.channel().await).await;
    let only = |watch_id, filter: FilterType| WatchCreateRequest {
        watch_id,
        filters: vec![filter as i32],
        ..prefix("w/")
    };
    assert_eq!(watches.create(only(7, FilterType::Noput)).await.watch_id, 7);
    assert_eq!(watches.create(only(9, FilterType::Nodelete)).await.watch_id, 9);
    let twice = watches.create(only(9, FilterType::Noput)).await;
    assert!(twice.canceled && twice.cancel_reason.contains("duplicate watch ID"), "{twice:?}");
    let member = &listening.member;
    member.put(put("w/a", b"1".to_vec())).await.unwrap();
    let deleted = DeleteRangeRequest { key: "w/a".into(), ..Default::default() };
    let revision = member.delete_range(deleted).await.unwrap().header.unwrap().revision;
    let (one, other) = (watches.next().await, watches.next().await);
    let mut seen: Vec<_> = [one, other].iter().map(|it| (it.watch_id, it.events[0].r#type)).collect();
    seen.sort_unstable();
    assert_eq!(seen, [(7, 1), (9, 0)], "each gets what it did not filter out, once");
    watches.ask(RequestUnion::ProgressRequest(WatchProgressRequest {})).await;
    let progress = watches.next().await;
    assert_eq!((progress.watch_id, progress.events.len()), (-1, 0));
    assert!(progress.header.unwrap().revision >= revision, "all up to it has been delivered");
    watches.ask(RequestUnion::CancelRequest(WatchCancelRequest { watch_id: 7 })).await;
    let canceled = watches.next().await;
    assert_eq!((canceled.watch_id, canceled.canceled), (7, true));
    member.compact(CompactionRequest { revision, physical: true }).await.unwrap();
    let late = WatchCreateRequest { start_revision: 2, ..prefix("w/") };
    assert!(watches.create(late).await.created);
    let gone = watches.next().await;
    assert_eq!((gone.canceled, gone.compact_revision), (true, revision));
    drop(watches);
    listening.member.shutdown().await;
}

fn version_is(key: &str, version: i64) -> Compare {
    Compare {
        result: CompareResult::Equal as i32,
        target: CompareTarget::Version as i32,
        key: key.to_owned().into(),
        target_union: Some(TargetUnion::Version(version)),
        ..Default::default()
    }
}

fn op(op: Op) -> RequestOp {
    RequestOp { request: Some(op) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_txn_within_a_txn_takes_its_own_branch_at_one_revision() {
    let listening = Listening::start(|_| ()).await;
    let mut client = KvClient::new(listening.channel().await);
    let inner = |version| TxnRequest {
        compare: vec![version_is("t/a", version)],
        success: vec![op(Op::RequestPut(put("t/then", b"x".to_vec())))],
        failure: vec![op(Op::RequestPut(put("t/else", b"x".to_vec())))],
    };
    let outer = |version| TxnRequest {
        compare: vec![version_is("t/none", 0)],
        success: vec![op(Op::RequestPut(put("t/a", b"1".to_vec()))), op(Op::RequestTxn(inner(version)))],
        failure: Vec::new(),
    };
    // Which branches are taken is decided before anything is written.
    for (version, taken) in [(0, "t/then"), (0, "t/else"), (2, "t/then")] {
        let answer = client.txn(outer(version)).await.unwrap().into_inner();
        assert!(answer.succeeded);
        let Some(Answer::ResponseTxn(nested)) = &answer.responses[1].response else { panic!("{answer:?}") };
        assert_eq!(nested.succeeded, taken == "t/then", "version {version}");
        let revision = answer.header.unwrap().revision;
        for key in ["t/a", taken] {
            let request =
                proto::etcdserverpb::RangeRequest { key: key.to_owned().into(), ..Default::default() };
            let found = client.range(request).await.unwrap().into_inner();
            assert_eq!(found.kvs[0].mod_revision, revision, "{key} changed with the rest");
        }
    }
    let double = TxnRequest {
        success: vec![
            op(Op::RequestPut(put("t/a", Vec::new()))),
            op(Op::RequestTxn(TxnRequest {
                success: vec![op(Op::RequestPut(put("t/a", Vec::new())))],
                ..TxnRequest::default()
            })),
        ],
        ..TxnRequest::default()
    };
    let refused = client.txn(double).await.unwrap_err();
    assert_eq!(refused.message(), "etcdserver: duplicate key given in txn request");
    drop(client);
    listening.member.shutdown().await;
}
