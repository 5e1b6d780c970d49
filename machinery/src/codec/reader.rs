//! Reading protobuf's wire format from a slice, without copying and without panicking.

use super::CodecError;

/// A cursor over one message.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

/// A field's number and how its content is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tag {
    pub number: u32,
    pub wire: u8,
}

pub(super) const VARINT: u8 = 0;
pub(super) const FIXED64: u8 = 1;
pub(super) const BYTES: u8 = 2;
pub(super) const FIXED32: u8 = 5;
const GROUP_START: u8 = 3;
const GROUP_END: u8 = 4;

impl<'a> Reader<'a> {
    pub(super) fn new(message: &'a [u8]) -> Self {
        Reader { rest: message }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next field's tag, `None` at the end of the message.
    pub(super) fn tag(&mut self) -> Result<Option<Tag>, CodecError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let raw = self.raw_varint()?;
        let number = u32::try_from(raw >> 3).map_err(|_| CodecError::Tag(raw >> 3))?;
        // Three bits always fit.
        let wire = (raw & 7) as u8;
        if number == 0 {
            return Err(CodecError::Tag(0));
        }
        Ok(Some(Tag { number, wire }))
    }

    pub(super) fn raw_varint(&mut self) -> Result<u64, CodecError> {
        let mut value = 0u64;
        for (i, byte) in self.rest.iter().enumerate() {
            if i == 10 {
                return Err(CodecError::Overflow);
            }
            value |= u64::from(byte & 0x7f) << (7 * i);
            if byte & 0x80 == 0 {
                self.rest = &self.rest[i + 1..];
                return Ok(value);
            }
        }
        Err(CodecError::Truncated)
    }

    pub(super) fn varint(&mut self, tag: Tag) -> Result<u64, CodecError> {
        if tag.wire == VARINT { self.raw_varint() } else { Err(CodecError::WireType(tag.wire)) }
    }

    pub(super) fn raw_double(&mut self) -> Result<f64, CodecError> {
        let (head, rest) = self.rest.split_first_chunk::<8>().ok_or(CodecError::Truncated)?;
        self.rest = rest;
        Ok(f64::from_le_bytes(*head))
    }

    pub(super) fn bytes(&mut self, tag: Tag) -> Result<&'a [u8], CodecError> {
        if tag.wire != BYTES {
            return Err(CodecError::WireType(tag.wire));
        }
        let len = usize::try_from(self.raw_varint()?).map_err(|_| CodecError::Overflow)?;
        let (head, rest) = self.rest.split_at_checked(len).ok_or(CodecError::Truncated)?;
        self.rest = rest;
        Ok(head)
    }

    pub(super) fn text(&mut self, tag: Tag) -> Result<&'a str, CodecError> {
        std::str::from_utf8(self.bytes(tag)?).map_err(|_| CodecError::Utf8)
    }

    /// Passes over a field that nobody knows.
    pub(super) fn skip(&mut self, tag: Tag) -> Result<(), CodecError> {
        match tag.wire {
            VARINT => self.raw_varint().map(|_| ()),
            FIXED64 => self.drop_bytes(8),
            BYTES => self.bytes(tag).map(|_| ()),
            FIXED32 => self.drop_bytes(4),
            GROUP_START => self.skip_group(),
            other => Err(CodecError::WireType(other)),
        }
    }

    fn drop_bytes(&mut self, len: usize) -> Result<(), CodecError> {
        self.rest = self.rest.get(len..).ok_or(CodecError::Truncated)?;
        Ok(())
    }

    /// Groups are skipped without recursion, whatever their nesting.
    fn skip_group(&mut self) -> Result<(), CodecError> {
        let mut open = 1usize;
        while open > 0 {
            let tag = self.tag()?.ok_or(CodecError::Truncated)?;
            match tag.wire {
                GROUP_START => open += 1,
                GROUP_END => open -= 1,
                _ => self.skip(tag)?,
            }
        }
        Ok(())
    }
}
