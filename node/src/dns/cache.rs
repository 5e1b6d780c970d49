//! Answers of upstream servers, kept for as long as they allow. Pure: the caller passes the time.
//!
//! Two generations bound the memory: when the young one is half of the limit, the old one is thrown away and the young
//! one takes its place. What is asked for again moves back to the young one, so popular names survive.

use std::{mem, time::Duration};

use hickory_server::proto::{
    op::{Message, ResponseCode},
    rr::{Name, RData, RecordType},
};
use rustc_hash::FxHashMap;

/// Longest time an answer is kept, whatever its records say.
const POSITIVE_MAX: Duration = Duration::from_secs(3_600);
/// Longest time a "no" is kept.
const NEGATIVE_MAX: Duration = Duration::from_secs(30);

/// What was asked: lower-case name, type, and whether signatures were wanted.
pub type Question = (Name, RecordType, bool);

#[derive(Debug)]
struct Entry {
    answer: Message,
    /// Bytes on the wire.
    len: usize,
    /// Since the cache's epoch.
    stored: Duration,
    expires: Duration,
}

/// The cache. Times are durations since an epoch of the caller's.
#[derive(Debug)]
pub struct Cache {
    young: FxHashMap<Question, Entry>,
    old: FxHashMap<Question, Entry>,
    /// Bytes of the young generation.
    young_len: usize,
    entries_max: usize,
    len_max: usize,
}

impl Cache {
    /// A cache for at most `entries_max` answers of `len_max` bytes together: whoever owns a domain decides how long
    /// its answers are, and any pod may ask for ten thousand of them.
    pub fn new(entries_max: usize, len_max: usize) -> Self {
        let (young, old) = (FxHashMap::default(), FxHashMap::default());
        Self { young, old, young_len: 0, entries_max, len_max }
    }

    /// An answer with the remaining times to live.
    pub fn get(&mut self, question: &Question, now: Duration) -> Option<Message> {
        if let Some(entry) = self.old.remove(question) {
            self.insert(question.clone(), entry);
        }
        let entry = self.young.get(question)?;
        if entry.expires <= now {
            self.young_len -= entry.len;
            self.young.remove(question);
            return None;
        }
        let age = u32::try_from(now.saturating_sub(entry.stored).as_secs()).unwrap_or(u32::MAX);
        let mut answer = entry.answer.clone();
        for record in answer.answers.iter_mut().chain(&mut answer.authorities).chain(&mut answer.additionals)
        {
            record.ttl = record.ttl.saturating_sub(age);
        }
        Some(answer)
    }

    /// Keeps an answer, if it may be kept.
    pub fn put(&mut self, question: Question, answer: &Message, now: Duration) {
        let Some(ttl) = lifetime(answer).filter(|ttl| !ttl.is_zero()) else { return };
        let Ok(len) = answer.to_vec().map(|bytes| bytes.len()) else { return };
        self.insert(question, Entry { answer: answer.clone(), len, stored: now, expires: now + ttl });
    }

    fn insert(&mut self, question: Question, entry: Entry) {
        let full = self.young.len() >= self.entries_max / 2 || self.young_len + entry.len > self.len_max / 2;
        if full {
            self.old = mem::take(&mut self.young);
            self.young_len = 0;
        }
        self.young_len += entry.len;
        if let Some(replaced) = self.young.insert(question, entry) {
            self.young_len -= replaced.len;
        }
    }
}

/// How long an answer may be kept; `None` for failures and truncated answers.
fn lifetime(answer: &Message) -> Option<Duration> {
    if answer.metadata.truncation {
        return None;
    }
    let secs = |secs: u32| Duration::from_secs(secs.into());
    match answer.metadata.response_code {
        ResponseCode::NoError if !answer.answers.is_empty() => {
            answer.answers.iter().map(|record| secs(record.ttl)).min().map(|ttl| ttl.min(POSITIVE_MAX))
        }
        // RFC 2308: the smaller of the record's own time and its last field.
        ResponseCode::NoError | ResponseCode::NXDomain => answer.authorities.iter().find_map(|record| {
            let RData::SOA(soa) = &record.data else { return None };
            Some(secs(record.ttl.min(soa.minimum)).min(NEGATIVE_MAX))
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use hickory_server::proto::{
        op::OpCode,
        rr::{
            Record,
            rdata::{A, SOA},
        },
    };

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).expect("a name")
    }

    fn answer(ttls: &[u32]) -> Message {
        let mut message = Message::response(1, OpCode::Query);
        let record = |ttl: &u32| Record::from_rdata(name("a.example."), *ttl, RData::A(A::new(1, 2, 3, 4)));
        message.answers = ttls.iter().map(record).collect();
        message
    }

    fn question(label: usize) -> Question {
        (name(&format!("n{label}.example.")), RecordType::A, false)
    }

    const fn at(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn answers_age_and_expire() {
        let mut cache = Cache::new(10, usize::MAX);
        cache.put(question(1), &answer(&[60, 20]), at(100));
        let ttls = |message: Message| message.answers.iter().map(|record| record.ttl).collect::<Vec<_>>();
        assert_eq!(cache.get(&question(1), at(105)).map(ttls), Some(vec![55, 15]));
        assert_eq!(cache.get(&question(1), at(120)), None);
        assert_eq!(cache.get(&question(2), at(100)), None);
    }

    #[test]
    fn negative_answers_need_a_soa_and_failures_are_not_kept() {
        let mut no = answer(&[]);
        no.metadata.response_code = ResponseCode::NXDomain;
        assert_eq!(lifetime(&no), None);
        let soa = SOA::new(name("ns."), name("m."), 1, 1, 1, 1, 7);
        no.authorities = vec![Record::from_rdata(name("example."), 3_600, RData::SOA(soa))];
        assert_eq!(lifetime(&no), Some(at(7)));
        let mut failed = answer(&[60]);
        failed.metadata.response_code = ResponseCode::ServFail;
        assert_eq!(lifetime(&failed), None);
        let mut cut = answer(&[60]);
        cut.metadata.truncation = true;
        assert_eq!(lifetime(&cut), None);
    }

    #[test]
    fn memory_is_bounded_and_popular_names_stay() {
        let mut cache = Cache::new(10, usize::MAX);
        for label in 0..100 {
            cache.put(question(label), &answer(&[600]), at(0));
            assert!(cache.get(&question(0), at(1)).is_some(), "asked for all the time, at {label}");
            assert!(cache.young.len() + cache.old.len() <= 11);
        }
    }

    #[test]
    fn long_answers_push_each_other_out() {
        let long = answer(&[600; 100]);
        let len = long.to_vec().expect("it can be written").len();
        let mut cache = Cache::new(1_000, 4 * len);
        let held = |cache: &Cache| {
            cache.young.values().chain(cache.old.values()).map(|entry| entry.len).sum::<usize>()
        };
        for label in 0..50 {
            // A third of them is written twice and one in five expires: neither must be counted for ever.
            cache.put(question(label), &long, at(0));
            cache.put(question(label - label % 3), &long, at(0));
            assert!(cache.get(&question(label), at(1)).is_some(), "the last one is there, at {label}");
            if label % 5 == 0 {
                assert!(cache.get(&question(label), at(600)).is_none());
            }
            assert!(held(&cache) <= 4 * len, "at {label}");
            assert_eq!(
                cache.young_len,
                cache.young.values().map(|entry| entry.len).sum::<usize>(),
                "at {label}"
            );
        }
    }
}
