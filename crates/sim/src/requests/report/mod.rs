//! What came out, for people and for programs: a table, JSON, a page with charts, a parameter file.

pub mod chart;
pub mod html;
pub mod json;
pub mod parameters;
pub mod table;
