//! The users and roles of the store, and every rule about changing them.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proto::{
    authpb::{Permission, Role, User, UserAddOptions, permission::Type},
    etcdserverpb::{
        AuthRoleGrantPermissionRequest, AuthRoleRevokePermissionRequest, AuthUserAddRequest,
        AuthUserChangePasswordRequest, Compare, RequestOp, TxnRequest, request_op::Request,
    },
    raftpb::AuthRecord,
};

use super::permission::{Access, covers, is_valid_range};
use crate::{error::Error, mvcc::keys::KeyRange};

/// The user and the role that may do everything.
const ROOT: &str = "root";

#[derive(Clone, Debug, Default, PartialEq)]
struct UserEntry {
    /// bcrypt hash; empty for a user without password.
    password_hash: String,
    no_password: bool,
    roles: BTreeSet<String>,
}

/// Users, roles and whether they are asked for. Changed by copy: a failed change leaves nothing behind.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AuthState {
    enabled: bool,
    revision: u64,
    users: BTreeMap<String, UserEntry>,
    roles: BTreeMap<String, Vec<Permission>>,
}

impl AuthState {
    /// The state of a new store.
    pub fn new() -> Self {
        Self { revision: 1, ..Self::default() }
    }

    /// Whether requests need a user.
    pub fn enabled(&self) -> bool {
        self.enabled
    }

    /// Counts changes of users and roles.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Users must include root with its role before authentication can be switched on.
    pub fn enable(&mut self) -> Result<(), Error> {
        if self.enabled {
            return Ok(());
        }
        let root = self.users.get(ROOT).ok_or(Error::ROOT_USER_NOT_EXIST)?;
        if !root.roles.contains(ROOT) {
            return Err(Error::ROOT_ROLE_NOT_EXIST);
        }
        self.enabled = true;
        Ok(())
    }

    /// Switches authentication off; users and roles stay.
    pub fn disable(&mut self) {
        if self.enabled {
            self.enabled = false;
            self.revision += 1;
        }
    }

    /// Adds a user; the password comes hashed.
    pub fn user_add(&mut self, request: &AuthUserAddRequest) -> Result<(), Error> {
        if request.name.is_empty() {
            return Err(Error::USER_EMPTY);
        }
        if self.users.contains_key(&request.name) {
            return Err(Error::USER_ALREADY_EXIST);
        }
        let no_password = request.options.as_ref().is_some_and(|options| options.no_password);
        let password_hash = if no_password { String::new() } else { request.hashed_password.clone() };
        self.users
            .insert(request.name.clone(), UserEntry { password_hash, no_password, roles: BTreeSet::new() });
        self.revision += 1;
        Ok(())
    }

    /// Removes a user; root stays while authentication is on.
    pub fn user_delete(&mut self, name: &str) -> Result<(), Error> {
        if self.enabled && name == ROOT {
            return Err(Error::INVALID_AUTH_MGMT);
        }
        self.users.remove(name).ok_or(Error::USER_NOT_FOUND)?;
        self.revision += 1;
        Ok(())
    }

    /// Replaces a user's password hash.
    pub fn user_change_password(&mut self, request: &AuthUserChangePasswordRequest) -> Result<(), Error> {
        let user = self.users.get_mut(&request.name).ok_or(Error::USER_NOT_FOUND)?;
        if !user.no_password {
            user.password_hash = request.hashed_password.clone();
        }
        self.revision += 1;
        Ok(())
    }

    /// Gives a user a role; giving it twice is no error.
    pub fn user_grant_role(&mut self, user: &str, role: &str) -> Result<(), Error> {
        let known = self.roles.contains_key(role) || role == ROOT;
        let user = self.users.get_mut(user).ok_or(Error::USER_NOT_FOUND)?;
        if !known {
            return Err(Error::ROLE_NOT_FOUND);
        }
        if user.roles.insert(role.to_owned()) {
            self.revision += 1;
        }
        Ok(())
    }

