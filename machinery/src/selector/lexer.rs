//! Tokens of a label selector, as upstream's lexer cuts them.

/// A token with its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    pub kind: Kind,
    pub text: String,
}

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Error,
    End,
    CloseParen,
    Comma,
    Not,
    DoubleEquals,
    Equals,
    Greater,
    Identifier,
    In,
    Less,
    NotEquals,
    NotIn,
    OpenParen,
}

fn special(byte: u8) -> bool {
    b"=!(),><".contains(&byte)
}

fn space(byte: u8) -> bool {
    b" \t\r\n".contains(&byte)
}

fn symbol(text: &str) -> Option<Kind> {
    Some(match text {
        ")" => Kind::CloseParen,
        "," => Kind::Comma,
        "!" => Kind::Not,
        "==" => Kind::DoubleEquals,
        "=" => Kind::Equals,
        ">" => Kind::Greater,
        "<" => Kind::Less,
        "!=" => Kind::NotEquals,
        "(" => Kind::OpenParen,
        _ => return None,
    })
}

/// Every token of the text, the last one [`Kind::End`].
pub fn scan(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches(|c: char| u8::try_from(c).is_ok_and(space));
        // A zero byte ends the text for upstream's lexer.
        let Some(first) = rest.bytes().next().filter(|b| *b != 0) else {
            tokens.push(Token { kind: Kind::End, text: String::new() });
            return tokens;
        };
        let (token, len) = if special(first) { scan_symbol(rest) } else { scan_word(rest) };
        tokens.push(token);
        rest = &rest[len..];
    }
}

/// The longest symbol that the text starts with.
fn scan_symbol(rest: &str) -> (Token, usize) {
    let run = rest.bytes().take_while(|b| special(*b)).count();
    let mut best = None;
    for len in 1..=run {
        match symbol(&rest[..len]) {
            Some(kind) => best = Some((kind, len)),
            None if best.is_some() => break,
            None => {}
        }
    }
    match best {
        Some((kind, len)) => (Token { kind, text: rest[..len].to_owned() }, len),
        None => {
            let text = format!("error expected: keyword found '{}'", &rest[..run]);
            (Token { kind: Kind::Error, text }, run)
        }
    }
}

fn scan_word(rest: &str) -> (Token, usize) {
    let len = rest.bytes().take_while(|b| *b != 0 && !special(*b) && !space(*b)).count();
    let text = rest[..len].to_owned();
    let kind = match text.as_str() {
        "in" => Kind::In,
        "notin" => Kind::NotIn,
        _ => Kind::Identifier,
    };
    (Token { kind, text }, len)
}
