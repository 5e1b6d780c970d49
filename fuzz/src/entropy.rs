//! Choices read from a fuzzer's bytes, so that the fuzzer steers what a generator makes.

/// The bytes not used yet. When they are used up every choice is the first one.
pub struct Entropy<'a>(&'a [u8]);

impl<'a> Entropy<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// A number below `bound`; 0 where the bound is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        let wide = bound > usize::from(u8::MAX);
        let number = if wide { usize::from(self.byte()) << 8 } else { 0 } | usize::from(self.byte());
        number % bound.max(1)
    }

    /// True in `part` of 256 cases.
    pub fn chance(&mut self, part: u8) -> bool {
        self.byte() > u8::MAX - part
    }

    pub fn pick<T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    pub fn number(&mut self) -> i64 {
        let mut bytes = [0; 8];
        bytes.iter_mut().for_each(|b| *b = self.byte());
        i64::from_le_bytes(bytes)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