    /// Takes a role from a user; root keeps its own while authentication is on.
    pub fn user_revoke_role(&mut self, user: &str, role: &str) -> Result<(), Error> {
        if self.enabled && user == ROOT && role == ROOT {
            return Err(Error::INVALID_AUTH_MGMT);
        }
        let user = self.users.get_mut(user).ok_or(Error::USER_NOT_FOUND)?;
        if !user.roles.remove(role) {
            return Err(Error::ROLE_NOT_GRANTED);
        }
        self.revision += 1;
        Ok(())
    }

    /// Adds a role without permissions.
    pub fn role_add(&mut self, name: &str) -> Result<(), Error> {
        if name.is_empty() {
            return Err(Error::ROLE_EMPTY);
        }
        if self.roles.contains_key(name) {
            return Err(Error::ROLE_ALREADY_EXIST);
        }
        self.roles.insert(name.to_owned(), Vec::new());
        self.revision += 1;
        Ok(())
    }

    /// Removes a role, also from every user that has it.
    pub fn role_delete(&mut self, name: &str) -> Result<(), Error> {
        if self.enabled && name == ROOT {
            return Err(Error::INVALID_AUTH_MGMT);
        }
        self.roles.remove(name).ok_or(Error::ROLE_NOT_FOUND)?;
        self.users.values_mut().for_each(|user| {
            user.roles.remove(name);
        });
        self.revision += 1;
        Ok(())
    }

    /// Gives a role a range, or changes what it may do with a range it has.
    pub fn role_grant_permission(&mut self, request: &AuthRoleGrantPermissionRequest) -> Result<(), Error> {
        let permission = request.perm.as_ref().ok_or(Error::PERMISSION_NOT_GIVEN)?;
        if !is_valid_range(permission) {
            return Err(Error::INVALID_AUTH_MGMT);
        }
        let role = self.roles.get_mut(&request.name).ok_or(Error::ROLE_NOT_FOUND)?;
        let same =
            |held: &&mut Permission| held.key == permission.key && held.range_end == permission.range_end;
        match role.iter_mut().find(same) {
            Some(held) => held.perm_type = permission.perm_type,
            None => {
                role.push(permission.clone());
                role.sort_by(|left, right| left.key.cmp(&right.key));
            }
        }
        self.revision += 1;
        Ok(())
    }

    /// Takes a range from a role.
    pub fn role_revoke_permission(&mut self, request: &AuthRoleRevokePermissionRequest) -> Result<(), Error> {
        let role = self.roles.get_mut(&request.role).ok_or(Error::ROLE_NOT_FOUND)?;
        let before = role.len();
        role.retain(|held| held.key != request.key || held.range_end != request.range_end);
        if role.len() == before {
            return Err(Error::PERMISSION_NOT_GRANTED);
        }
        self.revision += 1;
        Ok(())
    }

    /// The roles of a user.
    pub fn user_roles(&self, name: &str) -> Result<Vec<String>, Error> {
        let user = self.users.get(name).ok_or(Error::USER_NOT_FOUND)?;
        Ok(user.roles.iter().cloned().collect())
    }

    /// The permissions of a role; root's is everything.
    pub fn role_permissions(&self, name: &str) -> Result<Vec<Permission>, Error> {
        let permissions = self.roles.get(name).ok_or(Error::ROLE_NOT_FOUND)?;
        if name == ROOT {
            let all = Bytes::from_static(&[0]);
            return Ok(vec![Permission {
                perm_type: Type::Readwrite as i32,
                key: Bytes::new(),
                range_end: all,
            }]);
        }
        Ok(permissions.clone())
    }

    /// Every user's name.
    pub fn user_names(&self) -> Vec<String> {
        self.users.keys().cloned().collect()
    }

    /// Every role's name.
    pub fn role_names(&self) -> Vec<String> {
        self.roles.keys().cloned().collect()
    }

    /// The hash a password of this user must match. Users without password, and unknown ones, have none.
    pub fn password_hash(&self, name: &str) -> Result<&str, Error> {
        match self.users.get(name) {
            Some(user) if !user.no_password => Ok(&user.password_hash),
            Some(_) => Err(Error::NO_PASSWORD_USER),
            None => Err(Error::AUTH_FAILED),
        }
    }

    fn is_root(&self, user: &str) -> bool {
        self.users.get(user).is_some_and(|user| user.roles.contains(ROOT))
    }

