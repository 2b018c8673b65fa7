//! How a long job tells what it has done, and learns that it should stop.

/// Watches a long job. Every method may be called from several threads.
pub trait Progress: Send + Sync {
    /// A phase starts: what is done, and how many bytes it will take.
    fn begin(&self, phase: &str, total_bytes: u64);

    /// That many more bytes are done.
    fn advance(&self, bytes: u64);

    /// A file is done: complete under its name, or checked.
    fn file_done(&self, name: &str);

    /// The phase is over.
    fn end(&self);

    /// Whether somebody wants the job to stop. Asked between blocks, so that a
    /// job ends within one of them.
    fn cancelled(&self) -> bool {
        false
    }
}

/// Watches in silence.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _phase: &str, _total_bytes: u64) {}
    fn advance(&self, _bytes: u64) {}
    fn file_done(&self, _name: &str) {}
    fn end(&self) {}
}
