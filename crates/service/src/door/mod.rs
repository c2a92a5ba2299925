//! The edge: bytes in, a use case, bytes out. Reads what is asked, waits for the words, and tells them as the route's
//! clients expect.

pub(crate) mod admin;
pub(crate) mod answering;
pub(crate) mod asked;
pub(crate) mod auth;
pub(crate) mod explain;
pub(crate) mod fetch;
pub(crate) mod http;
pub(crate) mod paging;
pub(crate) mod quote;
pub(crate) mod relay;
pub(crate) mod rendering;
pub(crate) mod responses;
pub(crate) mod route;
pub(crate) mod telling;
pub mod tokens;
pub(crate) mod told;
pub(crate) mod vectors;
