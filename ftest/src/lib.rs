//! Functional tests.
