//! Parsing the command line by the table of flags.

use std::collections::BTreeMap;

use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches, Subcommand};

use super::{
    flags::{FLAGS, Flag, Kind, Role, variable},
    snapshot::SnapshotCommand,
};

/// What the command line said: etcd's flags as given, or a subcommand.
#[derive(Clone, Debug, Default)]
pub struct Args {
    /// Given flags by name.
    pub(crate) given: BTreeMap<&'static str, String>,
    /// What to do instead of serving.
    pub(crate) command: Option<StoreCommand>,
}

/// Beside serving.
#[derive(Clone, Debug, Subcommand)]
pub enum StoreCommand {
    /// Saves, restores and describes snapshot files.
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
}

impl Args {
    /// Parses flags given as a list, without a program name before them.
    ///
    /// # Errors
    /// clap's, which prints well; an unknown flag is one.
    pub fn from_flags(flags: impl IntoIterator<Item = String>) -> Result<Self, clap::Error> {
        let command = <Self as clap::Args>::augment_args(Command::new("store"));
        let list = std::iter::once("store".to_owned()).chain(flags);
        let matches = command.try_get_matches_from(list)?;
        Self::from_arg_matches(&matches)
    }
}

impl Args {
    /// Refuses a variable beside the flag it stands for, as etcd does: one of the two would be passed over in silence.
    /// Of variables that stand for none a user is told.
    ///
    /// # Errors
    /// Names the variable.
    pub(crate) fn check_environment(&self, names: impl Iterator<Item = String>) -> Result<(), String> {
        for name in names.filter(|name| name.starts_with("ETCD_")) {
            match FLAGS.iter().find(|flag| variable(flag.name) == name) {
                Some(flag) if self.given.contains_key(flag.name) => {
                    return Err(format!(
                        "conflicting environment variable {name:?} is shadowed by corresponding command-line flag \
                         (either unset environment variable or disable flag)"
                    ));
                }
                Some(_) => {}
                None => tracing::warn!(name, "unrecognized environment variable"),
            }
        }
        Ok(())
    }
}

fn argument(flag: &Flag) -> Arg {
    let argument = Arg::new(flag.name)
        .long(flag.name)
        .help(flag.help)
        .action(ArgAction::Set)
        // Given twice, the last one counts, as in Go.
        .overrides_with(flag.name)
        .hide(flag.role != Role::Used);
    match flag.kind {
        Kind::Value => argument.value_name("VALUE").allow_hyphen_values(true),
        Kind::Switch => {
            argument.value_name("BOOL").num_args(0..=1).require_equals(true).default_missing_value("true")
        }
    }
}

impl clap::Args for Args {
    fn augment_args(command: Command) -> Command {
        let command = FLAGS
            .iter()
            .fold(command.disable_version_flag(true), |command, flag| command.arg(argument(flag)));
        StoreCommand::augment_subcommands(command)
            .subcommand_required(false)
            .args_conflicts_with_subcommands(true)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Args {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = FLAGS.iter().filter_map(|flag| {
            let value: &String = matches.try_get_one(flag.name).ok().flatten()?;
            Some((flag.name, value.clone()))
        });
        let command = match matches.subcommand() {
            Some(_) => Some(StoreCommand::from_arg_matches(matches)?),
            None => None,
        };
        Ok(Self { given: given.collect(), command })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(flags: &[&str]) -> Result<Args, clap::Error> {
        Args::from_flags(flags.iter().map(|flag| (*flag).to_owned()))
    }

    #[test]
    fn flags_are_taken_as_etcd_writes_them() {
        let args =
            parse(&["--name", "m1", "--data-dir=/d", "--client-cert-auth", "--auto-tls=false"]).unwrap();
        let expected =
            [("auto-tls", "false"), ("client-cert-auth", "true"), ("data-dir", "/d"), ("name", "m1")];
        assert_eq!(args.given, expected.map(|(name, value)| (name, value.to_owned())).into());
        let with = |name: &str| args.check_environment([name.to_owned()].into_iter());
        assert!(with("ETCD_NAME").unwrap_err().contains("ETCD_NAME"));
        assert_eq!([with("ETCD_WAL_DIR"), with("ETCD_NONE"), with("NAME")], [Ok(()), Ok(()), Ok(())]);
        assert!(parse(&["--max-wals=3"]).is_ok());
        assert!(parse(&["--no-such-flag=3"]).is_err());
    }
}
