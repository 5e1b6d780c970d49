//! The rows of pods and pod templates in the table of kinds.

use super::{defaults, prepare, resize, status, validate};
use crate::kinds::at::At;
use crate::kinds::kind::Kind;

/// `pods` and its subresources, and PodTemplate.
pub const KINDS: &[Kind] = &[
    Kind {
        default: defaults::pod,
        create: prepare::create,
        check: validate::pod,
        grace: prepare::grace,
        ..Kind::new("", "pods")
    },
    Kind {
        default: defaults::pod,
        update: prepare::update_status,
        check: status::check,
        ..Kind::sub("", "pods", "status")
    },
    Kind {
        default: defaults::pod,
        update: prepare::update_ephemeral_containers,
        check: resize::check_ephemeral,
        table_rules: true,
        ..Kind::sub("", "pods", "ephemeralcontainers")
    },
    Kind {
        default: defaults::pod,
        update: prepare::update_resize,
        check: resize::check_resize,
        table_rules: true,
        ..Kind::sub("", "pods", "resize")
    },
    Kind {
        default: |object| defaults::template(object, &["template", "spec"]),
        check: |_, new, _, errors| validate::template(&At::root(new).get("template"), errors),
        ..Kind::new("", "podtemplates")
    },
];
