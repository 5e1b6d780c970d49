//! Changes of the kind that break parsers: flipped, lost, doubled and foreign bytes. The same seed gives the same changes.

/// Pieces that mean something to one of the languages read.
const TOKENS: [&[u8]; 24] = [
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b":",
    b",",
    b"null",
    b"-",
    b"1e999",
    b"\xff\xff\xff\xff\x7f",
    b"\0",
    b"*",
    b"&a ",
    b"<<: ",
    b"\\ud800",
    b"%",
    b"=",
    b";",
    b"/",
    b"\xc3\xa9",
    b"-9223372036854775808",
    b"..",
    b"\n",
];

/// A small generator (xorshift).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.max(1))
    }

    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `bound`; 0 where the bound is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.number() >> 1).unwrap_or(0) % bound.max(1)
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| (self.number() >> 32) as u8).collect()
    }
}

/// A copy of the example with one to five changes.
pub fn mutate(example: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = example.to_vec();
    for _ in 0..=random.below(5) {
        let at = random.below(bytes.len() + 1);
        match random.below(6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 if at < bytes.len() => bytes[at] = (random.number() >> 32) as u8,
            2 => drop(bytes.drain(at..(at + random.below(8)).min(bytes.len()))),
            3 => {
                let again = bytes[at..(at + random.below(40)).min(bytes.len())].to_vec();
                bytes.splice(at..at, again);
            }
            4 => bytes.truncate(at),
            _ => drop(bytes.splice(at..at, TOKENS[random.below(TOKENS.len())].iter().copied())),
        }
    }
    bytes
}
