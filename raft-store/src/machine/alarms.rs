//! Raised alarms: replicated, so that every member refuses the same writes.

use std::collections::BTreeSet;

use proto::{
    etcdserverpb::{AlarmMember, AlarmRequest, AlarmType, alarm_request::AlarmAction},
    raftpb::AlarmRecord,
};

/// The alarms that are on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Alarms {
    raised: BTreeSet<(u64, i32)>,
}

impl Alarms {
    /// From what was stored.
    pub fn from_record(record: &AlarmRecord) -> Self {
        Self { raised: record.alarms.iter().map(|alarm| (alarm.member_id, alarm.alarm)).collect() }
    }

    /// As it is stored.
    pub fn to_record(&self) -> AlarmRecord {
        AlarmRecord { alarms: self.list(AlarmType::None) }
    }

    /// Alarms of one type, or all of them.
    pub fn list(&self, kind: AlarmType) -> Vec<AlarmMember> {
        let wanted =
            self.raised.iter().filter(|(_, raised)| kind == AlarmType::None || *raised == kind as i32);
        wanted.map(|(member_id, alarm)| AlarmMember { member_id: *member_id, alarm: *alarm }).collect()
    }

    /// Whether any member raised an alarm of this type.
    pub fn any(&self, kind: AlarmType) -> bool {
        self.raised.iter().any(|(_, raised)| *raised == kind as i32)
    }

    /// Carries out a request; returns what the answer lists and whether anything changed.
    pub fn apply(&mut self, request: &AlarmRequest) -> (Vec<AlarmMember>, bool) {
        let kind = AlarmType::try_from(request.alarm).unwrap_or(AlarmType::None);
        let named = AlarmMember { member_id: request.member_id, alarm: request.alarm };
        match AlarmAction::try_from(request.action) {
            Ok(AlarmAction::Activate) if kind != AlarmType::None => {
                let changed = self.raised.insert((request.member_id, request.alarm));
                (vec![named], changed)
            }
            Ok(AlarmAction::Deactivate) => {
                // Exactly the one that is named; clients that mean all ask which there are first.
                let changed = self.raised.remove(&(request.member_id, request.alarm));
                (changed.then_some(named).into_iter().collect(), changed)
            }
            Ok(AlarmAction::Activate) => (Vec::new(), false),
            _ => (self.list(kind), false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOSPACE: i32 = AlarmType::Nospace as i32;
    const CORRUPT: i32 = AlarmType::Corrupt as i32;

    /// Action, member, alarm; what the answer lists, and what is on afterwards.
    type Step = (AlarmAction, u64, i32, &'static [(u64, i32)], &'static [(u64, i32)]);

    #[test]
    fn alarms_are_raised_and_lowered_one_by_one_as_in_etcd() {
        let (get, on, off) = (AlarmAction::Get, AlarmAction::Activate, AlarmAction::Deactivate);
        let both = &[(7, NOSPACE), (8, CORRUPT)];
        let steps: [Step; 10] = [
            (on, 7, NOSPACE, &[(7, NOSPACE)], &[(7, NOSPACE)]),
            (on, 8, CORRUPT, &[(8, CORRUPT)], both),
            (off, 0, NOSPACE, &[], both),
            (off, 7, 0, &[], both),
            (off, 0, 0, &[], both),
            (off, 7, CORRUPT, &[], both),
            (on, 7, 0, &[], both),
            (get, 0, 0, both, both),
            (get, 0, CORRUPT, &[(8, CORRUPT)], both),
            (off, 7, NOSPACE, &[(7, NOSPACE)], &[(8, CORRUPT)]),
        ];
        let plain = |list: Vec<AlarmMember>| -> Vec<(u64, i32)> {
            list.into_iter().map(|alarm| (alarm.member_id, alarm.alarm)).collect()
        };
        let mut alarms = Alarms::default();
        for (number, (action, member_id, alarm, listed, left)) in steps.into_iter().enumerate() {
            let before = alarms.clone();
            let request = AlarmRequest { action: action as i32, member_id, alarm };
            let (answer, changed) = alarms.apply(&request);
            assert_eq!(plain(answer), listed, "step {number}");
            assert_eq!(plain(alarms.list(AlarmType::None)), left, "step {number}");
            assert_eq!(changed, alarms != before, "step {number}");
        }
    }
}
