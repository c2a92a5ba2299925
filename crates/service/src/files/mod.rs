//! Files: what tenants keep here to be read by a batch, and what batches answer with.
//!
//! A file is a document on its tenant's shelf and a [`content`] among the blobs. The content is written first and the
//! document last, so that whoever finds the document finds all of the content; an [`agenda`](crate::agenda) errand that is
//! put down before either removes what never became a file, and files that have ended.

pub(crate) mod content;
pub(crate) mod file;
mod form;
pub(crate) mod routes;
mod upload;

pub use content::contents_of;
