//! What the next step runs.
