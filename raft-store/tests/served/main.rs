//! A member as clients reach it: every service, and certificates that change.

mod listening;
mod rules;
mod saving;
mod services;
mod tls;
mod users;
mod watching;
