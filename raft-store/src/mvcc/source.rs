//! Where a range reads keys from: the newest rows, or rows as of a past revision.

use std::ops::ControlFlow;

use bytes::Bytes;
use prost::Message;
use proto::mvccpb::KeyValue;

use super::{
    history,
    keys::{End, KeyRange},
};
use crate::{
    error::Error,
    storage::{Column, View},
};

/// One key and its value, decoded only when asked for.
pub enum Row<'a> {
    /// As it stands on disk.
    Raw(&'a [u8], &'a [u8]),
    /// Already decoded.
    Decoded(&'a KeyValue),
}

impl Row<'_> {
    /// The user key.
    pub fn key(&self) -> &[u8] {
        match self {
            Row::Raw(key, _) => key,
            Row::Decoded(kv) => &kv.key,
        }
    }

    /// Bytes of the encoded `KeyValue`.
    pub fn encoded_len(&self) -> usize {
        match self {
            Row::Raw(_, value) => value.len(),
            Row::Decoded(kv) => kv.encoded_len(),
        }
    }

    /// The key with everything known about it.
    pub fn decode(&self) -> Result<KeyValue, Error> {
        match self {
            Row::Raw(key, value) => decode_kv(key, Bytes::copy_from_slice(value)),
            Row::Decoded(kv) => Ok((*kv).clone()),
        }
    }
}

/// Called for each row of a scan, in key order; may stop it.
pub type Visitor<'v> = dyn FnMut(Row<'_>) -> Result<ControlFlow<()>, Error> + 'v;

/// Keys and values at one revision.
pub trait Source {
    /// The newest revision this source shows; what a response header carries.
    fn revision(&self) -> i64;
    /// One key.
    fn get(&self, key: &Bytes) -> Result<Option<KeyValue>, Error>;
    /// Every key of a range, in order.
    fn scan(&self, range: &KeyRange, visit: &mut Visitor<'_>) -> Result<(), Error>;
    /// How many keys a range holds; does not walk them all.
    fn count(&self, range: &KeyRange) -> Result<i64, Error>;
    /// The same store as of a past revision, already checked to be readable, for reading a range.
    fn at(&self, revision: i64, range: &KeyRange) -> Result<Box<dyn Source + '_>, Error>;
    /// Reads below this revision are refused.
    fn compact_revision(&self) -> i64;
}

/// Decodes a stored `KeyValue`, naming the key when the bytes are damaged.
pub fn decode_kv(key: &[u8], value: Bytes) -> Result<KeyValue, Error> {
    KeyValue::decode(value).map_err(|error| {
        Error::new(
            tonic::Code::DataLoss,
            format!("etcdserver: corrupt row of key {:?}: {error}", String::from_utf8_lossy(key)),
        )
    })
}

impl Source for View {
    fn revision(&self) -> i64 {
        self.revision
    }

    fn compact_revision(&self) -> i64 {
        self.compact_revision
    }

    fn get(&self, key: &Bytes) -> Result<Option<KeyValue>, Error> {
        View::get(self, Column::Latest, key)?.map(|row| decode_kv(key, row.into())).transpose()
    }

    fn scan(&self, range: &KeyRange, visit: &mut Visitor<'_>) -> Result<(), Error> {
        if range.is_empty() {
            return Ok(());
        }
        if range.end == End::Point {
            if let Some(row) = View::get(self, Column::Latest, &range.start)? {
                let _ = visit(Row::Raw(&range.start, &row))?;
            }
            return Ok(());
        }
        let mut cursor = self.cursor(Column::Latest, &range.start, range.upper_bound().as_deref());
        while let Some((key, value)) = cursor.row() {
            if visit(Row::Raw(key, value))?.is_break() {
                return Ok(());
            }
            cursor.advance();
        }
        cursor.finish()
    }

    fn count(&self, range: &KeyRange) -> Result<i64, Error> {
        if range.is_empty() {
            return Ok(0);
        }
        if range.end == End::Point {
            return Ok(i64::from(View::has(self, Column::Latest, &range.start)?));
        }
        let (whole, walks) = self.counts().between(&range.start, range.upper_bound().as_deref());
        let mut count = i64::try_from(whole).unwrap_or(i64::MAX);
        for (start, end) in walks {
            let mut cursor = self.cursor(Column::Latest, &start, end.as_deref());
            while cursor.row().is_some() {
                count += 1;
                cursor.advance();
            }
            cursor.finish()?;
        }
        Ok(count)
    }

    fn at(&self, revision: i64, range: &KeyRange) -> Result<Box<dyn Source + '_>, Error> {
        history::past(self, revision, range)
    }
}
