//! Numbers that are no whole ones, exact to the last bit as Go reads them: the JSON library is off by one place for some.

use std::collections::VecDeque;

/// The floats of a JSON text in the order in which they stand, found when the first of them is met.
pub(super) struct Floats<'a> {
    bytes: &'a [u8],
    found: Option<VecDeque<f64>>,
}

impl<'a> Floats<'a> {
    pub fn of(bytes: &'a [u8]) -> Self {
        Self { bytes, found: None }
    }

    /// The next one; `read` is what the library makes of it.
    pub fn next(&mut self, read: f64) -> f64 {
        let bytes = self.bytes;
        self.found.get_or_insert_with(|| floats(bytes)).pop_front().unwrap_or(read)
    }
}

fn floats(bytes: &[u8]) -> VecDeque<f64> {
    let (mut found, mut at) = (VecDeque::new(), 0);
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => at = after_string(bytes, at + 1),
            b'-' | b'0'..=b'9' => {
                let is_part = |b: &u8| matches!(b, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9');
                let len = bytes[at..].iter().take_while(|b| is_part(b)).count();
                found.extend(float(&bytes[at..at + len]));
                at += len;
            }
            _ => at += 1,
        }
    }
    found
}

/// Where the text goes on after a string whose content starts here.
fn after_string(bytes: &[u8], mut at: usize) -> usize {
    loop {
        match bytes.get(at) {
            None => return at,
            Some(b'"') => return at + 1,
            Some(b'\\') => at += 2,
            Some(_) => at += 1,
        }
    }
}

/// The number, unless it is a whole one that fits 64 bits.
fn float(token: &[u8]) -> Option<f64> {
    let text = std::str::from_utf8(token).ok()?;
    let is_whole = text != "-0" && (text.parse::<i64>().is_ok() || text.parse::<u64>().is_ok());
    if is_whole { None } else { text.parse().ok() }
}
