//! Users, roles and who a request comes from.

use std::sync::Arc;

use proto::{
    etcdserverpb::{
        AuthRoleGetResponse, AuthRoleListResponse, AuthStatusResponse, AuthUserAddRequest,
        AuthUserChangePasswordRequest, AuthUserGetResponse, AuthUserListResponse, AuthenticateRequest,
        AuthenticateResponse, ResponseHeader,
    },
    raftpb::{TokenGrant, command::Op},
};

use super::{Caller, Member};
use crate::{auth::AuthState, error::Error};

/// Longest password: bcrypt takes no more of one into account, and etcd refuses what is longer.
const PASSWORD_BYTES_MAX: usize = 72;

/// Times a password is looked at while users change.
const AUTHENTICATION_TRIES: u32 = 5;

/// Refuses a password of which bcrypt would cut the end off.
fn check_password(op: &Op) -> Result<(), Error> {
    let password = match op {
        Op::UserAdd(request) if request.options.as_ref().is_some_and(|options| options.no_password) => {
            return Ok(());
        }
        Op::UserAdd(request) => &request.password,
        Op::UserChangePassword(request) => &request.password,
        _ => return Ok(()),
    };
    if password.len() > PASSWORD_BYTES_MAX { Err(Error::PASSWORD_TOO_LONG) } else { Ok(()) }
}

impl Member {
    /// Users and roles as they are now.
    pub(crate) fn auth(&self) -> Arc<AuthState> {
        self.shared.auth.load_full()
    }

    /// Allows what only root may do.
    pub(crate) fn check_admin(&self, caller: &Caller) -> Result<(), Error> {
        if caller.is_trusted() { Ok(()) } else { self.auth().check_admin(&caller.user) }
    }

    /// Allows what any user may do, and nobody without a name once users are asked for.
    pub(crate) fn check_user(&self, caller: &Caller) -> Result<(), Error> {
        let is_nobody = !caller.is_trusted() && caller.user.is_empty();
        if is_nobody && self.auth().enabled() { Err(Error::USER_EMPTY) } else { Ok(()) }
    }

    /// Who a request comes from: by its token, else by the common name of its certificate. A signed token is as good as
    /// the users and roles it was signed for: after any change of them it must be asked for anew, or it would outlive
    /// its user's password.
    pub fn identify(&self, token: Option<&str>, certificate_name: Option<&str>) -> Result<Caller, Error> {
        let auth = self.auth();
        if !auth.enabled() {
            return Ok(Caller::anonymous());
        }
        if let Some(token) = token {
            let identity = self.shared.tokens.identify(token, auth.revision())?;
            if identity.revision < auth.revision() {
                return Err(Error::AUTH_OLD_REVISION);
            }
            return Ok(Caller::user(identity.user, identity.revision));
        }
        match certificate_name {
            Some(name) if !name.is_empty() => Ok(Caller::user(name.to_owned(), auth.revision())),
            _ => Ok(Caller::anonymous()),
        }
    }

    /// Whether a token is none that this member knows of yet. Another may have given it just now: every member learns of
    /// it through the log.
    pub(crate) fn is_unknown(&self, token: &str) -> bool {
        let unknown = Err(Error::INVALID_AUTH_TOKEN);
        self.identify(Some(token), None) == unknown && self.leader().is_some()
    }

    /// Waits until a token that was given before this call is known here.
    pub(crate) async fn await_token(&self) {
        if let Err(error) = self.read_barrier().await {
            tracing::debug!(%error, "cannot tell whether a token is known elsewhere");
        }
    }

    /// Checks a password and gives a token.
    pub async fn authenticate(&self, request: AuthenticateRequest) -> Result<AuthenticateResponse, Error> {
        self.read_barrier().await?;
        for _ in 1..AUTHENTICATION_TRIES {
            match self.authenticate_once(request.clone()).await {
                // Users have changed while the password was looked at, which takes long: it may be another one now.
                Err(error) if error == Error::AUTH_OLD_REVISION => {}
                done => return done,
            }
        }
        self.authenticate_once(request).await
    }

