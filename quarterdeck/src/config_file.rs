//! `--config FILE` of `server`, `agent` and `up`: a YAML map from flag names to values.
//!
//! A flag on the command line beats the environment, which beats the file. The file is turned into flags before
//! parsing, so that its values pass the same checks and a wrong key is the same "unexpected argument" error.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use serde_yaml_ng::Value;

use crate::failure::{At, Failure, Result};

/// Subcommands that read a file. The drop-ins keep upstream's own meaning of `--config`.
const READERS: &[&str] = &["server", "agent", "up"];
/// Options that may stand before the subcommand and take a value.
const GLOBALS: &[&str] = &["--log-format", "--log-level"];
const PATH_VARIABLE: &str = "QUARTERDECK_CONFIG";

/// Adds the file's values behind the subcommand's name, for flags given neither there nor in the environment.
pub fn expand(mut args: Vec<OsString>) -> Result<Vec<OsString>> {
    let text: Vec<String> = args.iter().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let Some(at) = subcommand(&text).filter(|at| READERS.contains(&text[*at].as_str())) else {
        return Ok(args);
    };
    let Some(path) = path(&text[at..], std::env::var(PATH_VARIABLE).ok()) else { return Ok(args) };
    let content = std::fs::read_to_string(&path).at("read the configuration file", Path::new(&path))?;
    let added = flags(&content, &path, &text, |name| std::env::var_os(name).is_some())?;
    args.splice(at + 1..at + 1, added.into_iter().map(OsString::from));
    Ok(args)
}

/// Notes in the log that a file was read: what it holds shows nowhere else.
pub fn say(path: Option<&Path>) {
    if let Some(path) = path {
        tracing::info!(path = %path.display(), "flags were also read from the configuration file");
    }
}

/// Where the subcommand's name stands.
pub fn subcommand(args: &[impl AsRef<OsStr>]) -> Option<usize> {
    let mut at = 1;
    while args.get(at)?.as_ref().as_encoded_bytes().starts_with(b"-") {
        at += if GLOBALS.iter().any(|global| args[at].as_ref() == *global) { 2 } else { 1 };
    }
    Some(at)
}

/// The file's path: the flag's, or else the environment's.
fn path(args: &[String], from_env: Option<String>) -> Option<String> {
    let from_flag = args.iter().enumerate().find_map(|(at, arg)| match arg.strip_prefix("--config=") {
        Some(path) => Some(path.to_owned()),
        None => args.get(at + 1).filter(|_| arg == "--config").cloned(),
    });
    from_flag.or(from_env)
}

fn flags(content: &str, path: &str, given: &[String], in_env: impl Fn(&str) -> bool) -> Result<Vec<String>> {
    let wrong = |what: String| Failure::new(format!("{path}: {what}"));
    let parsed: Value = serde_yaml_ng::from_str(content).map_err(|error| wrong(error.to_string()))?;
    let map = match parsed {
        Value::Null => return Ok(Vec::new()),
        Value::Mapping(map) => map,
        _ => return Err(wrong("not a map of flag names to values".into())),
    };
    let mut out = Vec::new();
    for (key, value) in map {
        let key = key.as_str().ok_or_else(|| wrong("a key is not a string".into()))?.to_owned();
        let flag = format!("--{key}");
        let on_line = given.iter().any(|arg| *arg == flag || arg.starts_with(&format!("{flag}=")));
        if on_line || in_env(&format!("QUARTERDECK_{}", key.to_uppercase().replace('-', "_"))) {
            continue;
        }
        out.extend(
            values(&value)
                .ok_or_else(|| wrong(format!("{key}: a scalar or a list of scalars is expected")))?
                .into_iter()
                .filter_map(|value| match value.as_str() {
                    "false" => None,
                    "true" => Some(flag.clone()),
                    _ => Some(format!("{flag}={value}")),
                }),
        );
    }
    Ok(out)
}

fn values(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::Sequence(items) => items.iter().map(scalar).collect(),
        _ => scalar(value).map(|value| vec![value]),
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(content: &str, given: &[&str], env: &[&str], expected: std::result::Result<&[&str], &str>) {
        let given: Vec<String> = given.iter().map(|arg| (*arg).to_owned()).collect();
        let got =
            flags(content, "f.yaml", &given, |name| env.contains(&name)).map_err(|error| error.to_string());
        match expected {
            Ok(flags) => assert_eq!(
                got.as_deref(),
                Ok(flags.iter().map(|s| s.to_string()).collect::<Vec<_>>().as_slice())
            ),
            Err(part) => {
                assert!(got.as_ref().is_err_and(|text| text.contains(part)), "{got:?} lacks {part:?}")
            }
        }
    }

    #[test]
    fn the_file_is_found_wherever_the_flag_stands() {
        let args = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        for (line, expected) in [
            ("q server --config f", Some(("server", Some("f")))),
            ("q --log-format json server --config=f --init", Some(("server", Some("f")))),
            ("q --log-level=info agent", Some(("agent", Some("env")))),
            ("q --version", None),
        ] {
            let line = args(line);
            let got = subcommand(&line);
            let got = got.map(|at| (line[at].as_str(), path(&line[at..], Some("env".to_owned()))));
            let got = got.as_ref().map(|(name, path)| (*name, path.as_deref()));
            assert_eq!(got, expected, "{line:?}");
        }
    }

    #[test]
    fn file_values_become_flags_unless_given_elsewhere() {
        check("", &[], &[], Ok(&[]));
        check("name: a\nport: 1\n", &[], &[], Ok(&["--name=a", "--port=1"]));
        check("name: a\n", &["--name=b"], &[], Ok(&[]));
        check("name: a\n", &["--name", "b"], &[], Ok(&[]));
        check("api-port: 1\n", &[], &["QUARTERDECK_API_PORT"], Ok(&[]));
        check("init: true\nquiet: false\n", &[], &[], Ok(&["--init"]));
        check("node-label: [a=b, c=d]\n", &[], &[], Ok(&["--node-label=a=b", "--node-label=c=d"]));
        check("[1]", &[], &[], Err("not a map"));
        check("a: {b: c}", &[], &[], Err("a: a scalar"));
        check("a: [", &[], &[], Err("f.yaml"));
    }
}
