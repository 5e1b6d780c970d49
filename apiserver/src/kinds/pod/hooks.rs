//! The rows of pods and pod templates in the table of kinds.

use super::{defaults, prepare};
use crate::kinds::kind::Kind;

/// `pods` and its subresources, and PodTemplate.
pub const KINDS: &[Kind] = &[
    Kind { default: defaults::pod, create: prepare::create, grace: prepare::grace, ..Kind::new("", "pods") },
    Kind { default: defaults::pod, update: prepare::update_status, ..Kind::sub("", "pods", "status") },
    Kind {
        default: defaults::pod,
        update: prepare::update_ephemeral_containers,
        ..Kind::sub("", "pods", "ephemeralcontainers")
    },
    Kind { default: defaults::pod, update: prepare::update_resize, ..Kind::sub("", "pods", "resize") },
    Kind {
        default: |object| defaults::template(object, &["template", "spec"]),
        ..Kind::new("", "podtemplates")
    },
];