    async fn authenticate_once(&self, request: AuthenticateRequest) -> Result<AuthenticateResponse, Error> {
        let auth = self.auth();
        if !auth.enabled() {
            return Err(Error::AUTH_NOT_ENABLED);
        }
        let hash = auth.password_hash(&request.name)?.to_owned();
        let password = request.password;
        // Of a longer one bcrypt takes the beginning, here as in etcd: older versions let users have such.
        let matches = tokio::task::spawn_blocking(move || bcrypt::verify(password, &hash)).await;
        if !matches!(matches, Ok(Ok(true))) {
            return Err(Error::AUTH_FAILED);
        }
        let new = self.shared.tokens.issue(&request.name, auth.revision(), self.view().applied_index)?;
        let mut revision = self.view().revision;
        if new.needs_log {
            let grant = TokenGrant { user: request.name, token: new.token.clone() };
            revision = self.propose_revision(&Caller::at(auth.revision()), Op::TokenGrant(grant)).await?;
        }
        Ok(AuthenticateResponse { header: self.header(revision), token: new.token })
    }

    /// Carries out a change of users or roles; only root may.
    pub async fn auth_change_as(&self, caller: &Caller, op: Op) -> Result<Option<ResponseHeader>, Error> {
        check_password(&op)?;
        self.check_admin(caller)?;
        let op = self.hash_password(op).await?;
        let revision = self.propose_revision(caller, op).await?;
        Ok(self.header(revision))
    }

    /// Passwords never enter the log: their hashes do, made here, since hashing is random. A hash that the client sent is
    /// not looked at.
    async fn hash_password(&self, op: Op) -> Result<Op, Error> {
        let cost = self.config.bcrypt_cost;
        let hash = |password: String| async move {
            let hashed = tokio::task::spawn_blocking(move || bcrypt::hash(password, cost)).await;
            hashed.map_err(Error::internal)?.map_err(Error::internal)
        };
        match op {
            Op::UserAdd(request) => {
                let no_password = request.options.as_ref().is_some_and(|options| options.no_password);
                let hashed = if no_password { String::new() } else { hash(request.password).await? };
                Ok(Op::UserAdd(AuthUserAddRequest {
                    password: String::new(),
                    hashed_password: hashed,
                    ..request
                }))
            }
            Op::UserChangePassword(request) => {
                let hashed_password = hash(request.password).await?;
                let name = request.name;
                let password = String::new();
                Ok(Op::UserChangePassword(AuthUserChangePasswordRequest { name, password, hashed_password }))
            }
            other => Ok(other),
        }
    }

    /// Whether authentication is on; only root may ask once it is.
    pub async fn auth_status_as(&self, caller: &Caller) -> Result<AuthStatusResponse, Error> {
        self.read_barrier().await?;
        self.check_admin(caller)?;
        let auth = self.auth();
        Ok(AuthStatusResponse {
            header: self.header(self.view().revision),
            enabled: auth.enabled(),
            auth_revision: auth.revision(),
        })
    }

    /// The roles of a user; users may ask for their own.
    pub async fn user_get_as(&self, caller: &Caller, name: &str) -> Result<AuthUserGetResponse, Error> {
        self.read_barrier().await?;
        if caller.user != name {
            self.check_admin(caller)?;
        }
        let roles = self.auth().user_roles(name)?;
        Ok(AuthUserGetResponse { header: self.header(self.view().revision), roles })
    }

    /// Every user.
    pub async fn user_list_as(&self, caller: &Caller) -> Result<AuthUserListResponse, Error> {
        self.read_barrier().await?;
        self.check_admin(caller)?;
        Ok(AuthUserListResponse {
            header: self.header(self.view().revision),
            users: self.auth().user_names(),
        })
    }

    /// The permissions of a role; users may ask for their own roles.
    pub async fn role_get_as(&self, caller: &Caller, role: &str) -> Result<AuthRoleGetResponse, Error> {
        self.read_barrier().await?;
        let auth = self.auth();
        if !auth.has_role(&caller.user, role) {
            self.check_admin(caller)?;
        }
        let perm = auth.role_permissions(role)?;
        Ok(AuthRoleGetResponse { header: self.header(self.view().revision), perm })
    }

    /// Every role.
    pub async fn role_list_as(&self, caller: &Caller) -> Result<AuthRoleListResponse, Error> {
        self.read_barrier().await?;
        self.check_admin(caller)?;
        Ok(AuthRoleListResponse {
            header: self.header(self.view().revision),
            roles: self.auth().role_names(),
        })
    }
}
