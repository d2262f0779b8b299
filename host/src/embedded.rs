//! The embedded database server.
