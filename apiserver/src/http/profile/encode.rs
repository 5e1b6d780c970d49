//! Samples in the format of `go tool pprof` (`profile.proto` of google/pprof). Pure.

use std::collections::HashMap;
use std::time::Duration;

use prost::Message;

/// How often one stack was seen.
pub struct Sample {
    /// Function names, innermost first.
    pub stack: Vec<String>,
    pub thread: String,
    pub count: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Profile {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Stack>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
    #[prost(message, optional, tag = "11")]
    period_type: Option<ValueType>,
    #[prost(int64, tag = "12")]
    period: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    r#type: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Stack {
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
    #[prost(message, repeated, tag = "3")]
    label: Vec<Label>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Label {
    #[prost(int64, tag = "1")]
    key: i64,
    #[prost(int64, tag = "2")]
    str: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function_id: u64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
    #[prost(int64, tag = "3")]
    system_name: i64,
}

/// Texts by number; the first is empty, as the format wants.
struct Texts {
    all: Vec<String>,
    known: HashMap<String, i64>,
}

impl Texts {
    fn number(&mut self, text: &str) -> i64 {
        if let Some(known) = self.known.get(text) {
            return *known;
        }
        let number = i64::try_from(self.all.len()).unwrap_or(0);
        self.all.push(text.to_owned());
        self.known.insert(text.to_owned(), number);
        number
    }
}

/// The encoded profile: counts and nanoseconds of CPU. A function is one location: there are no addresses.
pub fn profile(samples: &[Sample], span: Duration, frequency_hz: i32) -> Vec<u8> {
    let mut texts = Texts { all: vec![String::new()], known: HashMap::from([(String::new(), 0)]) };
    let mut value_type = |kind, unit| ValueType { r#type: texts.number(kind), unit: texts.number(unit) };
    let (counts, cpu) = (value_type("samples", "count"), value_type("cpu", "nanoseconds"));
    let period = 1_000_000_000 / i64::from(frequency_hz.max(1));
    let mut profile = Profile {
        sample_type: vec![counts, cpu],
        period_type: Some(cpu),
        period,
        duration_nanos: i64::try_from(span.as_nanos()).unwrap_or(i64::MAX),
        ..Profile::default()
    };
    let mut functions: HashMap<i64, u64> = HashMap::new();
    for sample in samples {
        let mut stack = Stack { value: vec![sample.count, sample.count * period], ..Stack::default() };
        for name in &sample.stack {
            let name = texts.number(name);
            let next = functions.len() as u64 + 1;
            let id = *functions.entry(name).or_insert(next);
            if id == next {
                profile.function.push(Function { id, name, system_name: name });
                profile.location.push(Location { id, line: vec![Line { function_id: id }] });
            }
            stack.location_id.push(id);
        }
        stack.label.push(Label { key: texts.number("thread"), str: texts.number(&sample.thread) });
        profile.sample.push(stack);
    }
    profile.string_table = texts.all;
    profile.encode_to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_kept_once_and_the_stack_in_order() {
        let sample = |stack: &[&str], count| Sample {
            stack: stack.iter().map(|s| (*s).to_owned()).collect(),
            thread: "t".into(),
            count,
        };
        let bytes = profile(&[sample(&["b", "a"], 2), sample(&["a"], 1)], Duration::from_secs(1), 100);
        let read = Profile::decode(bytes.as_slice()).expect("a profile");
        let name = |id: u64| {
            let function = read.function.iter().find(|f| f.id == id).expect("a function");
            read.string_table[function.name as usize].as_str()
        };
        let stacks: Vec<(Vec<&str>, Vec<i64>)> = read
            .sample
            .iter()
            .map(|s| (s.location_id.iter().map(|id| name(*id)).collect(), s.value.clone()))
            .collect();
        assert_eq!(stacks, [(vec!["b", "a"], vec![2, 20_000_000]), (vec!["a"], vec![1, 10_000_000])]);
        assert_eq!(read.string_table.iter().filter(|t| *t == "a").count(), 1);
    }
}
