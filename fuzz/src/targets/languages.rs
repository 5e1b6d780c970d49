//! Small languages: selectors, quantities, times, JSON paths, names.

use machinery::jsonpath::Path;
use machinery::quantity::Quantity;
use machinery::selector::{Fields, Labels};
use machinery::time::{self, duration};
use machinery::{gotext, names};
use serde_json::json;

use super::texts;

pub fn selector_examples() -> Vec<Vec<u8>> {
    texts(&[
        "a=b,c!=d,e in (f,g),!h,i,j notin (k),l>3",
        "metadata.name=a,spec.nodeName!=b,x=\\,",
        "a/b in (),c==",
        "x<-1",
    ])
}

/// A selector that was read can be read again as it is written.
pub fn selectors(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(labels) = Labels::parse(&text) {
        assert!(Labels::parse(&labels.to_string()).is_ok(), "{text:?} became {labels}");
    }
    let _ = Fields::parse(&text);
}

pub fn quantity_examples() -> Vec<Vec<u8>> {
    texts(&[
        "1500m",
        "-1.5e3",
        "1.5Ki",
        "+.5E",
        "0.000000001n",
        "12345678901234567890123456789",
        "1h2m3.5s",
        "-1.5us",
        "2026-01-02T03:04:05.678901+01:00",
        "9999-12-31T23:59:60Z",
    ])
}

/// A quantity's shortest form is its own shortest form.
pub fn quantities(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(quantity) = Quantity::parse(&text) {
        let shown = quantity.to_string();
        assert_eq!(Quantity::parse(&shown).map(|q| q.to_string()).ok(), Some(shown));
    }
    if let Ok(span) = duration::parse(&text) {
        let _ = duration::format(span);
    }
    if let Ok(time) = time::parse_rfc3339(&text) {
        let _ = time::format_time(time);
    }
    let _ = time::parse_micro(&text);
}

pub fn path_examples() -> Vec<Vec<u8>> {
    texts(&[
        "{.spec.a[?(@.b==\"c\")].d[0:2]['e']..f}",
        ".a[?(@.b=='c')].n",
        "{range .a[*]}{.b}{end}",
        ".a[-1:]",
    ])
}

/// Paths of printer columns.
pub fn json_paths(bytes: &[u8]) {
    if let Ok(path) = Path::parse(&String::from_utf8_lossy(bytes)) {
        path.eval(&json!({"a": [{"b": "c", "n": 1}, {"b": "d"}], "e": {"f": null}}));
    }
}

pub fn name_examples() -> Vec<Vec<u8>> {
    texts(&["a-b.c", "example.com/name_1", "*.example.com", "10.0.0.1", "A_1", "100%"])
}

/// The rules that names are held to, and how refused values are quoted.
pub fn names(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let rules = [
        names::dns1123_label,
        names::dns1123_subdomain,
        names::dns1123_subdomain_with_underscore,
        names::dns1035_label,
        names::wildcard_dns1123_subdomain,
        names::qualified_name,
        names::label_value,
        names::c_identifier,
        names::env_var_name,
        names::relaxed_env_var_name,
        names::config_map_key,
        names::port_name,
        names::percent,
        names::http_header_name,
        names::path_segment_name,
        names::path_segment_prefix,
    ];
    rules.iter().for_each(|rule| drop(rule(&text)));
    let _ = names::mask_trailing_dash(&text);
    let _ = gotext::quote(&text);
}
