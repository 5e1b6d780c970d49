//! The store's records, snapshots, gateway and flags.

use raft_store::decoders;

use super::texts;

pub fn record_examples() -> Vec<Vec<u8>> {
    decoders::record_examples()
}

/// Log entries, messages between members, rows of the state.
pub fn records(bytes: &[u8]) {
    decoders::records(bytes);
}

pub fn snapshot_examples() -> Vec<Vec<u8>> {
    decoders::snapshot_examples()
}

/// A file said to be a snapshot of etcd or of this store.
pub fn snapshots(bytes: &[u8]) {
    decoders::snapshot(bytes);
}

pub fn gateway_examples() -> Vec<Vec<u8>> {
    let mut all = texts(&[
        r#"{"key":"YQ==","range_end":"Yg==","limit":"5","sort_order":"DESCEND"}"#,
        r#"{"compare":[{"target":"VERSION","key":"YQ==","version":"0"}],"success":[{"request_put":{"key":"YQ==","value":"Yg=="}}]}"#,
        r#"{"create_request":{"key":"YQ==","start_revision":1}}{"cancel_request":{"watch_id":1}}"#,
    ]);
    all.iter_mut().zip(0..).for_each(|(body, path)| body.insert(0, path));
    all
}

/// The first byte chooses the path of the JSON gateway, the rest is the body.
pub fn gateway(bytes: &[u8]) {
    if let Some((first, body)) = bytes.split_first() {
        decoders::gateway(usize::from(*first), body);
    }
}

pub fn flag_examples() -> Vec<Vec<u8>> {
    texts(&["simple", "jwt,sign-method=HS256,ttl=5m", "a=http://b:1,c=http://d:2", "1h2m3.5s"])
}

/// Flags with a language of their own.
pub fn flags(bytes: &[u8]) {
    decoders::flags(&String::from_utf8_lossy(bytes));
}
