//! Runs a copy: first everything that reads well, then the rest.

use crate::error::{Error, Result};
use crate::payload::Cause;

use super::copy::Copy;
use super::job::{Bad, Copied, CopyJob};
use super::recover::Recoverer;

impl CopyJob<'_> {
    /// Copies the entries of the plan from the payload to the store. Calls `tell` with the
    /// number and the name of each file once it is complete and on stable storage.
    ///
    /// # Errors
    /// The first failure. What was complete before it is returned too.
    pub fn run(
        mut self,
        tell: &mut dyn FnMut(u64, &str),
    ) -> std::result::Result<Copied, (Error, Copied)> {
        let progress = self.progress;
        let mut copied = Copied::default();
        progress.begin("importing", self.plan.write_bytes);
        let copies = self.index.payload().source().copies().len();
        copied.from = vec![0; copies.max(1)];
        let mut bad = Bad::default();
        let result = Copy::new(&mut self, tell, &mut copied, &mut bad).and_then(Copy::run);
        progress.end();
        let result = result.and_then(|()| match bad.any {
            true => self.refuse_gone(&bad),
            false => Ok(()),
        });
        let result = match self.recovery {
            Some(recovery) if result.is_ok() && bad.any => {
                Recoverer::new(&self, recovery, &mut copied, tell)
                    .and_then(|recoverer| recoverer.run(&bad.damaged, &bad.wrong))
            }
            _ => result,
        };
        let others: u64 = copied.from.iter().skip(1).sum();
        copied.from[0] = copied.bytes.saturating_sub(others);
        match result {
            Ok(()) => Ok(copied),
            Err(error) => Err((error, copied)),
        }
    }
    /// Fails if the only source is gone: an error for each file that it did not give would say no
    /// more.
    fn refuse_gone(&self, bad: &Bad) -> Result<()> {
        let source = self.index.payload().source();
        let Some(faults) = source.faults().filter(|faults| faults.is_gone()) else {
            return Ok(());
        };
        for entry in self.index.entries()? {
            let entry = entry?;
            if bad.damaged.get(entry.index) {
                let holes = faults.holes_in(entry.data_offset..entry.end());
                let at = holes
                    .iter()
                    .next()
                    .map_or(entry.data_offset, |hole| hole.start);
                let problem = entry.problem(at, Cause::Io(faults.error()));
                return Err(problem.into_error(&**source));
            }
        }
        Ok(())
    }
}
