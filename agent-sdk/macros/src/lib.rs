//! The attribute macro of agent-sdk.