    /// Whether `user` has `role`.
    pub fn has_role(&self, user: &str, role: &str) -> bool {
        self.users.get(user).is_some_and(|user| user.roles.contains(role))
    }

    /// Allows what only root may do.
    pub fn check_admin(&self, user: &str) -> Result<(), Error> {
        match user {
            _ if !self.enabled => Ok(()),
            "" => Err(Error::USER_EMPTY),
            user if self.is_root(user) => Ok(()),
            _ => Err(Error::PERMISSION_DENIED),
        }
    }

    /// Allows reading or writing a range.
    pub fn check(&self, user: &str, range: &KeyRange, access: Access) -> Result<(), Error> {
        if !self.enabled {
            return Ok(());
        }
        if user.is_empty() {
            return Err(Error::USER_EMPTY);
        }
        let entry = self.users.get(user).ok_or(Error::PERMISSION_DENIED)?;
        if entry.roles.contains(ROOT) {
            return Ok(());
        }
        let permissions = entry.roles.iter().filter_map(|role| self.roles.get(role)).flatten();
        if covers(permissions, range, access) { Ok(()) } else { Err(Error::PERMISSION_DENIED) }
    }

    /// Allows reading a range given by etcd's key and end.
    pub fn check_read(&self, user: &str, key: &Bytes, range_end: &Bytes) -> Result<(), Error> {
        self.check(user, &KeyRange::new(key, range_end), Access::Read)
    }

    /// Allows writing a range; also reading it when previous values are asked for.
    pub fn check_write(
        &self,
        user: &str,
        key: &Bytes,
        range_end: &Bytes,
        prev_kv: bool,
    ) -> Result<(), Error> {
        let range = KeyRange::new(key, range_end);
        self.check(user, &range, Access::Write)?;
        if prev_kv { self.check(user, &range, Access::Read) } else { Ok(()) }
    }

    /// Allows a transaction: every condition and both branches, taken or not.
    pub fn check_txn(&self, user: &str, request: &TxnRequest) -> Result<(), Error> {
        if !self.enabled {
            return Ok(());
        }
        for Compare { key, range_end, .. } in &request.compare {
            self.check_read(user, key, range_end)?;
        }
        for RequestOp { request } in request.success.iter().chain(&request.failure) {
            match request {
                Some(Request::RequestRange(op)) => self.check_read(user, &op.key, &op.range_end)?,
                Some(Request::RequestPut(op)) => {
                    self.check_write(user, &op.key, &Bytes::new(), op.prev_kv)?
                }
                Some(Request::RequestDeleteRange(op)) => {
                    self.check_write(user, &op.key, &op.range_end, op.prev_kv)?;
                }
                Some(Request::RequestTxn(op)) => self.check_txn(user, op)?,
                None => {}
            }
        }
        Ok(())
    }

    /// As it is stored.
    pub fn to_record(&self) -> AuthRecord {
        let users = self.users.iter().map(|(name, user)| User {
            name: Bytes::from(name.clone()),
            password: Bytes::from(user.password_hash.clone()),
            roles: user.roles.iter().cloned().collect(),
            options: Some(UserAddOptions { no_password: user.no_password }),
        });
        let roles = self.roles.iter().map(|(name, permissions)| Role {
            name: Bytes::from(name.clone()),
            key_permission: permissions.clone(),
        });
        AuthRecord {
            enabled: self.enabled,
            revision: self.revision,
            users: users.collect(),
            roles: roles.collect(),
        }
    }

    /// From what was stored.
    pub fn from_record(record: AuthRecord) -> Self {
        let text = |name: &Bytes| String::from_utf8_lossy(name).into_owned();
        let users = record.users.into_iter().map(|user| {
            let entry = UserEntry {
                password_hash: text(&user.password),
                no_password: user.options.is_some_and(|options| options.no_password),
                roles: user.roles.into_iter().collect(),
            };
            (text(&user.name), entry)
        });
        let roles = record.roles.into_iter().map(|role| (text(&role.name), role.key_permission));
        Self {
            enabled: record.enabled,
            revision: record.revision.max(1),
            users: users.collect(),
            roles: roles.collect(),
        }
    }
}
