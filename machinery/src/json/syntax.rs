//! Go's words for the first syntax error of a JSON text. A scanner with Go's states; it builds nothing.

use super::DEPTH_MAX;

/// The error, or `None` when the text's syntax is good (what was wrong is then something else).
pub(super) fn error(bytes: &[u8]) -> Option<String> {
    let mut scanner = Scanner { bytes, at: 0 };
    let outcome = scanner.text();
    match outcome {
        Ok(()) => None,
        Err(Failure::End) => Some("unexpected end of JSON input".to_owned()),
        Err(Failure::Character(context)) => {
            let shown = quote_byte(*bytes.get(scanner.at)?);
            Some(format!("invalid character {shown} {context}"))
        }
        Err(Failure::Depth) => {
            let shown = quote_byte(*bytes.get(scanner.at)?);
            Some(format!("invalid character {shown} exceeded max depth"))
        }
    }
}

enum Failure {
    End,
    /// The character at the position does not fit; the text says where.
    Character(String),
    Depth,
}

type Scan = Result<(), Failure>;

struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// What the scanner waits for inside a list or object.
#[derive(Clone, Copy, PartialEq)]
enum Open {
    List,
    Object,
}

impl Scanner<'_> {
    fn peek(&self) -> Result<u8, Failure> {
        self.bytes.get(self.at).copied().ok_or(Failure::End)
    }

    fn space(&mut self) {
        while self.bytes.get(self.at).is_some_and(|b| b" \t\r\n".contains(b)) {
            self.at += 1;
        }
    }

    fn fail<T>(&self, context: &str) -> Result<T, Failure> {
        Err(Failure::Character(context.to_owned()))
    }

    /// One value with everything nested in it, without recursion.
    fn text(&mut self) -> Scan {
        let mut open: Vec<Open> = Vec::new();
        'value: loop {
            self.space();
            match self.peek()? {
                // Told of the character that opens one level too many, before anything behind it.
                b'{' | b'[' if open.len() == DEPTH_MAX => return Err(Failure::Depth),
                b'{' => {
                    self.at += 1;
                    self.space();
                    if self.peek()? == b'}' {
                        self.at += 1;
                    } else {
                        open.push(Open::Object);
                        self.key()?;
                        continue 'value;
                    }
                }
                b'[' => {
                    self.at += 1;
                    self.space();
                    if self.peek()? == b']' {
                        self.at += 1;
                    } else {
                        open.push(Open::List);
                        continue 'value;
                    }
                }
                _ => self.scalar()?,
            }
            // After a value: close what ends here, until a comma asks for the next one.
            loop {
                self.space();
                let Some(inside) = open.last().copied() else {
                    return if self.at == self.bytes.len() {
                        Ok(())
                    } else {
                        self.fail("after top-level value")
                    };
                };
                match (inside, self.peek()?) {
                    (Open::List, b']') | (Open::Object, b'}') => {
                        self.at += 1;
                        open.pop();
                    }
                    (Open::List, b',') => {
                        self.at += 1;
                        continue 'value;
                    }
                    (Open::Object, b',') => {
                        self.at += 1;
                        self.space();
                        self.key()?;
                        continue 'value;
                    }
                    (Open::List, _) => return self.fail("after array element"),
                    (Open::Object, _) => return self.fail("after object key:value pair"),
                }
            }
        }
    }

    fn key(&mut self) -> Scan {
        if self.peek()? != b'"' {
            return self.fail("looking for beginning of object key string");
        }
        self.string()?;
        self.space();
        if self.peek()? != b':' {
            return self.fail("after object key");
        }
        self.at += 1;
        Ok(())
    }

    fn scalar(&mut self) -> Scan {
        match self.peek()? {
            b'"' => self.string(),
            b'-' | b'0'..=b'9' => self.number(),
            b't' => self.literal("true"),
            b'f' => self.literal("false"),
            b'n' => self.literal("null"),
            _ => self.fail("looking for beginning of value"),
        }
    }

    fn literal(&mut self, word: &str) -> Scan {
        for expected in word.bytes() {
            if self.peek()? != expected {
                let context = format!("in literal {word} (expecting {})", quote_byte(expected));
                return Err(Failure::Character(context));
            }
            self.at += 1;
        }
        Ok(())
    }

    fn string(&mut self) -> Scan {
        self.at += 1;
        loop {
            match self.peek()? {
                b'"' => {
                    self.at += 1;
                    return Ok(());
                }
                b'\\' => {
                    self.at += 1;
                    match self.peek()? {
                        b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"' => self.at += 1,
                        b'u' => {
                            self.at += 1;
                            for _ in 0..4 {
                                if !self.peek()?.is_ascii_hexdigit() {
                                    return self.fail("in \\u hexadecimal character escape");
                                }
                                self.at += 1;
                            }
                        }
                        _ => return self.fail("in string escape code"),
                    }
                }
                0..=0x1f => return self.fail("in string literal"),
                _ => self.at += 1,
            }
        }
    }

    /// Digits until something else; at least one, else the context names the place.
    fn digits(&mut self, context: &str) -> Scan {
        if !self.peek()?.is_ascii_digit() {
            return self.fail(context);
        }
        while self.bytes.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Scan {
        if self.peek()? == b'-' {
            self.at += 1;
        }
        if self.peek()? == b'0' {
            self.at += 1;
        } else {
            self.digits("in numeric literal")?;
        }
        if self.bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits("after decimal point in numeric literal")?;
        }
        if self.bytes.get(self.at).is_some_and(|b| b"eE".contains(b)) {
            self.at += 1;
            if self.bytes.get(self.at).is_some_and(|b| b"+-".contains(b)) {
                self.at += 1;
            }
            self.digits("in exponent of numeric literal")?;
        }
        Ok(())
    }
}

/// A byte between single quotes, as Go shows it.
fn quote_byte(byte: u8) -> String {
    match byte {
        b'\'' => "'\\''".to_owned(),
        b'"' => "'\"'".to_owned(),
        _ => {
            let quoted = crate::gotext::quote(&char::from(byte).to_string());
            format!("'{}'", quoted.trim_matches('"'))
        }
    }
}
