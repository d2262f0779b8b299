//! `agent-host compile`, hidden: the process in which a host compiles one module.

/// What a host asks for.
#[derive(Clone, Debug, clap::Args)]
pub struct CompileArguments {
    /// Identity of the engine that is to run the code
    #[arg(long)]
    pub engine: String,
    /// Most resident memory, in bytes
    #[arg(long)]
    pub memory_bytes: u64,
    /// Most processor time, in seconds
    #[arg(long)]
    pub processor_seconds: u64,
    /// Most code, in bytes
    #[arg(long)]
    pub code_bytes: u64,
}
