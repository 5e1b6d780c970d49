//! Fuzz targets: every decoder that reads what strangers send, as a function from bytes to nothing.
//!
//! A decoder may refuse its input; it must not panic, hang, or take memory without bound, and what it accepts must
//! survive the way back where there is one. [`TARGETS`] is the table of all of them. `tests/short.rs` runs each on
//! its examples and on changed copies of them, the same every time; `scripts/fuzz.sh` runs them for hours under
//! libFuzzer with coverage feedback. What a long run finds is mended and becomes an example here.

pub mod cluster;
pub mod entropy;
pub mod generate;
pub mod mutate;
pub mod targets;

/// One decoder, or a few that read the same bytes.
pub struct Target {
    pub name: &'static str,
    /// Well-formed inputs, and those that once broke it.
    pub examples: fn() -> Vec<Vec<u8>>,
    pub run: fn(&[u8]),
}

use targets::{credentials, languages, objects, patches, requests, schemas, store, wire};

/// All targets, by what they read.
pub const TARGETS: &[Target] = &[
    Target { name: "json", examples: wire::json_examples, run: wire::json },
    Target { name: "yaml", examples: wire::yaml_examples, run: wire::yaml },
    Target { name: "protobuf", examples: wire::protobuf_examples, run: wire::protobuf },
    Target {
        name: "protobuf_of_every_kind",
        examples: wire::kind_examples,
        run: wire::protobuf_of_every_kind,
    },
    Target { name: "spdy", examples: wire::spdy_examples, run: wire::spdy },
    Target { name: "json_patch", examples: patches::json_examples, run: patches::json },
    Target { name: "strategic_patch", examples: patches::strategic_examples, run: patches::strategic },
    Target { name: "apply", examples: patches::apply_examples, run: patches::apply },
    Target { name: "managed_fields", examples: patches::managed_examples, run: patches::managed_fields },
    Target { name: "selectors", examples: languages::selector_examples, run: languages::selectors },
    Target {
        name: "quantities_and_times",
        examples: languages::quantity_examples,
        run: languages::quantities,
    },
    Target { name: "json_paths", examples: languages::path_examples, run: languages::json_paths },
    Target { name: "names", examples: languages::name_examples, run: languages::names },
    Target { name: "crd_schema", examples: schemas::schema_examples, run: schemas::schema },
    Target { name: "crd_definition", examples: schemas::definition_examples, run: schemas::definition },
    Target { name: "bodies_of_every_kind", examples: objects::body_examples, run: objects::bodies },
    Target { name: "objects_of_every_kind", examples: objects::seeds, run: objects::generated },
    Target { name: "stored_objects", examples: objects::stored_examples, run: objects::stored },
    Target { name: "requests", examples: requests::examples, run: requests::request },
    Target { name: "resource_metrics", examples: requests::scrape_examples, run: requests::scrape },
    Target { name: "tokens", examples: credentials::token_examples, run: credentials::tokens },
    Target { name: "credential_files", examples: credentials::file_examples, run: credentials::files },
    Target {
        name: "certificates",
        examples: credentials::certificate_examples,
        run: credentials::certificates,
    },
    Target { name: "store_records", examples: store::record_examples, run: store::records },
    Target { name: "store_snapshots", examples: store::snapshot_examples, run: store::snapshots },
    Target { name: "store_gateway", examples: store::gateway_examples, run: store::gateway },
    Target { name: "store_flags", examples: store::flag_examples, run: store::flags },
];

/// The target of that name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
