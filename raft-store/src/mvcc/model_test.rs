//! The MVCC core against a naive model: random puts, deletes, transactions, ranges and compactions.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use prost::Message;
use proto::{
    etcdserverpb::{
        Compare, DeleteRangeRequest, PutRequest, RangeRequest, RangeResponse, RequestOp, ResponseHeader,
        TxnRequest,
        compare::{CompareResult, CompareTarget, TargetUnion},
        request_op::Request,
    },
    mvccpb::KeyValue,
};
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{
    compact, hash, history::Past, keys::KeyRange, pending::Pending, pieces::HEAD_BYTES, range,
    source::Source, txn,
};
use crate::{
    error::Error,
    storage::{StateDb, View},
};

/// The store as its users imagine it: every revision a whole map.
struct Model {
    states: Vec<BTreeMap<Bytes, KeyValue>>,
    compacted: usize,
}

impl Model {
    fn revision(&self) -> i64 {
        self.states.len() as i64 - 1
    }

    fn newest(&self) -> BTreeMap<Bytes, KeyValue> {
        self.states.last().cloned().unwrap_or_default()
    }

    fn put(state: &mut BTreeMap<Bytes, KeyValue>, revision: i64, key: &Bytes, value: &Bytes) {
        let before = state.get(key);
        let kv = KeyValue {
            key: key.clone(),
            create_revision: before.map_or(revision, |kv| kv.create_revision),
            mod_revision: revision,
            version: before.map_or(1, |kv| kv.version + 1),
            value: value.clone(),
            lease: 0,
        };
        state.insert(key.clone(), kv);
    }

    fn delete(state: &mut BTreeMap<Bytes, KeyValue>, key: &Bytes, end: &Bytes) -> usize {
        let before = state.len();
        state.retain(|known, _| !KeyRange::new(key, end).contains(known));
        before - state.len()
    }

    fn range(&self, request: &RangeRequest) -> Result<Vec<KeyValue>, Error> {
        let at = if request.revision == 0 { self.revision() } else { request.revision };
        if at > self.revision() {
            return Err(Error::FUTURE_REV);
        }
        if request.revision > 0 && (at as usize) < self.compacted {
            return Err(Error::COMPACTED);
        }
        let range = KeyRange::new(&request.key, &request.range_end);
        Ok(self.states[at as usize].values().filter(|kv| range.contains(&kv.key)).cloned().collect())
    }
}

struct Real {
    db: Arc<StateDb>,
    view: Arc<View>,
}

impl Real {
    fn commit(&mut self, pending: Pending) {
        let (revision, compacted) = (pending.finished_revision(), pending.compact_revision());
        let parts = pending.into_parts();
        self.db.commit(parts.batch).unwrap();
        self.view = View::freeze(&self.db, parts.counts, revision, compacted, 0);
    }
}

fn key(rng: &mut StdRng) -> Bytes {
    // Few keys, so that they meet; zero bytes and prefixes, so that their encoding matters.
    let names: [&[u8]; 9] = [b"a", b"a\0", b"a\0\x01", b"ab", b"b", b"b\xff", b"c", b"\x01", b"cc"];
    Bytes::from_static(names[rng.random_range(0..names.len())])
}

fn end(rng: &mut StdRng) -> Bytes {
    match rng.random_range(0..4) {
        0 => Bytes::new(),
        1 => Bytes::from_static(&[0]),
        _ => key(rng),
    }
}

fn change(rng: &mut StdRng, pending: &mut Pending, model: &mut Model) {
    let mut state = model.newest();
    let next = model.revision() + 1;
    let value = Bytes::from(rng.random_range(0..1000_u32).to_string());
    let changed = match rng.random_range(0..10) {
        0..5 => {
            let key = key(rng);
            Model::put(&mut state, next, &key, &value);
            let request = PutRequest { key, value, ..Default::default() };
            txn::put(pending, request, &|_| false).unwrap();
            true
        }
        5..7 => {
            let (key, range_end) = (key(rng), end(rng));
            let expected = Model::delete(&mut state, &key, &range_end);
            let request = DeleteRangeRequest { key, range_end, prev_kv: true };
            let response = txn::delete_range(pending, &request).unwrap();
            assert_eq!(response.deleted as usize, expected);
            assert_eq!(response.prev_kvs.len(), expected);
            expected > 0
        }
        _ => transaction(rng, pending, &mut state, next, &value),
    };
    if changed {
        model.states.push(state);
    }
    assert_eq!(pending.revision(), model.revision());
}

