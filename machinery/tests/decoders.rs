//! Every decoder that reads what strangers send, fed with mutated examples: it may refuse, it must not panic, and what it
//! accepts must survive the way back. The same entry points have fuzz targets in `fuzz/`; this run is short and always
//! the same.

use machinery::schema::{self, Schema};
use machinery::selector::{Fields, Labels};
use machinery::time::duration;
use machinery::{apply, codec, json, jsonpath, patch, quantity, time, yaml};
use serde_json::Value;

/// Mutants of each example.
const MUTANTS: usize = 400;

/// A small generator with a fixed start: the run is the same every time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 1).unwrap_or(usize::MAX)
    }

    fn below(&mut self, bound: usize) -> usize {
        self.next() % bound.max(1)
    }
}

const TOKENS: [&[u8]; 16] = [
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b":",
    b",",
    b"null",
    b"-",
    b"1e999",
    b"\xff\xff\xff\xff\x7f",
    b"\0",
    b"*",
    b"&a ",
    b"<<: ",
    b"\\ud800",
];

/// A few changes of the kind that break parsers: flipped, lost, doubled and foreign bytes.
fn mutate(example: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = example.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() + 1);
        match random.below(5) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 => {
                let end = (at + random.below(8)).min(bytes.len());
                bytes.drain(at..end);
            }
            2 => {
                let end = (at + random.below(40)).min(bytes.len());
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            3 => bytes.truncate(at),
            _ => {
                let token = TOKENS[random.below(TOKENS.len())];
                bytes.splice(at..at, token.iter().copied());
            }
        }
    }
    bytes
}

fn each_mutant(examples: &[&[u8]], mut run: impl FnMut(&[u8])) {
    let mut random = Random(0x5eed);
    for example in examples {
        run(example);
        for _ in 0..MUTANTS {
            run(&mutate(example, &mut random));
        }
    }
}

const POD: &str = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","labels":{"a":"b"},"creationTimestamp":null,
"managedFields":[{"manager":"m","operation":"Update","fieldsV1":{"f:spec":{"f:containers":{"k:{\"name\":\"c\"}":{".":{}}}}}}]},
"spec":{"containers":[{"name":"c","image":"i","ports":[{"containerPort":80,"protocol":"TCP"}],
"resources":{"limits":{"cpu":"100m","memory":"1Gi"}},"livenessProbe":{"httpGet":{"port":"http"}}}],"terminationGracePeriodSeconds":30}}"#;

