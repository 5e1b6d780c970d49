//! Variables from a file in one of the pod's volumes (`fileKeyRef`), in the small part of the shell's language that
//! upstream takes: a line is `NAME='value'`, what stands between the quotes is taken as it is, newlines too.
//!
//! Files are read beneath their volume: no link leads outside it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::{Container, FileKeySelector};

use super::env::EnvError;
use super::volumes::container_mounts::Prepared;
use super::volumes::subpath;

/// Longer files are not read.
const BYTES_MAX: u64 = 1 << 20;

/// A file that variables come from.
#[derive(Clone, Debug)]
pub struct EnvFile {
    /// Where it is on the machine.
    path: PathBuf,
    /// What is in it, or why that is not known.
    text: Result<String, String>,
}

/// Files by the volume's name and the path in it.
pub type EnvFiles = BTreeMap<(String, String), EnvFile>;

/// Reads every file that the container's variables refer to, in those volumes that there are.
pub fn read_all(container: &Container, volumes: &BTreeMap<String, Prepared>) -> EnvFiles {
    let sources = container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref());
    let files = sources.filter_map(|source| source.file_key_ref.as_ref()).filter_map(|reference| {
        let volume = &volumes.get(&reference.volume_name)?.path;
        let text = subpath::read(volume, &reference.path, BYTES_MAX).map_err(|error| error.to_string());
        let file = EnvFile { path: volume.join(&reference.path), text };
        Some(((reference.volume_name.clone(), reference.path.clone()), file))
    });
    files.collect()
}

/// The variable's value; `None` where it is optional and not there.
pub fn variable(files: &EnvFiles, reference: &FileKeySelector) -> Result<Option<String>, EnvError> {
    let place = (reference.volume_name.clone(), reference.path.clone());
    let file = files.get(&place).ok_or_else(|| EnvError::NoVolume(reference.volume_name.clone()))?;
    let value = file.text.as_deref().map_err(Clone::clone).and_then(|text| value(text, &reference.key));
    let value = value.map_err(|why| {
        tracing::info!(file = %file.path.display(), why, "a file of variables cannot be read");
        EnvError::BadFile
    })?;
    match (value.is_empty(), reference.optional) {
        (false, _) => Ok(Some(value)),
        (true, Some(true)) => Ok(None),
        (true, _) => {
            Err(EnvError::NoFileKey { key: reference.key.clone(), file: file.path.display().to_string() })
        }
    }
}

/// The value of `key`; empty where there is none. Lines after it are not looked at.
fn value(text: &str, key: &str) -> Result<String, String> {
    let mut lines = text.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        let line = line.trim_start_matches([' ', '\t']);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |what: &str| Err(format!("line {}: {what}", index + 1));
        let Some((name, rest)) = line.split_once('=') else { return wrong("missing '='") };
        if name.is_empty() {
            return wrong("empty variable name");
        }
        if name.ends_with([' ', '\t']) {
            return wrong("whitespace before '=' is not allowed");
        }
        if rest.starts_with([' ', '\t']) {
            // As a shell reads it, nothing is assigned.
            if name == key {
                return Ok(String::new());
            }
            continue;
        }
        let Some(rest) = rest.strip_prefix('\'') else {
            return wrong("value must be enclosed in single quotes");
        };
        let mut quoted = rest.to_owned();
        while !quoted.contains('\'') {
            let Some((_, more)) = lines.next() else { return wrong("unclosed single quote") };
            quoted.push('\n');
            quoted.push_str(more);
        }
        let (found, after) = quoted.split_once('\'').unwrap_or_default();
        let after = after.trim_start_matches([' ', '\t']);
        if !after.is_empty() && !after.starts_with('#') {
            return wrong("unexpected content after closing quote");
        }
        if name == key {
            return Ok(found.to_owned());
        }
    }
    Ok(String::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_as_a_shell_reads_them() {
        let check = |text: &str, expected: Result<&str, &str>| {
            let got = value(text, "K");
            assert_eq!(got.as_deref().map_err(String::as_str), expected, "{text}");
        };
        check("A='1'\n# K='no'\n\n  K='two words'  # why\n", Ok("two words"));
        check("K='$HOME \\n \"x\"'", Ok("$HOME \\n \"x\""));
        check("K='one\ntwo\n'", Ok("one\ntwo\n"));
        check("A='1'", Ok(""));
        check("K= '1'", Ok(""));
        check("K=''", Ok(""));
        check("K='1'\nnonsense", Ok("1"));
        check("nonsense\nK='1'", Err("line 1: missing '='"));
        check("A='1'\nK ='1'", Err("line 2: whitespace before '=' is not allowed"));
        check("='1'", Err("line 1: empty variable name"));
        check("K=1", Err("line 1: value must be enclosed in single quotes"));
        check("K='1''2'", Err("line 1: unexpected content after closing quote"));
        check("K='1", Err("line 1: unclosed single quote"));
    }

    #[test]
    fn a_missing_key_is_an_error_unless_it_is_optional() {
        let file = EnvFile { path: "/v/f".into(), text: Ok("A='1'\n".to_owned()) };
        let absent = EnvFile { path: "/v/g".into(), text: Err("no such file".to_owned()) };
        let place = |path: &str| ("v".to_owned(), path.to_owned());
        let files: EnvFiles = [(place("f"), file), (place("g"), absent)].into();
        let check = |volume: &str, path: &str, key: &str, optional, expected| {
            let reference = FileKeySelector {
                volume_name: volume.to_owned(),
                path: path.to_owned(),
                key: key.to_owned(),
                optional,
            };
            assert_eq!(variable(&files, &reference), expected, "{reference:?}");
        };
        check("v", "f", "A", None, Ok(Some("1".to_owned())));
        check("v", "f", "B", Some(true), Ok(None));
        let missing = EnvError::NoFileKey { key: "B".to_owned(), file: "/v/f".to_owned() };
        check("v", "f", "B", None, Err(missing));
        check("v", "g", "A", Some(true), Err(EnvError::BadFile));
        check("w", "f", "A", None, Err(EnvError::NoVolume("w".to_owned())));
    }
}
