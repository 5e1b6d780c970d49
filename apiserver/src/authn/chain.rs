//! The chain that asks each authenticator in turn.

use async_trait::async_trait;
use machinery::status::StatusError;

use super::{ANONYMOUS, AUTHENTICATED_GROUP, UNAUTHENTICATED_GROUP};
use crate::contract::{Authenticator, Credentials, UserInfo};

/// What one authenticator makes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The request carries nothing this step understands.
    NotMine,
    Found(UserInfo),
    /// The proof is of this step's sort and does not hold; the text is for the log only.
    Refused(String),
}

/// One way to prove who one is.
#[async_trait]
pub trait Step: Send + Sync {
    async fn authenticate(&self, credentials: &Credentials<'_>) -> Outcome;
}

/// All authenticators of this server.
pub struct Chain {
    steps: Vec<Box<dyn Step>>,
    anonymous: Anonymous,
}

/// Whether requests without any proof are let in as `system:anonymous`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Anonymous {
    pub enabled: bool,
    /// The only paths where they are; empty for all.
    pub paths: Vec<String>,
}

impl Anonymous {
    fn admits(&self, path: &str) -> bool {
        self.enabled && (self.paths.is_empty() || self.paths.iter().any(|own| own == path))
    }
}

impl Chain {
    /// Asks the steps in the given order.
    pub fn new(steps: Vec<Box<dyn Step>>, anonymous: Anonymous) -> Self {
        Chain { steps, anonymous }
    }
}

#[async_trait]
impl Authenticator for Chain {
    async fn authenticate(&self, credentials: Credentials<'_>) -> Result<UserInfo, StatusError> {
        let mut refusals = Vec::new();
        for step in &self.steps {
            match step.authenticate(&credentials).await {
                Outcome::NotMine => {}
                Outcome::Found(user) => return Ok(with_authenticated_group(user)),
                Outcome::Refused(why) => refusals.push(why),
            }
        }
        if refusals.is_empty() && self.anonymous.admits(credentials.path) {
            return Ok(anonymous());
        }
        tracing::debug!(?refusals, "unable to authenticate the request");
        Err(StatusError::unauthorized("Unauthorized"))
    }
}

fn with_authenticated_group(mut user: UserInfo) -> UserInfo {
    let sorted = |group: &String| group == AUTHENTICATED_GROUP || group == UNAUTHENTICATED_GROUP;
    if user.name != ANONYMOUS && !user.groups.iter().any(sorted) {
        user.groups.push(AUTHENTICATED_GROUP.to_owned());
    }
    user
}

/// The user of requests without proof.
pub fn anonymous() -> UserInfo {
    UserInfo {
        name: ANONYMOUS.to_owned(),
        groups: vec![UNAUTHENTICATED_GROUP.to_owned()],
        ..UserInfo::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Says(Outcome);

    #[async_trait]
    impl Step for Says {
        async fn authenticate(&self, _: &Credentials<'_>) -> Outcome {
            self.0.clone()
        }
    }

    fn user(name: &str) -> UserInfo {
        UserInfo { name: name.to_owned(), ..UserInfo::default() }
    }

    async fn check(outcomes: Vec<Outcome>, anonymous: bool, expected: Option<&str>) {
        let steps = outcomes.into_iter().map(|outcome| Box::new(Says(outcome)) as Box<dyn Step>).collect();
        let headers = http::HeaderMap::new();
        let credentials = Credentials { peer_certificates: &[], headers: &headers, path: "/livez" };
        let anonymous = Anonymous { enabled: anonymous, paths: Vec::new() };
        let got = Chain::new(steps, anonymous).authenticate(credentials).await;
        assert_eq!(got.ok().map(|user| user.name).as_deref(), expected);
    }

    #[tokio::test]
    async fn a_later_success_forgives_a_refusal_but_anonymous_does_not() {
        let refused = || Outcome::Refused("no".to_owned());
        check(vec![], true, Some(ANONYMOUS)).await;
        check(vec![], false, None).await;
        check(vec![refused()], true, None).await;
        check(vec![refused(), Outcome::Found(user("a"))], true, Some("a")).await;
        check(vec![Outcome::NotMine, Outcome::Found(user("b")), Outcome::Found(user("c"))], true, Some("b"))
            .await;
    }

    #[test]
    fn anonymous_paths() {
        let some = Anonymous { enabled: true, paths: vec!["/livez".to_owned()] };
        assert!(some.admits("/livez") && !some.admits("/api") && !Anonymous::default().admits("/livez"));
        assert!(Anonymous { enabled: true, paths: Vec::new() }.admits("/api"));
    }

    #[test]
    fn groups_are_added_once() {
        assert_eq!(with_authenticated_group(user("a")).groups, [AUTHENTICATED_GROUP]);
        let anonymous = with_authenticated_group(anonymous());
        assert_eq!(anonymous.groups, [UNAUTHENTICATED_GROUP]);
    }
}
