//! The harness of every test that crosses a boundary: namespaces, frames, raw sockets, HTTP on both
//! sides of the proxy, and the `limiter` process itself.
//!
//! A harness fails by panicking with what it was doing: a test that cannot be set up has failed.
//! Everything it makes (namespaces, interfaces, mounts, files, processes) is named after this
//! process, removed on drop, and swept by the next run if this one is killed. It never touches the
//! network namespace that the tests were started in.

pub mod counters;
pub mod flood;
pub mod frames;
pub mod fuzzing;
pub mod http;
pub mod lists;
pub mod load;
pub mod netns;
pub mod origin;
pub mod policy;
pub mod process;
pub mod program;
pub mod random;
pub mod raw;
pub mod redis;
pub mod reference;
pub mod scratch;
pub mod tokens;
pub mod veth;
pub mod wait;
pub mod world;
