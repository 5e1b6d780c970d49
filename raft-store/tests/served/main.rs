//! A member as clients reach it: every service, and certificates that change.

mod listening;
mod services;
mod tls;
