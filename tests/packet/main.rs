//! The packet path proved: the program in the kernel does what `limiter-common` says on the host,
//! and connections that a host opens survive what refuses their peer.

#[cfg(test)]
mod cases;
#[cfg(test)]
mod differential;
#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod policies;
#[cfg(test)]
mod replies;
