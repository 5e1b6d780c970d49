//! Which form an answer takes (`Accept`) and which form a body has (`Content-Type`). Pure.

use machinery::status::StatusError;

use crate::registry::decode::BodyFormat;

/// How bytes are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Json,
    Yaml,
    Protobuf,
}

impl Encoding {
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Yaml => "application/yaml",
            Self::Protobuf => "application/vnd.kubernetes.protobuf",
        }
    }
}

/// What the object is turned into first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transform {
    None,
    Table,
    /// `PartialObjectMetadata`, or its list where the answer is one.
    Metadata,
}

/// The form agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    pub encoding: Encoding,
    pub transform: Transform,
}

/// Media types that answers can have.
pub const OFFERED: [&str; 3] =
    ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

/// One element of an `Accept` header.
#[derive(Debug)]
pub struct Accepted<'a> {
    pub media_type: &'a str,
    params: Vec<(&'a str, &'a str)>,
    quality: f32,
}

impl Accepted<'_> {
    /// The value of a parameter, empty when absent.
    pub fn param(&self, name: &str) -> &str {
        self.params.iter().find(|(k, _)| *k == name).map_or("", |(_, v)| v)
    }
}

/// The elements of an `Accept` header, best first.
pub fn parse_accept(header: &str) -> Vec<Accepted<'_>> {
    let mut all: Vec<_> = header.split(',').filter_map(parse_one).collect();
    all.sort_by(|a, b| b.quality.total_cmp(&a.quality));
    all
}

fn parse_one(text: &str) -> Option<Accepted<'_>> {
    let mut parts = text.split(';').map(str::trim);
    let media_type = parts.next().filter(|m| !m.is_empty())?;
    let params: Vec<_> =
        parts.filter_map(|p| p.split_once('=')).map(|(k, v)| (k, v.trim_matches('"'))).collect();
    let quality = params.iter().find(|(k, _)| *k == "q").and_then(|(_, v)| v.parse().ok()).unwrap_or(1.0);
    Some(Accepted { media_type, params, quality })
}

fn encoding(media_type: &str) -> Option<Encoding> {
    match media_type {
        "application/json" | "*/*" | "application/*" => Some(Encoding::Json),
        "application/yaml" => Some(Encoding::Yaml),
        "application/vnd.kubernetes.protobuf" => Some(Encoding::Protobuf),
        _ => None,
    }
}

/// What an answer may be.
#[derive(Clone, Copy, Debug)]
pub struct Offer {
    pub protobuf: bool,
    pub transforms: bool,
    /// Answers that are streams cannot be YAML.
    pub yaml: bool,
}

/// Picks the form of an answer; a missing header means JSON.
pub fn form(header: Option<&str>, offer: Offer) -> Result<Form, StatusError> {
    let json = Form { encoding: Encoding::Json, transform: Transform::None };
    let Some(header) = header.map(str::trim).filter(|h| !h.is_empty()) else { return Ok(json) };
    for accepted in parse_accept(header) {
        let Some(encoding) = encoding(accepted.media_type) else { continue };
        if encoding == Encoding::Yaml && !offer.yaml {
            continue;
        }
        let transform = match (accepted.param("as"), accepted.param("g"), accepted.param("v")) {
            ("", ..) => Transform::None,
            ("Table", "meta.k8s.io", "v1" | "v1beta1") if offer.transforms => Transform::Table,
            ("PartialObjectMetadata" | "PartialObjectMetadataList", "meta.k8s.io", "v1" | "v1beta1")
                if offer.transforms =>
            {
                Transform::Metadata
            }
            _ => continue,
        };
        // Tables have no protobuf form; custom resources only have one for their metadata.
        let has_protobuf = offer.protobuf || transform == Transform::Metadata;
        if encoding == Encoding::Protobuf && (!has_protobuf || transform == Transform::Table) {
            continue;
        }
        return Ok(Form { encoding, transform });
    }
    Err(match offer.protobuf {
        true => StatusError::not_acceptable_form(&OFFERED),
        false => StatusError::not_acceptable(&OFFERED[..2]),
    })
}

/// The format of a body; a missing header means JSON.
pub fn body_format(header: Option<&str>, protobuf: bool) -> Result<BodyFormat, StatusError> {
    let media_type = header.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    match media_type {
        "" | "application/json" => Ok(BodyFormat::Json),
        "application/yaml" => Ok(BodyFormat::Yaml),
        "application/vnd.kubernetes.protobuf" if protobuf => Ok(BodyFormat::Protobuf),
        _ => Err(StatusError::unsupported_media_type(if protobuf { &OFFERED } else { &OFFERED[..2] })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(header: &str, protobuf: bool, expected: Option<(Encoding, Transform)>) {
        let found = form(Some(header), Offer { protobuf, transforms: true, yaml: true }).ok();
        assert_eq!(found.map(|f| (f.encoding, f.transform)), expected, "{header}");
    }

    #[test]
    fn answers() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        check(table, true, Some((Encoding::Json, Transform::Table)));
        check(
            "application/vnd.kubernetes.protobuf,application/json",
            true,
            Some((Encoding::Protobuf, Transform::None)),
        );
        check(
            "application/vnd.kubernetes.protobuf,application/json",
            false,
            Some((Encoding::Json, Transform::None)),
        );
        let metadata = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
        check(metadata, false, Some((Encoding::Protobuf, Transform::Metadata)));
        check("text/html;q=0.9,*/*;q=0.8", true, Some((Encoding::Json, Transform::None)));
        check("application/yaml", true, Some((Encoding::Yaml, Transform::None)));
        check("text/plain", true, None);
        check("application/json;as=Nope;g=x;v=v1", true, None);
    }

    #[test]
    fn bodies() {
        assert_eq!(body_format(None, true).ok(), Some(BodyFormat::Json));
        assert_eq!(body_format(Some("application/yaml; charset=utf-8"), true).ok(), Some(BodyFormat::Yaml));
        assert_eq!(body_format(Some("text/plain"), true).map_err(|e| e.code()), Err(415));
    }
}
