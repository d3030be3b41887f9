//! The proxy as a whole, driven over a socketpair and real loopback sockets, before a tiny origin.

mod admission;
mod compiling;
mod explanation;
mod http1;
mod lifecycle;
mod origin;
mod support;
