//! Cases that failed once.

use crate::case::Case;

/// Each with what was wrong.
const FOUND: [(&str, &str); 4] = [
    (
        "import/193/12/10000/bff7",
        "a short read of a copy with a smaller alignment counted as the end of the payload",
    ),
    (
        "import/7783/12/40000/bfde",
        "a copy that fails where it has ended was read forever",
    ),
    (
        "import/7972/12/40000/bfde",
        "a copy that fails where it has ended was read forever",
    ),
    (
        "import/20429/12/40000/bfd7",
        "the end of a copy that is cut off counted as the end of the payload beside a bad sector",
    ),
];

#[test]
fn what_was_found_stays_mended() {
    for (case, what) in FOUND {
        let case: Case = case.parse().unwrap();
        assert_eq!(crate::run(&case), Ok(()), "{case}: {what}");
    }
}
