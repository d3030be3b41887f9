//! Hosts that share limits and bans: several limiters, each in a namespace of its own, and one real
//! Redis between them.

#[cfg(test)]
mod bans;
#[cfg(test)]
mod failure;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod support;
