//! What a packet is and what is decided about it, shared by the kernel program and user space.
//!
//! Never does I/O, reads a clock, allocates or names a map: bytes, tables and `now` are arguments,
//! so that the same code runs in the kernel and under `cargo test`.

#![no_std]
#![forbid(unsafe_code)]

pub mod address;
pub mod ban;
pub mod bucket;
pub mod connection;
pub mod decide;
pub mod headers;
pub mod limits;
pub mod lists;
pub mod machine;
pub mod maps;
pub mod packet;
pub mod ports;
#[cfg(test)]
mod races;
pub mod report;
pub mod settings;
pub mod source;
pub mod verdict;
