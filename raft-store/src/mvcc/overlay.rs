//! Rows laid over a view: what has changed since it was frozen, or what stood there at a recent revision.

use std::{collections::BTreeMap, ops::ControlFlow};

use bytes::Bytes;
use proto::mvccpb::KeyValue;

use super::{
    keys::{End, KeyRange},
    source::{Row, Source, Visitor},
};
use crate::{error::Error, storage::View};

/// One key of an overlay.
#[derive(Clone, Debug)]
pub struct Laid {
    /// The key as the overlay shows it; nothing when it shows no such key.
    pub kv: Option<KeyValue>,
    /// Whether the view underneath has the key.
    pub in_view: bool,
}

/// The keys that differ from the view.
pub type Rows = BTreeMap<Bytes, Laid>;

fn laid<'r>(rows: &'r Rows, range: &'r KeyRange) -> impl Iterator<Item = (&'r Bytes, &'r Laid)> {
    rows.range::<Bytes, _>(&range.start..).take_while(|(key, _)| range.contains(key))
}

/// One key.
pub fn get(view: &View, rows: &Rows, key: &Bytes) -> Result<Option<KeyValue>, Error> {
    match rows.get(key) {
        Some(laid) => Ok(laid.kv.clone()),
        None => Source::get(view, key),
    }
}

/// Every key of a range, in order.
pub fn scan(view: &View, rows: &Rows, range: &KeyRange, visit: &mut Visitor<'_>) -> Result<(), Error> {
    if range.end == End::Point {
        if let Some(kv) = get(view, rows, &range.start)? {
            let _ = visit(Row::Decoded(&kv))?;
        }
        return Ok(());
    }
    if range.is_empty() {
        return Ok(());
    }
    let mut overlay = laid(rows, range).peekable();
    let mut stopped = false;
    view.scan(range, &mut |row| {
        while let Some((key, laid)) = overlay.peek() {
            if key.as_ref() > row.key() {
                break;
            }
            let same = key.as_ref() == row.key();
            let kv = laid.kv.as_ref();
            let flow = kv.map_or(Ok(ControlFlow::Continue(())), |kv| visit(Row::Decoded(kv)))?;
            overlay.next();
            stopped = flow.is_break();
            if stopped || same {
                return Ok(flow);
            }
        }
        let flow = visit(row)?;
        stopped = flow.is_break();
        Ok(flow)
    })?;
    for (_, laid) in overlay {
        if stopped {
            break;
        }
        if let Some(kv) = &laid.kv {
            stopped = visit(Row::Decoded(kv))?.is_break();
        }
    }
    Ok(())
}

/// How many keys a range holds.
pub fn count(view: &View, rows: &Rows, range: &KeyRange) -> Result<i64, Error> {
    if range.end == End::Point {
        return Ok(i64::from(get(view, rows, &range.start)?.is_some()));
    }
    let mut count = view.count(range)?;
    for (_, laid) in laid(rows, range) {
        count += i64::from(laid.kv.is_some()) - i64::from(laid.in_view);
    }
    Ok(count)
}

/// A view with an overlay, to read from.
pub struct Overlaid<'a> {
    /// What lies underneath.
    pub view: &'a View,
    /// What lies over it.
    pub rows: Rows,
    /// The revision answers carry.
    pub revision: i64,
    /// Reads below are refused.
    pub compact_revision: i64,
}

impl Source for Overlaid<'_> {
    fn revision(&self) -> i64 {
        self.revision
    }

    fn compact_revision(&self) -> i64 {
        self.compact_revision
    }

    fn get(&self, key: &Bytes) -> Result<Option<KeyValue>, Error> {
        get(self.view, &self.rows, key)
    }

    fn scan(&self, range: &KeyRange, visit: &mut Visitor<'_>) -> Result<(), Error> {
        scan(self.view, &self.rows, range, visit)
    }

    fn count(&self, range: &KeyRange) -> Result<i64, Error> {
        count(self.view, &self.rows, range)
    }

    fn at(&self, revision: i64, range: &KeyRange) -> Result<Box<dyn Source + '_>, Error> {
        self.view.at(revision, range)
    }
}
