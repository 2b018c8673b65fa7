//! The interface through which a long job reports its progress and learns that it should stop.

/// Observes a long job. Every method may be called from several threads.
pub trait Progress: Send + Sync {
    /// Called when a phase starts, with its name and the number of bytes that it will process.
    fn begin(&self, phase: &str, total_bytes: u64);

    /// Called when that many more bytes have been processed.
    fn advance(&self, bytes: u64);

    /// Called when that many bytes of the phase need no work. They count neither as done nor as
    /// left, so that the rate and the time left are those of the bytes that are really moved.
    fn skip(&self, _bytes: u64) {}

    /// Called when it turns out that the phase has that many more bytes to process.
    fn extend(&self, _bytes: u64) {}

    /// Called when work on a file starts that takes a while, with its size if that is known.
    fn file_started(&self, _name: &str, _bytes: Option<u64>) {}

    /// Called when that many more bytes of a started file have been processed.
    fn file_advanced(&self, _name: &str, _bytes: u64) {}

    /// Called when work on a started file stops, whether it is complete or not.
    fn file_stopped(&self, _name: &str) {}

    /// Called when a file is complete under its name, or has been checked.
    fn file_done(&self, name: &str);

    /// Called when the phase ends.
    fn end(&self);

    /// Returns whether the job should stop. The job asks between blocks, so it ends within
    /// the time of one block.
    fn cancelled(&self) -> bool {
        false
    }
}

/// Observes a job and does nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _phase: &str, _total_bytes: u64) {}
    fn advance(&self, _bytes: u64) {}
    fn file_done(&self, _name: &str) {}
    fn end(&self) {}
}
