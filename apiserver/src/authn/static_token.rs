//! Tokens from a CSV file: `token,user,uid[,"group1,group2"]` (upstream `--token-auth-file`).

use async_trait::async_trait;
use rustc_hash::FxHashMap;

use super::bearer::{TokenOutcome, TokenStep};
use crate::contract::UserInfo;

/// The file's rows by token.
#[derive(Debug, Default)]
pub struct StaticTokens {
    users: FxHashMap<String, UserInfo>,
}

/// Why the file was refused; the file has to change.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("token file line {line}: {what}; expected token,user,uid[,\"group1,group2\"]")]
pub struct StaticTokenError {
    pub line: usize,
    pub what: &'static str,
}

impl StaticTokens {
    /// Reads the rows; empty lines are skipped, later rows of one token win as upstream's do.
    pub fn parse(csv: &str) -> Result<Self, StaticTokenError> {
        let mut users = FxHashMap::default();
        for (index, line) in csv.lines().enumerate() {
            if line.trim().is_empty() {
                continue;
            }
            let fail = |what| StaticTokenError { line: index + 1, what };
            let columns = split_row(line).ok_or_else(|| fail("unbalanced quotes"))?;
            let [token, name, uid, rest @ ..] = columns.as_slice() else {
                return Err(fail("fewer than three columns"));
            };
            if token.is_empty() {
                return Err(fail("empty token"));
            }
            let groups = rest.first().map(|list| list.split(',').map(|g| g.trim().to_owned()).collect());
            let groups: Vec<String> = groups.unwrap_or_default();
            let groups = groups.into_iter().filter(|group| !group.is_empty()).collect();
            let user = UserInfo { name: name.clone(), uid: uid.clone(), groups, ..UserInfo::default() };
            users.insert(token.clone(), user);
        }
        Ok(StaticTokens { users })
    }
}

fn split_row(line: &str) -> Option<Vec<String>> {
    let mut columns = vec![String::new()];
    let mut quoted = false;
    for c in line.trim().chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => columns.push(String::new()),
            c => columns.last_mut()?.push(c),
        }
    }
    (!quoted).then(|| columns.into_iter().map(|column| column.trim().to_owned()).collect())
}

#[async_trait]
impl TokenStep for StaticTokens {
    async fn check(&self, token: &str, audiences: &[String]) -> TokenOutcome {
        match self.users.get(token) {
            Some(user) => TokenOutcome::Found { user: user.clone(), audiences: audiences.to_vec() },
            None => TokenOutcome::NotMine,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(csv: &str, token: &str, expected: Result<Option<(&str, usize)>, usize>) {
        let got = StaticTokens::parse(csv)
            .map(|tokens| tokens.users.get(token).map(|user| (user.name.clone(), user.groups.len())));
        let expected = expected.map(|found| found.map(|(name, groups)| (name.to_owned(), groups)));
        assert_eq!(got.map_err(|error| error.line), expected, "{csv}");
    }

    #[test]
    fn rows() {
        check("t,u,1", "t", Ok(Some(("u", 0))));
        check("t,u,1,\"a,b\"\n\nx,y,2,g", "t", Ok(Some(("u", 2))));
        check("t,u,1\nx,y,2,g", "x", Ok(Some(("y", 1))));
        check("t,u", "t", Err(1));
        check("a,b,c\n,u,1", "t", Err(2));
        check("t,u,1,\"a", "t", Err(1));
    }
}
