//! Single dashes: etcd's flags are Go's, whose `-name` and `--name` are the same.
//!
//! Arguments are rewritten before they are parsed, by the table of flags alone: what is not in it stays as it is, and
//! so do values, even such as look like a flag. Only serving takes these; flags of a subcommand are spelled with two
//! dashes, as etcdutl's are.

use std::ffi::OsString;

use super::flags::{FLAGS, Flag, Kind};

/// Go's other spelling of `-h`, which is in no table.
const HELP: &str = "help";

/// What to do with one argument.
enum Word {
    /// A flag of the table, written so that the parser knows it, and whether its value is the next argument.
    Flag { written: String, is_value_next: bool },
    /// It stays, and flags may follow.
    Other,
    /// It stays, and what follows is no flag of the table: `--`, or the name of a subcommand.
    End,
}

/// The arguments behind `store`, each flag with two dashes. Call it once, on what the user typed.
pub fn double_dashes(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments = arguments.into_iter();
    let mut out = Vec::new();
    while let Some(argument) = arguments.next() {
        match argument.to_str().map_or(Word::Other, word) {
            Word::Flag { written, is_value_next } => {
                out.push(written.into());
                out.extend(arguments.by_ref().take(usize::from(is_value_next)));
            }
            Word::Other => out.push(argument),
            Word::End => {
                out.push(argument);
                out.extend(arguments.by_ref());
            }
        }
    }
    out
}

fn word(argument: &str) -> Word {
    let Some(text) = argument.strip_prefix('-').filter(|text| !text.is_empty()) else {
        return Word::End;
    };
    let text = text.strip_prefix('-').unwrap_or(text);
    if text.is_empty() {
        return Word::End;
    }
    let (name, has_value) = text.split_once('=').map_or((text, false), |(name, _)| (name, true));
    let written = || format!("--{text}");
    match FLAGS.iter().find(|flag| flag.name == name) {
        Some(Flag { kind, .. }) => {
            Word::Flag { written: written(), is_value_next: *kind == Kind::Value && !has_value }
        }
        None if text == HELP => Word::Flag { written: written(), is_value_next: false },
        None => Word::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::args::Args, *};

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn flags_get_two_dashes_and_nothing_else_changes() {
        let cases = [
            ("", ""),
            ("-name x -data-dir=/d", "--name x --data-dir=/d"),
            ("--name x -data-dir /d", "--name x --data-dir /d"),
            ("-auto-tls -client-cert-auth=false", "--auto-tls --client-cert-auth=false"),
            // Switches never take the next argument, values always do, whatever it looks like.
            ("-auto-tls -name -data-dir -data-dir=/d", "--auto-tls --name -data-dir --data-dir=/d"),
            ("--name --data-dir -data-dir=/d", "--name --data-dir --data-dir=/d"),
            ("-auth-token-ttl -1", "--auth-token-ttl -1"),
            ("-name=-x", "--name=-x"),
            ("-name= -data-dir=a=b", "--name= --data-dir=a=b"),
            // The last flag's value is missing: the parser says so.
            ("-name", "--name"),
            // Short ones, and what is in no table.
            ("-h -V -x -name1=2 -names x", "-h -V -x -name1=2 -names x"),
            ("-help", "--help"),
            ("-v -version", "--v --version"),
            ("---name x", "---name x"),
            // Where Go's parser ends, this does.
            ("-name x -- -data-dir=/d", "--name x -- -data-dir=/d"),
            ("-name x - -data-dir=/d", "--name x - -data-dir=/d"),
            ("snapshot save -name x", "snapshot save -name x"),
            ("-experimental-max-learners 3 -discovery=x", "--experimental-max-learners 3 --discovery=x"),
        ];
        for (given, expected) in cases {
            assert_eq!(double_dashes(words(given)), words(expected), "{given:?}");
        }
    }

    #[test]
    fn every_flag_of_the_table_may_have_one_dash() {
        for flag in FLAGS {
            for value in ["=true", " true"] {
                let value = match flag.kind {
                    Kind::Value => value,
                    Kind::Switch => value.trim_start_matches(" true"),
                };
                let [one, two] = ["-", "--"].map(|dashes| words(&format!("{dashes}{}{value}", flag.name)));
                assert_eq!(double_dashes(one), two, "{}", flag.name);
                assert_eq!(double_dashes(two.clone()), two, "{}", flag.name);
            }
        }
    }

    #[test]
    fn the_parser_takes_them_as_go_does() {
        let given = |line: &str| {
            let flags = double_dashes(words(line)).into_iter().map(|word| word.into_string().unwrap());
            Args::from_flags(flags).map(|args| args.given).map_err(|error| error.kind())
        };
        let same = [
            ("-name x", "--name=x"),
            ("-name=x -auto-tls", "--name x --auto-tls=true"),
            ("-name -x -auto-tls=false", "--name=-x --auto-tls=false"),
            // The last one counts.
            ("-name x --name=y -auto-tls -auto-tls=f", "--name=y --auto-tls=f"),
        ];
        for (one, two) in same {
            assert_eq!(given(one).expect(one), given(two).expect(two));
        }
        assert_eq!(given("-name x --name=y").unwrap()["name"], "y");
        for refused in ["-no-such-flag", "-no-such-flag=1", "-name", "-auto-tls false", "-name x y"] {
            given(refused).expect_err(refused);
        }
    }
}
