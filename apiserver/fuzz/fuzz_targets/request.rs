//! Request lines, queries and Accept headers: `cargo +nightly fuzz run request`.
#![no_main]

use apiserver::http::negotiate::{self, Offer};
use apiserver::http::{request_info, watch::WatchOptions};
use apiserver::registry::options::{DeleteOptions, Query, WriteOptions};
use apiserver::registry::read::ListOptions;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let (path, query) = text.split_once('?').unwrap_or((text, ""));
    let query = Query::parse(query);
    for method in [http::Method::GET, http::Method::DELETE, http::Method::PATCH] {
        request_info::parse(&method, path, &query);
    }
    let _ = ListOptions::from_query(&query);
    let _ = WatchOptions::from_query(&query);
    let _ = WriteOptions::from_query(&query, text, "PatchOptions");
    let _ = DeleteOptions::parse(&query, serde_json::from_str(text).ok().as_ref());
    let _ = negotiate::form(Some(text), Offer { protobuf: true, transforms: true, yaml: true });
});
