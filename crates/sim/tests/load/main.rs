//! Load on the whole service in virtual time: whether promises are kept, whether whoever obeys a refusal is served, whether
//! one tenant can crowd out another, whether a fleet follows the load.
//!
//! Figures are printed; run with `--nocapture` to see them. Each scenario is one seed, so its figures repeat exactly.
#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::print_stdout,
    reason = "a test may stop at the first surprise, and prints what it measured"
)]

mod clients;
mod fairness;
mod fleet;
mod promises;
