//! Nodes without a runtime, for scale tests.
