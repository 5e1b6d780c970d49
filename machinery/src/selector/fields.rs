//! Field selectors: `metadata.name=a,status.phase!=Failed`. Which fields a kind offers is the caller's rule.

use std::fmt;

/// One condition on one field.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FieldRequirement {
    pub field: String,
    /// Whether the field must equal the value, or must not.
    pub equals: bool,
    pub value: String,
}

/// A field selector: all requirements must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    requirements: Vec<FieldRequirement>,
}

impl Fields {
    pub fn everything() -> Self {
        Fields::default()
    }

    /// Reads the text of a `fieldSelector` query parameter; the error is upstream's text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut terms = split_terms(text);
        terms.sort_unstable();
        let mut requirements = Vec::new();
        for term in terms.into_iter().filter(|t| !t.is_empty()) {
            let (field, equals, value) = split_term(term)
                .ok_or_else(|| format!("invalid selector: '{text}'; can't understand '{term}'"))?;
            requirements.push(FieldRequirement { field: field.to_owned(), equals, value: unescape(value)? });
        }
        Ok(Fields { requirements })
    }

    pub fn requirements(&self) -> &[FieldRequirement] {
        &self.requirements
    }

    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }

    /// The value a field is required to equal, if there is one.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.requirements.iter().find(|r| r.equals && r.field == field).map(|r| r.value.as_str())
    }

    /// Whether the fields that `lookup` finds match; an absent field is the empty string.
    pub fn matches_fn<'a>(&self, lookup: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.requirements.iter().all(|r| (lookup(&r.field).unwrap_or_default() == r.value) == r.equals)
    }
}

/// Cuts at commas that no backslash escapes.
fn split_terms(text: &str) -> Vec<&str> {
    let mut out = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                out.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    out.push(&text[start..]);
    out
}

fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    let at =
        term.char_indices().find(|(i, _)| term[*i..].starts_with("!=") || term[*i..].starts_with('='))?.0;
    let (field, rest) = term.split_at(at);
    if let Some(value) = rest.strip_prefix("!=") {
        return Some((field, false, value));
    }
    let value = rest.strip_prefix("==").or_else(|| rest.strip_prefix('='))?;
    Some((field, true, value))
}

fn unescape(value: &str) -> Result<String, String> {
    if !value.contains(['\\', ',', '=']) {
        return Ok(value.to_owned());
    }
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(escaped @ ('\\' | ',' | '=')) => out.push(escaped),
                Some(other) => {
                    return Err(format!(
                        "invalid field selector: invalid escape sequence: {}",
                        crate::gotext::quote(&format!("\\{other}"))
                    ));
                }
                None => {
                    return Err(format!(
                        "invalid field selector: unescaped character in value: {}",
                        crate::gotext::quote("\\")
                    ));
                }
            },
            ',' | '=' => {
                return Err(format!("invalid field selector: unescaped character in value: {c:?}"));
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

impl fmt::Display for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, r) in self.requirements.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            let value = r.value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
            write!(f, "{comma}{}{}{value}", r.field, if r.equals { "=" } else { "!=" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parses_and_matches() {
        let fields = |key: &str| match key {
            "metadata.name" => Some("a"),
            "status.phase" => Some("Running"),
            _ => None,
        };
        for (text, canonical, matches) in [
            ("", "", true),
            ("metadata.name=a", "metadata.name=a", true),
            ("metadata.name==b", "metadata.name=b", false),
            ("status.phase!=Failed,metadata.name=a", "metadata.name=a,status.phase!=Failed", true),
            ("x=", "x=", true),
            ("x=a\\,b", "x=a\\,b", false),
        ] {
            let selector = Fields::parse(text).unwrap();
            assert_eq!(
                (selector.to_string().as_str(), selector.matches_fn(fields)),
                (canonical, matches),
                "{text}"
            );
        }
        assert_eq!(Fields::parse("abc"), Err("invalid selector: 'abc'; can't understand 'abc'".to_owned()));
        assert_eq!(Fields::parse("metadata.name=a").unwrap().exact("metadata.name"), Some("a"));
    }

    proptest! {
        #[test]
        fn never_panics(text in "[a-z.=!,\\\\\\PC]{0,30}") {
            if let Ok(selector) = Fields::parse(&text) {
                prop_assert_eq!(Fields::parse(&selector.to_string()), Ok(selector));
            }
        }
    }
}
