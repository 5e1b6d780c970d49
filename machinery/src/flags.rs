//! Upstream's flags that have nothing to steer in this product: known by name, so that command lines and manifests
//! written for upstream start it, and named in the log, so that nobody relies on them.

use std::marker::PhantomData;

use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches, parser::ValueSource};

/// What stands behind a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// Nothing, or `=true` or `=false`.
    Switch,
    /// A value, behind a blank or `=`.
    Value,
}

/// One flag without effect.
#[derive(Clone, Copy, Debug)]
pub struct Inert {
    /// Its name without the dashes; a name of one letter has one dash, too.
    pub name: &'static str,
    pub takes: Takes,
    /// Why there is nothing to steer, as the second half of a log line.
    pub why: &'static str,
}

/// A flag that takes a value.
pub const fn value(name: &'static str, why: &'static str) -> Inert {
    Inert { name, takes: Takes::Value, why }
}

/// A flag that is on or off.
pub const fn switch(name: &'static str, why: &'static str) -> Inert {
    Inert { name, takes: Takes::Switch, why }
}

/// A program's flags without effect.
pub trait Table: Clone + std::fmt::Debug + Default + Send + Sync + 'static {
    const ROWS: &'static [Inert];
}

/// Those of a table that stand on the command line.
#[derive(Clone, Debug, Default)]
pub struct Given<T: Table> {
    rows: Vec<&'static Inert>,
    table: PhantomData<T>,
}

impl<T: Table> Given<T> {
    /// Says of each that it changes nothing, and why.
    pub fn warn(&self) {
        for row in &self.rows {
            tracing::warn!("--{} changes nothing here: {}", row.name, row.why);
        }
    }

    /// Their names.
    pub fn names(&self) -> Vec<&'static str> {
        self.rows.iter().map(|row| row.name).collect()
    }
}

impl<T: Table> clap::Args for Given<T> {
    fn augment_args(command: Command) -> Command {
        T::ROWS.iter().fold(command, |command, row| {
            let arg = Arg::new(row.name).long(row.name).hide(true).action(ArgAction::Append);
            let arg = match row.takes {
                Takes::Switch => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
                Takes::Value => arg.allow_hyphen_values(true),
            };
            let mut letters = row.name.chars();
            match (letters.next(), letters.next()) {
                (Some(letter), None) => command.arg(arg.short(letter)),
                _ => command.arg(arg),
            }
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<T: Table> FromArgMatches for Given<T> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let is_given = |row: &&Inert| matches.value_source(row.name) == Some(ValueSource::CommandLine);
        Ok(Given { rows: T::ROWS.iter().filter(is_given).collect(), table: PhantomData })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, Default)]
    struct Few;

    impl Table for Few {
        const ROWS: &'static [Inert] =
            &[switch("fast", "all is"), value("dir", "none"), value("v", "no levels")];
    }

    #[test]
    fn flags_are_taken_in_every_spelling_and_remembered() {
        let check = |line: &[&str], expected: Option<&[&str]>| {
            let command = <Given<Few> as clap::Args>::augment_args(Command::new("x").no_binary_name(true));
            let found = command.try_get_matches_from(line).and_then(|m| Given::<Few>::from_arg_matches(&m));
            assert_eq!(found.ok().map(|given| given.names()).as_deref(), expected, "{line:?}");
        };
        check(&[], Some(&[]));
        check(&["--fast"], Some(&["fast"]));
        check(&["--fast=false", "--dir", "/x"], Some(&["fast", "dir"]));
        check(&["--dir=/x", "--dir=/y", "-v", "2"], Some(&["dir", "v"]));
        check(&["--v=4"], Some(&["v"]));
        check(&["--dir"], None);
        check(&["--other"], None);
    }
}