const YAML: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: &m\n  name: a\n  labels: {x: 'y', z: \"w\"}\ndata:\n  <<: *m\n  block: |\n    a\n     b\n  folded: >-\n    c\n    d\n  n: 0x1F\n  list: [1, 2.5, yes, ~, !!str 3]\n";

fn pod() -> Schema {
    schema::for_kind("", "v1", "Pod").expect("a known kind")
}

#[test]
fn json_and_what_is_made_of_it() {
    let schema = pod();
    each_mutant(&[POD.as_bytes(), b"[1,2.5e3,\"\\u00e9\\n\"]", b"{\"a\":{\"a\":{\"a\":{}}}}"], |bytes| {
        let Ok(parsed) = json::parse(bytes) else { return };
        let text = parsed.value.to_string();
        assert_eq!(json::parse(text.as_bytes()).map(|p| p.value).as_ref(), Ok(&parsed.value), "{text}");
        let mut object = parsed.value;
        if object.is_object() && schema::decode::decode(&schema, &mut object).is_ok() {
            schema::default::apply(&schema, &mut object);
        }
    });
}

#[test]
fn yaml_reads_or_refuses() {
    each_mutant(&[YAML.as_bytes(), POD.as_bytes(), b"a: &a [*a]\n", b"- - - - x\n---\n- y\n"], |bytes| {
        let _ = yaml::parse(bytes);
        let _ = yaml::duplicate_keys(bytes);
    });
}

#[test]
fn protobuf_survives_the_way_back() {
    let pod: Value = serde_json::from_str(POD).expect("JSON");
    let encoded = codec::encode(&pod).expect("encodes");
    let event = codec::encode_watch_event("ADDED", &encoded);
    each_mutant(&[&encoded, &event], |bytes| {
        let _ = codec::decode_watch_event(bytes);
        let Ok(decoded) = codec::decode(bytes) else { return };
        // What was read can be written: nothing that cannot be represented comes out of the decoder.
        if let Ok(again) = codec::encode(&decoded.value) {
            assert_eq!(codec::decode(&again).map(|d| d.value).ok(), Some(decoded.value));
        }
    });
}

#[test]
fn patches_apply_or_refuse() {
    let (schema, document) = (pod(), serde_json::from_str::<Value>(POD).expect("JSON"));
    let examples: [&[u8]; 4] = [
        br#"[{"op":"add","path":"/spec/containers/-","value":{}},{"op":"move","from":"/metadata/name","path":"/spec/x~1y"},{"op":"test","path":"","value":1}]"#,
        br#"{"spec":{"containers":[{"name":"c","$patch":"delete"}],"$setElementOrder/containers":[{"name":"c"}],"$retainKeys":["a"]}}"#,
        br#"{"metadata":{"labels":{"a":null},"finalizers":["x"],"$deleteFromPrimitiveList/finalizers":["y"]}}"#,
        br#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"containers":[{"name":"c","env":[{"name":"A"}]}]}}"#,
    ];
    let manager =
        apply::Manager { name: "m".into(), subresource: String::new(), now: jiff::Timestamp::UNIX_EPOCH };
    let reset = apply::ResetFields::none();
    each_mutant(&examples, |bytes| {
        let Ok(parsed) = json::parse(bytes) else { return };
        let _ = patch::json_patch(&document, &parsed.value);
        let _ = patch::strategic(&schema, &document, &parsed.value);
        patch::merge_patch(&document, &parsed.value);
        if parsed.value.is_object() {
            let _ = apply::apply(&schema, "v1", Some(&document), &parsed.value, &manager, true, &reset);
        }
    });
}

#[test]
fn managed_fields_of_strangers() {
    let schema = pod();
    let manager =
        apply::Manager { name: "m".into(), subresource: String::new(), now: jiff::Timestamp::UNIX_EPOCH };
    each_mutant(&[POD.as_bytes()], |bytes| {
        let Ok(parsed) = json::parse(bytes) else { return };
        if !parsed.value.is_object() {
            return;
        }
        let mut new = parsed.value.clone();
        apply::track_update(
            &schema,
            "v1",
            Some(&parsed.value),
            &mut new,
            &manager,
            &apply::ResetFields::none(),
        );
    });
}

#[test]
fn small_languages() {
    let examples: [&[u8]; 12] = [
        b"a=b,c!=d,e in (f,g),!h,i,j notin (k),l>3",
        b"metadata.name=a,spec.nodeName!=b,x=\\,",
        b"1500m",
        b"-1.5e3Ki",
        b"1h2m3.5s",
        b"2026-01-02T03:04:05.678901+01:00",
        b"{.spec.a[?(@.b==\"c\")].d[0:2]['e']..f}",
        b".status.conditions[?(@.type=='Ready')].status",
        b"^(a|b)+$",
        b"10.0.0.1",
        b"application/json;as=Table;v=v1;g=meta.k8s.io,*/*;q=0.5",
        b"%25a%2f",
    ];
    each_mutant(&examples, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        if let Ok(labels) = Labels::parse(&text) {
            assert!(Labels::parse(&labels.to_string()).is_ok(), "{text:?} became {labels}");
        }
        let _ = Fields::parse(&text);
        if let Ok(quantity) = quantity::Quantity::parse(&text) {
            let shown = quantity.to_string();
            assert_eq!(quantity::Quantity::parse(&shown).map(|q| q.to_string()).ok(), Some(shown));
        }
        let _ = duration::parse(&text);
        let _ = time::parse_rfc3339(&text);
        let _ = time::parse_micro(&text);
        if let Ok(path) = jsonpath::Path::parse(&text) {
            path.eval(&serde_json::from_str(POD).expect("JSON"));
        }
    });
}

#[test]
fn schemas_of_strangers() {
    let example = br##"{"type":"object","required":["a"],"properties":{"a":{"type":"string","pattern":"^a+$","default":"a","enum":["a"]},
"b":{"type":"array","x-kubernetes-list-type":"map","x-kubernetes-list-map-keys":["k"],"items":{"type":"object","properties":{"k":{"type":"string"}}}},
"c":{"x-kubernetes-int-or-string":true,"anyOf":[{"type":"integer"},{"type":"string"}]},
"d":{"type":"object","additionalProperties":{"type":"number","minimum":0,"multipleOf":0.5}},"e":{"type":"object","x-kubernetes-embedded-resource":true}}}"##;
    let object =
        serde_json::json!({"a": 1, "b": [{"k": "x"}, {"k": "x"}], "c": "y", "d": {"z": 0.25}, "e": {}});
    each_mutant(&[example], |bytes| {
        let Ok(parsed) = json::parse(bytes) else { return };
        schema::crd_rules::check_schema(&parsed.value, &machinery::status::Path::new("schema"));
        let Ok(schema) = schema::from_crd(&parsed.value, false) else { return };
        let mut object = object.clone();
        schema::prune::prune(&schema, &mut object);
        schema::default::apply(&schema, &mut object);
        schema::validate::validate(&schema, &object);
    });
}
