//! Verifies a payload with a given queue.

use crate::block::Queue;
use crate::error::Result;
use crate::payload::{
    Cause, Checksums, Index, Payload, Problem, Problems, embedded_checksums, embedded_entry,
    refuse_other_headers,
};
use crate::progress::Progress;

use super::reader::{Done, Reader};
use super::report::{FileVerdict, Report};

/// Does the same as [`super::verify`] with a given queue, so that a simulation decides the order in which
/// reads end.
///
/// # Errors
/// The same as for [`super::verify`].
pub fn verify_on(
    payload: &Payload,
    mut sums: Checksums,
    queue: Box<dyn Queue<Done>>,
    progress: &dyn Progress,
    tell: &mut dyn FnMut(&str, FileVerdict),
) -> Result<Report> {
    let payload = &payload.recording_faults();
    let mut report = Report {
        dialect: payload.dialect(),
        files: 0,
        payload_bytes: 0,
        bad: Vec::new(),
        from_other_copies: 0,
        problems: Problems::default(),
        matched: 0,
        unlisted: 0,
    };
    let index = Index::scan(payload, progress, &mut |problem| {
        report.problems.add(problem);
        Ok(())
    })?;
    refuse_other_headers(&index, progress)?;
    report.files = index.files();
    report.payload_bytes = index.payload_bytes();
    if let Some(entry) = embedded_entry(&index)? {
        if let Err(e) = embedded_checksums(&index, &mut sums) {
            // A problem with this entry does not prevent the others from being read.
            let cause = Cause::BadSums(e.cause());
            report.problems.add(entry.problem(entry.data_offset, cause));
        }
    }
    progress.begin("verifying", index.data_bytes());
    Reader::new(&index, &mut sums, queue, &mut report, tell, progress)?.run()?;
    progress.end();
    let first = payload.first_copy();
    if let Some(faults) = first.source().faults() {
        report.bad = faults.bad_in(0..u64::MAX).iter().collect();
    }
    report.problems.sort();
    if index.is_whole() {
        for name in sums.unseen() {
            report.problems.add(Problem {
                index: None,
                name: Some(name.to_owned()),
                offset: report.payload_bytes,
                cause: Cause::Missing,
            });
            tell(name, FileVerdict::Failed);
        }
    }
    Ok(report)
}
