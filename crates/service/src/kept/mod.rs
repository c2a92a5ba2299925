//! Answers that are kept: when two requests are the same, how long an answer is good for, and who may have it.

pub(crate) mod answer;
pub(crate) mod canonical;
pub(crate) mod heat;
pub(crate) mod keeping;
pub(crate) mod memory;
pub(crate) mod preload;
pub(crate) mod recall;
