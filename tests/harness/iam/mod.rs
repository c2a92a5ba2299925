//! IAM on this machine. An emulator lets everybody do everything; here every program reaches it through a gate of its own,
//! which reads each request as IAM does (action, resource, condition keys), judges it by the statements of the program's
//! role, and answers what is not permitted as the service would. What was used and what was refused is kept, so that a
//! test can tell a permission that is missing from one that nobody needs.
//!
//! How requests are authorised: <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html>,
//! <https://docs.aws.amazon.com/service-authorization/latest/reference/reference_policies_actions-resources-contextkeys.html>.

mod call;
mod gate;
mod policy;

pub use call::{Call, calls};
pub use gate::Gate;
pub use policy::{Judgement, Permission, Role, Statement};
