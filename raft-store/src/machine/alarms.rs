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
                let gone: Vec<(u64, i32)> = self
                    .raised
                    .iter()
                    .copied()
                    .filter(|(member, raised)| {
                        (request.member_id == 0 || *member == request.member_id)
                            && (kind == AlarmType::None || *raised == request.alarm)
                    })
                    .collect();
                for alarm in &gone {
                    self.raised.remove(alarm);
                }
                let listed = gone
                    .iter()
                    .map(|(member_id, alarm)| AlarmMember { member_id: *member_id, alarm: *alarm });
                (listed.collect(), !gone.is_empty())
            }
            Ok(AlarmAction::Activate) => (Vec::new(), false),
            _ => (self.list(kind), false),
        }
    }
}
