//! The command line end to end: what each command prints and how it ends, with and without an
//! agent.

#[cfg(test)]
mod alone;
#[cfg(test)]
mod asking;
#[cfg(test)]
mod doctor;
