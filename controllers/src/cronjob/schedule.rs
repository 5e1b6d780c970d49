//! When a schedule is due. Times are found by `croner` in the schedule's zone; `@every` is our own.

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// Missed times beyond which something is wrong (upstream's).
const MISSED_MAX: i64 = 100;

enum When {
    Cron(Box<Cron>),
    Every(SignedDuration),
}

/// A parsed schedule in its zone.
pub struct Schedule {
    when: When,
    zone: TimeZone,
}

/// How many times were missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missed {
    /// Not more than can happen.
    Few,
    /// So many that clocks or settings must be wrong.
    Many,
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// The latest time that has come.
    pub at: Option<Timestamp>,
    /// How many came before it.
    pub missed: Missed,
}

/// A zone by name; without a name UTC.
pub fn zone(name: Option<&str>) -> Result<TimeZone, String> {
    match name {
        None | Some("") => Ok(TimeZone::UTC),
        Some(name) => TimeZone::get(name).map_err(|error| error.to_string()),
    }
}

/// The job's name of a time: minutes since the epoch make it unique and the same for everyone.
pub fn job_name(cron_job: &str, at: Timestamp) -> String {
    format!("{cron_job}-{}", at.as_second().div_euclid(60))
}

impl Schedule {
    /// Parses five fields, a nickname, or `@every <duration>`.
    pub fn parse(text: &str, zone: TimeZone) -> Result<Self, String> {
        if let Some(period) = text.strip_prefix("@every ") {
            let period = machinery::time::duration::parse(period.trim())?;
            let secs = period.as_secs().max(1);
            return Ok(Self { when: When::Every(SignedDuration::from_secs(secs)), zone });
        }
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let cron = parser.parse(text).map_err(|error| error.to_string())?;
        Ok(Self { when: When::Cron(Box::new(cron)), zone })
    }

    /// The first time after `at`.
    pub fn next_after(&self, at: Timestamp) -> Option<Timestamp> {
        match &self.when {
            When::Every(period) => at.checked_add(*period).ok(),
            When::Cron(cron) => {
                let next = cron.find_next_occurrence(&at.to_zoned(self.zone.clone()), false).ok()?;
                Some(next.timestamp())
            }
        }
    }

    /// The latest time after `since` and not after `now`.
    pub fn due(&self, since: Timestamp, now: Timestamp) -> Due {
        let none = Due { at: None, missed: Missed::Few };
        let Some(first) = self.next_after(since).filter(|first| *first <= now) else { return none };
        let latest = match &self.when {
            When::Every(period) => {
                let rounds = now.duration_since(first).as_secs() / period.as_secs();
                first.checked_add(SignedDuration::from_secs(rounds * period.as_secs())).ok()
            }
            When::Cron(cron) => {
                let found = cron.find_previous_occurrence(&now.to_zoned(self.zone.clone()), true).ok();
                found.map(|found| found.timestamp())
            }
        };
        let Some(latest) = latest.filter(|latest| *latest >= first) else { return none };
        let gap = self.next_after(first).map_or(1, |second| second.duration_since(first).as_secs().max(1));
        let missed = now.duration_since(first).as_secs() / gap + 1;
        Due { at: Some(latest), missed: if missed > MISSED_MAX { Missed::Many } else { Missed::Few } }
    }

    /// A time as the schedule's zone writes it.
    pub fn local_text(&self, at: Timestamp) -> String {
        if self.zone == TimeZone::UTC {
            return machinery::time::format_time(at);
        }
        at.to_zoned(self.zone.clone()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    #[test]
    fn times() {
        let cases = [
            ("*/5 * * * *", None, "2026-06-01T12:01:00Z", "2026-06-01T12:05:00Z"),
            ("0 9 * * 1-5", Some("Europe/Berlin"), "2026-06-06T00:00:00Z", "2026-06-08T07:00:00Z"),
            ("@hourly", None, "2026-06-01T12:01:00Z", "2026-06-01T13:00:00Z"),
            ("@every 90s", None, "2026-06-01T12:00:00Z", "2026-06-01T12:01:30Z"),
            ("0 0 1 * 1", None, "2026-06-02T00:00:00Z", "2026-06-08T00:00:00Z"),
        ];
        for (text, named, from, expected) in cases {
            let schedule = Schedule::parse(text, zone(named).expect("a zone")).expect(text);
            assert_eq!(schedule.next_after(time(from)), Some(time(expected)), "{text}");
        }
        assert!(Schedule::parse("60 * * * *", TimeZone::UTC).is_err());
        assert!(zone(Some("Nowhere/Land")).is_err());
    }

    #[test]
    fn the_latest_missed_time_is_due() {
        let schedule = Schedule::parse("*/10 * * * *", TimeZone::UTC).expect("a schedule");
        let due = |since, now| schedule.due(time(since), time(now));
        let few = |at: &str| Due { at: Some(time(at)), missed: Missed::Few };
        assert_eq!(due("2026-06-01T12:00:00Z", "2026-06-01T12:35:00Z"), few("2026-06-01T12:30:00Z"));
        assert_eq!(due("2026-06-01T12:00:00Z", "2026-06-01T12:10:00Z"), few("2026-06-01T12:10:00Z"));
        assert_eq!(due("2026-06-01T12:01:00Z", "2026-06-01T12:05:00Z").at, None);
        assert_eq!(due("2026-06-01T12:05:00Z", "2026-06-01T11:00:00Z").at, None, "the clock went back");
        assert_eq!(due("2026-01-01T00:00:00Z", "2026-06-01T00:00:00Z").missed, Missed::Many);
    }
}