/// `if create(guard) == 0 { put first; put second; range } else { delete guard; range }`
fn transaction(
    rng: &mut StdRng,
    pending: &mut Pending,
    state: &mut BTreeMap<Bytes, KeyValue>,
    next: i64,
    value: &Bytes,
) -> bool {
    let guard = key(rng);
    let put = |key: &Bytes| {
        let put = PutRequest { key: key.clone(), value: value.clone(), ..Default::default() };
        RequestOp { request: Some(Request::RequestPut(put)) }
    };
    let all = RangeRequest { key: "\u{1}".into(), range_end: Bytes::from_static(&[0]), ..Default::default() };
    let read = RequestOp { request: Some(Request::RequestRange(all)) };
    let delete = DeleteRangeRequest { key: guard.clone(), ..Default::default() };
    let other = Bytes::from_static(b"zz");
    let request = TxnRequest {
        compare: vec![Compare {
            result: CompareResult::Equal as i32,
            target: CompareTarget::Create as i32,
            key: guard.clone(),
            range_end: Bytes::new(),
            target_union: Some(TargetUnion::CreateRevision(0)),
        }],
        success: vec![put(&guard), put(&other), read.clone()],
        failure: vec![RequestOp { request: Some(Request::RequestDeleteRange(delete)) }, read],
    };
    let free = !state.contains_key(&guard);
    if free {
        Model::put(state, next, &guard, value);
        Model::put(state, next, &other, value);
    } else {
        state.remove(&guard);
    }
    let response = txn::txn(pending, request, &|_| false).unwrap();
    assert_eq!(response.succeeded, free);
    let Some(proto::etcdserverpb::response_op::Response::ResponseRange(read)) =
        response.responses.last().and_then(|op| op.response.clone())
    else {
        panic!("the transaction ends with a range")
    };
    assert_eq!(read.kvs, state.values().cloned().collect::<Vec<_>>(), "a transaction reads its own writes");
    true
}

type Expected = Result<Vec<KeyValue>, Error>;

fn compare(rng: &mut StdRng, source: &dyn Source, model: &Model) -> (RangeRequest, Expected) {
    let revision = if rng.random_bool(0.5) { 0 } else { rng.random_range(1..=model.revision() + 1) };
    let limit = rng.random_range(0..4);
    let request = RangeRequest { key: key(rng), range_end: end(rng), revision, limit, ..Default::default() };
    let expected = model.range(&request);
    match (range::range(source, &request), &expected) {
        (Ok(found), Ok(expected)) => {
            assert_eq!(found.count as usize, expected.len(), "{request:?}");
            let wanted = if limit == 0 { expected.len() } else { expected.len().min(limit as usize) };
            assert_eq!(found.kvs, expected[..wanted], "{request:?}");
            assert_eq!(found.more, wanted < expected.len(), "{request:?}");
        }
        (found, expected) => assert_eq!(found.err().as_ref(), expected.as_ref().err(), "{request:?}"),
    }
    (request, expected)
}

/// The same range as copied rows, and read from each key's history, must say the same.
fn compare_other_ways(view: &View, request: &RangeRequest, expected: Expected) {
    let header = ResponseHeader { revision: view.revision, ..Default::default() };
    let wire = range::plain_wire(view, request, &header);
    let Ok(expected) = expected else { return assert_eq!(wire.err(), expected.err()) };
    let wire: Vec<Bytes> = wire.unwrap().framed([0; HEAD_BYTES]).collect();
    let found = RangeResponse::decode(&wire.concat()[HEAD_BYTES..]).unwrap();
    assert_eq!(found, range::range(view, request).unwrap(), "{request:?}");
    if request.revision > 0 && request.revision < view.revision {
        let past = Past { view, at: request.revision };
        let keys = KeyRange::new(&request.key, &request.range_end);
        let mut rows = Vec::new();
        past.scan(&keys, &mut |row| {
            rows.push(row.decode()?);
            Ok(std::ops::ControlFlow::Continue(()))
        })
        .unwrap();
        assert_eq!(rows, expected, "{request:?}");
        assert_eq!(past.count(&keys).unwrap() as usize, rows.len(), "{request:?}");
    }
}

#[test]
fn random_histories_agree_with_the_model() {
    for seed in 0..20 {
        let mut rng = StdRng::seed_from_u64(seed);
        let dir = tempfile::tempdir().unwrap();
        let db = StateDb::open(&dir.path().join("state")).unwrap();
        let mut real = Real { view: View::freeze(&db, Arc::default(), 1, 0, 0), db };
        let mut model = Model { states: vec![BTreeMap::new(), BTreeMap::new()], compacted: 0 };
        let mut cleaned = 0;
        for _ in 0..60 {
            let mut pending = Pending::new(real.view.clone());
            for _ in 0..rng.random_range(1..6) {
                change(&mut rng, &mut pending, &mut model);
                drop(compare(&mut rng, &pending, &model));
            }
            if rng.random_bool(0.2) && model.revision() > model.compacted as i64 {
                let at = rng.random_range(model.compacted as i64 + 1..=model.revision());
                pending.compact_to(at);
                model.compacted = at as usize;
            }
            real.commit(pending);
            for _ in 0..8 {
                let (request, expected) = compare(&mut rng, real.view.as_ref(), &model);
                compare_other_ways(&real.view, &request, expected);
            }
            let before = hash::hash_at(&real.view, real.view.revision).unwrap();
            let (batch, progress) =
                compact::step(&real.view, cleaned, real.view.compact_revision, rng.random_range(1..20))
                    .unwrap();
            cleaned = progress.done;
            real.db.commit(batch).unwrap();
            let counts = real.view.counts().clone();
            real.view = View::freeze(&real.db, counts, real.view.revision, real.view.compact_revision, 0);
            let after = hash::hash_at(&real.view, real.view.revision).unwrap();
            assert_eq!(before, after, "cleaning up changes nothing that can be read (seed {seed})");
        }
    }
}
