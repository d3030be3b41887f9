//! Requests end to end: through the real binary, its two processes and real sockets.

#[cfg(test)]
mod access_log;
#[cfg(test)]
mod answers;
#[cfg(test)]
mod change;
#[cfg(test)]
mod clock_jumps;
#[cfg(test)]
mod departed;
#[cfg(test)]
mod edge;
#[cfg(test)]
mod elizaos;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod forward_auth;
#[cfg(test)]
mod forwarding;
#[cfg(test)]
mod h2;
#[cfg(test)]
mod jwt;
#[cfg(test)]
mod keys;
#[cfg(test)]
mod lapses;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod listeners;
#[cfg(test)]
mod malformed;
#[cfg(test)]
mod mtls;
#[cfg(test)]
mod once;
#[cfg(test)]
mod order;
#[cfg(test)]
mod pace;
#[cfg(test)]
mod presets;
#[cfg(test)]
mod protocols;
#[cfg(test)]
mod proxy_protocol;
#[cfg(test)]
mod rest;
#[cfg(test)]
mod routing;
#[cfg(test)]
mod servers;
#[cfg(test)]
mod signatures;
#[cfg(test)]
mod streaming;
#[cfg(test)]
mod support;
#[cfg(test)]
mod tls;
#[cfg(test)]
mod trailers;
#[cfg(test)]
mod upgrade;
#[cfg(test)]
mod upstream;
#[cfg(test)]
mod webhooks;
