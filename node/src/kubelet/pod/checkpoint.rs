//! What an agent remembers of pods' resources beyond its own end, as the content of a file: upstream's format, so that
//! either kubelet starts with what the other left. Pure; reading and writing is the business of `worker::promises`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;
use serde::{Deserialize, Serialize};

/// Resources of one pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PodResources {
    /// Those of its containers, by name.
    #[serde(rename = "ContainerResources", deserialize_with = "null_is_empty", default)]
    pub containers: BTreeMap<String, ResourceRequirements>,
    /// Those of the pod as a whole.
    #[serde(rename = "PodLevelResources", default)]
    pub whole: Option<ResourceRequirements>,
}

/// Resources of pods, by uid.
pub type Records = BTreeMap<String, PodResources>;

/// A file that cannot be used. Reading it again does not help.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// It is not what was once written.
    #[error("its content does not have its checksum ({found} instead of {expected})")]
    Checksum {
        /// What the file says.
        expected: u64,
        /// What the content has.
        found: u64,
    },
    /// It is cut off, or something else.
    #[error("it is no checkpoint: {0}")]
    Json(#[from] serde_json::Error),
}

#[derive(Serialize, Deserialize)]
struct Envelope {
    data: String,
    checksum: u64,
}

#[derive(Serialize, Deserialize)]
struct Content {
    #[serde(deserialize_with = "null_is_empty", default, skip_serializing_if = "BTreeMap::is_empty")]
    entries: Records,
}

/// Go writes maps without entries as `null`.
fn null_is_empty<'de, D, T>(source: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(source)?.unwrap_or_default())
}

/// The file's content.
pub fn encode(records: &Records) -> Result<Vec<u8>, CheckpointError> {
    let data = serde_json::to_string(&Content { entries: records.clone() })?;
    let checksum = checksum(&data);
    Ok(serde_json::to_vec(&Envelope { data, checksum })?)
}

/// What a file says.
pub fn decode(file: &[u8]) -> Result<Records, CheckpointError> {
    let envelope: Envelope = serde_json::from_slice(file)?;
    let found = checksum(&envelope.data);
    if found != envelope.checksum {
        return Err(CheckpointError::Checksum { expected: envelope.checksum, found });
    }
    Ok(serde_json::from_str::<Content>(&envelope.data)?.entries)
}

/// FNV-1a of 32 bits over the text as upstream's dumper prints it.
fn checksum(data: &str) -> u64 {
    let bytes = b"(string)".iter().chain(data.as_bytes());
    u64::from(bytes.fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// What upstream's kubelet 1.36 writes.
    const UPSTREAM: &str = r#"{"data":"{\"entries\":{\"uid-1\":{\"ContainerResources\":{\"c\":{\"limits\":{\"memory\":\"64Mi\"},\"requests\":{\"cpu\":\"250m\"}},\"empty\":{}},\"PodLevelResources\":null},\"uid-2\":{\"ContainerResources\":{\"d\":{}},\"PodLevelResources\":{\"limits\":{\"memory\":\"64Mi\"},\"requests\":{\"cpu\":\"250m\"}}}}}","checksum":2713686379}"#;

    fn records() -> Records {
        let some = json!({"requests": {"cpu": "250m"}, "limits": {"memory": "64Mi"}});
        let of = |containers, whole| json!({"ContainerResources": containers, "PodLevelResources": whole});
        let all = json!({"uid-1": of(json!({"c": some, "empty": {}}), json!(null)), "uid-2": of(json!({"d": {}}), some)});
        serde_json::from_value(all).expect("records")
    }

    #[test]
    fn the_file_is_upstreams() {
        assert_eq!(decode(UPSTREAM.as_bytes()).expect("upstream's"), records());
        assert_eq!(String::from_utf8(encode(&records()).expect("encoded")).expect("text"), UPSTREAM);
    }

    #[test]
    fn what_upstream_leaves_out_is_empty() {
        let file = |data: &str| json!({"data": data, "checksum": checksum(data)}).to_string();
        let check = |data: &str, expected: usize| {
            assert_eq!(decode(file(data).as_bytes()).expect(data).len(), expected, "{data}");
        };
        check("{}", 0);
        check(r#"{"entries":null}"#, 0);
        check(r#"{"entries":{"u":{"ContainerResources":null,"PodLevelResources":null}}}"#, 1);
        assert_eq!(decode(&encode(&Records::new()).expect("encoded")).expect("read"), Records::new());
    }

    #[test]
    fn a_file_that_is_not_whole_is_refused() {
        let check = |file: &str, expected: &str| {
            let error = decode(file.as_bytes()).expect_err(file).to_string();
            assert!(error.starts_with(expected), "{error}");
        };
        check("", "it is no checkpoint: EOF");
        check(&UPSTREAM[..UPSTREAM.len() / 2], "it is no checkpoint: EOF");
        let other = UPSTREAM.replace("250m", "950m");
        check(&other, "its content does not have its checksum (");
        check(
            &UPSTREAM.replace("2713686379", "1"),
            "its content does not have its checksum (2713686379 instead of 1)",
        );
    }
}
