//! The harness tried on itself, without the product: what later tests take for granted.

#[cfg(test)]
mod frames;
#[cfg(test)]
mod http;
#[cfg(test)]
mod process;
#[cfg(test)]
mod wire;
