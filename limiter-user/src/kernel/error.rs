//! Why the kernel half cannot do what it was asked, in words for the operator.

use std::fmt;

/// Why the kernel half cannot do what it was asked.
#[derive(Debug)]
pub enum KernelError {
    /// The policy asks for something impossible.
    Policy(String),
    /// Something of the host is missing: capability, file system, interface, kernel feature.
    Host(String),
    /// What is pinned is not what this version writes.
    Pins(String),
    /// A table is full.
    Full(String),
    /// A system call failed.
    System(String),
}

impl fmt::Display for KernelError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Policy(text)
            | Self::Host(text)
            | Self::Pins(text)
            | Self::Full(text)
            | Self::System(text) => formatter.write_str(text),
        }
    }
}

impl std::error::Error for KernelError {}

impl KernelError {
    /// A failed operation on maps or programs, with what was being done.
    pub(super) fn system(doing: impl fmt::Display, error: &dyn std::error::Error) -> Self {
        let mut text = format!("{doing}: {error}");
        let mut source = error.source();
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        Self::System(text)
    }
}
