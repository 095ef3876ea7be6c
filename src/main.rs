//! hsup.
fn main() {}
