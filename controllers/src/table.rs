//! The controllers there are: name, constructor, identity, and whether `*` includes it. `--controllers` selects from
//! this table.

use crate::runtime::Build;

mod rows;

pub use rows::{ELSEWHERE, TABLE};

/// One row.
pub struct Row {
    /// Upstream's name, as in `--controllers`.
    pub name: &'static str,
    /// Upstream's older name of it, accepted too; empty when there is none.
    pub alias: &'static str,
    /// Its service account in kube-system, to which the default cluster roles grant what it needs; empty when it has
    /// none.
    pub account: &'static str,
    /// Its queue in the metrics.
    pub queue: &'static str,
    /// Who reports its events; empty when that is its name.
    pub reporter: &'static str,
    /// Makes it.
    pub build: Build,
    /// Whether `*` includes it.
    pub by_default: bool,
}

impl Row {
    /// Who reports its events, in upstream's words.
    pub fn component(&self) -> &'static str {
        if self.reporter.is_empty() { self.name } else { self.reporter }
    }
}

/// A name in `--controllers` that is in no row.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not in the list of known controllers")]
pub struct UnknownController(pub String);

/// The rows that a list of names selects. A name selects, a name with `-` in front deselects, and for controllers
/// not named `*` decides.
pub fn select(names: &[String]) -> Result<Vec<&'static Row>, UnknownController> {
    let is = |row: &Row, name: &str| row.name == name || (!row.alias.is_empty() && row.alias == name);
    for name in names.iter().filter(|name| *name != "*") {
        let bare = name.strip_prefix('-').unwrap_or(name);
        if !TABLE.iter().any(|row| is(row, bare)) && !ELSEWHERE.contains(&bare) {
            return Err(UnknownController(bare.to_string()));
        }
    }
    let star = names.iter().any(|name| name == "*");
    let selected = TABLE.iter().filter(|row| {
        let named = names.iter().find(|name| is(row, name.strip_prefix('-').unwrap_or(name)));
        named.map_or(star && row.by_default, |name| !name.starts_with('-'))
    });
    Ok(selected.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> =
            TABLE.iter().flat_map(|row| [row.name, row.alias]).filter(|n| !n.is_empty()).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn queues_and_accounts_are_told_apart() {
        let mut queues: Vec<_> = TABLE.iter().map(|row| row.queue).collect();
        queues.sort_unstable();
        queues.dedup();
        assert_eq!(queues.len(), TABLE.len(), "each loop has a queue of its own in the metrics");
        let nameless: Vec<_> =
            TABLE.iter().filter(|row| row.account.is_empty()).map(|row| row.name).collect();
        assert_eq!(nameless, ["serviceaccount-token-controller"]);
    }

    /// Each row's loop is killed between its writes by a test beside it.
    #[test]
    fn every_controller_is_in_the_crash_test() {
        let src = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let rows = std::fs::read_to_string(src.join("table/rows.rs")).expect("the rows");
        let builders = regex::Regex::new(r"crate::((?:\w+::)+)(build\w*)").expect("a pattern");
        let mut count = 0;
        for found in builders.captures_iter(&rows).filter(|found| &found[1] != "runtime::") {
            let module = src.join(found[1].trim_end_matches("::").replace("::", "/"));
            let parent = module.parent().expect("a folder");
            let places = [module.with_extension("rs"), module.join("tests.rs"), parent.join("tests.rs")];
            let is_tested = places
                .iter()
                .filter_map(|place| std::fs::read_to_string(place).ok())
                .any(|text| text.contains("check_crashes(") && text.contains(&found[2]));
            assert!(is_tested, "{} has no crash test", &found[0]);
            count += 1;
        }
        assert_eq!(count, TABLE.len());
    }

    #[test]
    fn selection() {
        let names = |list: &[&str]| {
            let list: Vec<String> = list.iter().map(|name| name.to_string()).collect();
            select(&list).map(|rows| rows.iter().map(|row| row.alias).collect::<Vec<_>>())
        };
        assert_eq!(names(&["deployment"]), Ok(vec!["deployment"]));
        assert!(!names(&["*", "-deployment-controller"]).is_ok_and(|all| all.contains(&"deployment")));
        assert_eq!(names(&["*"]).map(|all| all.len()), Ok(TABLE.iter().filter(|row| row.by_default).count()));
        assert_eq!(names(&["-svm", "tokencleaner"]), Ok(vec!["tokencleaner"]), "off unless named");
        assert_eq!(names(&["nosuch"]), Err(UnknownController("nosuch".into())));
    }
}
