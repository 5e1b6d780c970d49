//! The test every controller must pass. It is killed before and after each of its writes in turn and started again,
//! with prompt and with lagging caches: the end is always the same and nothing was created twice. Another client
//! changes the object of each write in turn just before it: the same. Another client deletes it: things settle.

use std::collections::BTreeMap;

use serde_json::Value;

use super::model::Model;
use super::world::{Crash, MEDDLED, Meddling, Scenario, World};

/// What a run left behind.
#[derive(Debug, PartialEq, Eq)]
struct End {
    objects: Vec<String>,
    created: BTreeMap<String, usize>,
}

/// Runs a scenario without and with crashes and compares the ends. Returns the number of writes of a quiet run.
#[track_caller]
pub fn check_crashes(scenario: &Scenario) -> usize {
    let mut quiet = World::start(scenario, None, false);
    let expected = end_of(quiet.run());
    let writes = quiet.writes();
    assert!(writes > 0, "the scenario must make the controller write");
    assert_eq!(end_of(World::start(scenario, None, true).run()), expected, "with lagging caches");
    for number in 0..writes {
        for crash in [Crash::Before(number), Crash::After(number)] {
            for lagging in [false, true] {
                let end = end_of(World::start(scenario, Some(crash), lagging).run());
                assert_eq!(end, expected, "killed {crash:?}, lagging caches: {lagging}");
            }
        }
    }
    for number in 0..writes {
        let end = end_of(World::beside(scenario, Meddling::Changes(number)).run());
        assert_eq!(end, expected, "somebody changed the object of write {number}");
    }
    // The steps of a scenario rely on what the steps before them left.
    let first = Scenario { steps: Vec::new(), ..scenario.clone() };
    let mut quiet = World::start(&first, None, false);
    quiet.run();
    for number in 0..quiet.writes() {
        // Panics when it never settles.
        World::beside(&first, Meddling::Deletes(number)).run();
    }
    writes
}

fn end_of(world: &mut World) -> End {
    let model = world.shared.model.lock();
    let mut objects: Vec<String> = model.everything().map(|object| normal_form(object, &model)).collect();
    objects.sort();
    End { objects, created: model.created.clone() }
}

/// An object without what differs between runs: times, uids, versions, generated names.
fn normal_form(object: &Value, model: &Model) -> String {
    let names = generated_names(model);
    let mut object = object.clone();
    if let Value::Object(meta) = &mut object["metadata"] {
        for field in ["uid", "resourceVersion", "creationTimestamp", "generation"] {
            meta.remove(field);
        }
    }
    if let Value::Object(annotations) = &mut object["metadata"]["annotations"] {
        annotations.remove(MEDDLED);
        if annotations.is_empty() {
            object["metadata"]["annotations"] = Value::Null;
        }
    }
    if object["metadata"]["annotations"].is_null()
        && let Value::Object(meta) = &mut object["metadata"]
    {
        meta.remove("annotations");
    }
    let text = scrub(&object);
    names.iter().fold(text, |text, (name, prefix)| text.replace(name.as_str(), &format!("{prefix}*")))
}

fn generated_names(model: &Model) -> Vec<(String, String)> {
    let generated = model.everything().filter_map(|object| {
        let (name, prefix) =
            (object["metadata"]["name"].as_str()?, object["metadata"]["generateName"].as_str()?);
        Some((name.to_string(), prefix.to_string()))
    });
    generated.collect()
}

fn scrub(value: &Value) -> String {
    let text = value.to_string();
    let times = regex::Regex::new(r"\d{4}-\d\d-\d\dT[0-9:.]+Z").expect("a pattern");
    let uids = regex::Regex::new(r"uid-\d+").expect("a pattern");
    let generations = regex::Regex::new(r#""observedGeneration":\d+"#).expect("a pattern");
    let text = times.replace_all(&text, "<time>");
    let text = uids.replace_all(&text, "<uid>");
    // When an autoscaler last scaled is told after the fact, and may be lost with the process that knew it.
    let text = text.replace("\"lastScaleTime\":\"<time>\",", "").replace(",\"lastScaleTime\":\"<time>\"", "");
    // What triggered a write is remembered by the process alone.
    let trigger = format!("\"{}\":\"<time>\"", crate::trigger_time::ANNOTATION);
    let text = text.replace(&format!("{trigger},"), "").replace(&format!(",{trigger}"), "");
    let text =
        text.replace(&format!("\"annotations\":{{{trigger}}},"), "").replace("\"annotations\":{},", "");
    generations.replace_all(&text, "\"observedGeneration\":0").into_owned()
}
