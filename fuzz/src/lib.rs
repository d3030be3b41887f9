//! The parts of the test harness that fuzz targets need, without what those do not: the same files.

#[path = "../../tests/src/fuzzing.rs"]
pub mod fuzzing;
#[path = "../../tests/src/lists.rs"]
pub mod lists;
#[path = "../../tests/src/policy.rs"]
pub mod policy;
#[path = "../../tests/src/reference.rs"]
pub mod reference;
