//! Answers with the body it was sent.
