//! The example server of the crate `wstd`, word for word: an HTTP component as its authors made it.

include!("../upstream/http_server.rs");
