//! The line format runtimes write logs in: `<time> <stream> <F|P> <text>`.

/// One line of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// When it was written, as text (RFC 3339 with nanoseconds).
    pub time: &'a str,
    /// Written to stderr rather than stdout.
    pub stderr: bool,
    /// The text goes on in the next line of the same stream.
    pub partial: bool,
    /// The text without its line end.
    pub content: &'a [u8],
}

/// Parses one line, with or without its line end; `None` if it is none.
pub fn parse_line(raw: &[u8]) -> Option<Line<'_>> {
    let raw = raw.strip_suffix(b"\n").unwrap_or(raw);
    let mut parts = raw.splitn(4, |b| *b == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stderr = match parts.next()? {
        b"stdout" => false,
        b"stderr" => true,
        _ => return None,
    };
    // Tags after the first are separated by colons.
    let partial = match parts.next()?.split(|b| *b == b':').next()? {
        b"P" => true,
        b"F" => false,
        _ => return None,
    };
    Some(Line { time, stderr, partial, content: parts.next().unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_and_partial_lines() {
        let line = parse_line(b"2026-01-01T00:00:00.1Z stdout F hello world\n").expect("a line");
        assert_eq!((line.time, line.stderr, line.partial), ("2026-01-01T00:00:00.1Z", false, false));
        assert_eq!(line.content, b"hello world");
        assert!(parse_line(b"t stderr P x").is_some_and(|l| l.partial && l.stderr));
        assert!(parse_line(b"t stdout F ").is_some_and(|l| l.content.is_empty()));
        for bad in [&b""[..], b"t", b"t x F y", b"t stdout Q y"] {
            assert_eq!(parse_line(bad), None);
        }
    }
}
