//! Writing protobuf's wire format to the end of a buffer.

use super::reader::{BYTES, FIXED64, VARINT};

fn raw_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        // The low seven bits with the continuation mark.
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn tag(out: &mut Vec<u8>, number: u32, wire: u8) {
    raw_varint(out, u64::from(number) << 3 | u64::from(wire));
}

pub(crate) fn varint(out: &mut Vec<u8>, number: u32, value: u64) {
    tag(out, number, VARINT);
    raw_varint(out, value);
}

/// A signed number; negative ones take ten bytes.
pub(super) fn int(out: &mut Vec<u8>, number: u32, value: i64) {
    varint(out, number, value.cast_unsigned());
}

pub(crate) fn double(out: &mut Vec<u8>, number: u32, value: f64) {
    tag(out, number, FIXED64);
    out.extend_from_slice(&value.to_le_bytes());
}

pub(crate) fn bytes(out: &mut Vec<u8>, number: u32, content: &[u8]) {
    bytes_head(out, number, content.len());
    out.extend_from_slice(content);
}

/// What stands before the content.
pub(super) fn bytes_head(out: &mut Vec<u8>, number: u32, len: usize) {
    tag(out, number, BYTES);
    raw_varint(out, len as u64);
}

/// A nested message. Its length is known only afterwards: one byte is kept free for it, which fits most messages;
/// longer ones are moved by a byte or two.
pub(super) fn try_message<E>(
    out: &mut Vec<u8>,
    number: u32,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    tag(out, number, BYTES);
    let start = out.len();
    out.push(0);
    write(out)?;
    let len = out.len() - start - 1;
    if let Ok(short) = u8::try_from(len)
        && short < 0x80
    {
        out[start] = short;
        return Ok(());
    }
    let mut prefix = Vec::with_capacity(5);
    raw_varint(&mut prefix, len as u64);
    out.splice(start..=start, prefix);
    Ok(())
}

/// As [`try_message`], for content that cannot fail.
pub(super) fn message(out: &mut Vec<u8>, number: u32, write: impl FnOnce(&mut Vec<u8>)) {
    let done: Result<(), std::convert::Infallible> = try_message(out, number, |out| {
        write(out);
        Ok(())
    });
    match done {
        Ok(()) => {}
    }
}
