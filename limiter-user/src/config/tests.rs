//! Whole documents: what they become, and the error text of those that cannot be used.
