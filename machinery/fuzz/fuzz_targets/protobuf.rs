//! Protobuf bodies of every kind: `cargo +nightly fuzz run protobuf`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use machinery::codec;

fuzz_target!(|bytes: &[u8]| {
    let _ = codec::decode_watch_event(bytes);
    let Ok(decoded) = codec::decode(bytes) else { return };
    if let Ok(again) = codec::encode(&decoded.value) {
        assert_eq!(codec::decode(&again).map(|d| d.value).ok(), Some(decoded.value));
    }
});
