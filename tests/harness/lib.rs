//! What the system tests share: processes, servers, places.
