//! What API server, scheduler, controllers and node share: objects, schema tables, patches, selectors.
//!
//! Everything but [`client`], [`leader`] and [`events`] is pure: values in, values out, no clock, no IO. Objects are
//! `serde_json::Value`s in the shape of one API version; their types are [`schema::Schema`]s, built-in or custom.
//!
//! Reading order: texts and errors ([`gotext`], [`status`], [`names`]), values ([`quantity`], [`time`],
//! [`selector`], [`object`], [`jsonpath`]), tables ([`resources`], [`schema`]), wire forms
//! ([`json`], [`yaml`], [`codec`], [`spdy`], [`remotecommand`]), changes ([`patch`], [`apply`]), documents
//! ([`openapi`]), and the client side ([`client`], [`events`],
//! [`leader`], [`flags`]).

pub mod gotext;
pub mod names;
pub mod status;

pub mod jsonpath;
pub mod object;
pub mod quantity;
pub mod selector;
pub mod time;

pub mod resources;
pub mod schema;

pub mod codec;
pub mod json;
pub mod remotecommand;
pub mod spdy;
pub mod yaml;

pub mod apply;
pub mod patch;

pub mod openapi;

pub mod client;
pub mod events;
pub mod flags;
pub mod leader;
