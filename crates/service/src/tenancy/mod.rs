//! Tenants: their terms and keys, what they use, and removing what is theirs.

pub(crate) mod erase;
pub(crate) mod tenants;
pub(crate) mod usage;
