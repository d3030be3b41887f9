//! The agent end to end: real packets through real XDP, real processes, signals and files.

#[cfg(test)]
mod accounting;
#[cfg(test)]
mod attach;
#[cfg(test)]
mod bans;
#[cfg(test)]
mod bulk;
#[cfg(test)]
mod connections;
#[cfg(test)]
mod cookies;
#[cfg(test)]
mod detach;
#[cfg(test)]
mod escalation;
#[cfg(test)]
mod events;
#[cfg(test)]
mod exhaustion;
#[cfg(test)]
mod forwarding;
#[cfg(test)]
mod interfaces;
#[cfg(test)]
mod layout;
#[cfg(test)]
mod lifecycle;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod lists;
#[cfg(test)]
mod malformed;
#[cfg(test)]
mod monitor;
#[cfg(test)]
mod observing;
#[cfg(test)]
mod overload;
#[cfg(test)]
mod pace;
#[cfg(test)]
mod prefixes;
#[cfg(test)]
mod rates;
#[cfg(test)]
mod reload;
#[cfg(test)]
mod replies;
#[cfg(test)]
mod runtime_lists;
#[cfg(test)]
mod services;
#[cfg(test)]
mod support;
#[cfg(test)]
mod trial;
