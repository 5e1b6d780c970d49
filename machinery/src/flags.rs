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
    /// In parts, so that programs can share some.
    const ROWS: &'static [&'static [Inert]];
}

const METRICS: &str = "all metrics are served, under one name each";
const REVIEWS: &str = "who reads the metrics is reviewed with the process' own credentials, every time";
const CERTIFICATES: &str = "readers of the metrics are known by bearer tokens alone";
const LOG: &str = "the environment (RUST_LOG) sets what is logged";
const TLS: &str = "TLS 1.2 and 1.3 with the library's suites, all of them with forward secrecy, are spoken";
const PORT: &str = "the port is not shared";
const VERSIONS: &str = "one version is emulated: 1.36";

/// How upstream's components write their logs.
pub const LOGGING: &[Inert] = &[
    value("log-flush-frequency", LOG),
    value("log-json-info-buffer-size", LOG),
    switch("log-json-split-stream", LOG),
    value("log-text-info-buffer-size", LOG),
    switch("log-text-split-stream", LOG),
    value("logging-format", LOG),
    value("vmodule", LOG),
];

/// What else scheduler and controller manager have from upstream's common library.
pub const COMPONENT: &[Inert] = &[
    value("allow-metric-labels", METRICS),
    value("allow-metric-labels-manifest", METRICS),
    value("authentication-kubeconfig", REVIEWS),
    switch("authentication-skip-lookup", REVIEWS),
    value("authentication-token-webhook-cache-ttl", REVIEWS),
    switch("authentication-tolerate-lookup-failure", REVIEWS),
    value("authorization-kubeconfig", REVIEWS),
    value("authorization-webhook-cache-authorized-ttl", REVIEWS),
    value("authorization-webhook-cache-unauthorized-ttl", REVIEWS),
    value("cert-dir", "without --tls-cert-file a certificate is made in memory"),
    value("client-ca-file", CERTIFICATES),
    switch("contention-profiling", "no profiles are served"),
    switch("disable-http2-serving", "the port speaks both versions of HTTP"),
    value("disabled-metrics", METRICS),
    value("emulated-version", VERSIONS),
    value("feature-gates", "features are as 1.36 has them by default"),
    value("http2-max-streams-per-connection", "the library's limit holds"),
    value("kube-api-content-type", "JSON is spoken"),
    value("min-compatibility-version", VERSIONS),
    switch("permit-address-sharing", PORT),
    switch("permit-port-sharing", PORT),
    switch("profiling", "no profiles are served"),
    value("requestheader-allowed-names", CERTIFICATES),
    value("requestheader-client-ca-file", CERTIFICATES),
    value("requestheader-extra-headers-prefix", CERTIFICATES),
    value("requestheader-group-headers", CERTIFICATES),
    value("requestheader-uid-headers", CERTIFICATES),
    value("requestheader-username-headers", CERTIFICATES),
    value("show-hidden-metrics-for-version", METRICS),
    value("tls-cipher-suites", TLS),
    value("tls-curve-preferences", TLS),
    value("tls-min-version", TLS),
    value("tls-sni-cert-key", "one certificate is served"),
    switch("unsupported-kube-api-over-localhost", "--master says where the API server is"),
    value("v", LOG),
];

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
        T::ROWS.iter().copied().flatten().fold(command, |command, row| {
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
        Ok(Given { rows: T::ROWS.iter().copied().flatten().filter(is_given).collect(), table: PhantomData })
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
        const ROWS: &'static [&'static [Inert]] =
            &[&[switch("fast", "all is")], &[value("dir", "none"), value("v", "no levels")]];
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
