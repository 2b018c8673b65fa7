//! Runs one function for several items in parallel.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::Result;

/// Calls `work` for each of `items`, on all processors. The results are in the order of the
/// items.
///
/// # Errors
/// The error of the first item, in their order, that failed. Items after it may be skipped.
pub(crate) fn try_map<T: Sync, R: Send>(
    items: &[T],
    work: impl Fn(&T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    let some = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(at) else {
                return done;
            };
            let result = work(item);
            if result.is_err() {
                next.store(items.len(), Ordering::Relaxed);
            }
            done.push((at, result));
        }
    };
    let mut results = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads.min(items.len()))
            .map(|_| scope.spawn(some))
            .collect();
        let done = threads.into_iter().map(|thread| thread.join());
        done.flat_map(|done| done.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect::<Vec<_>>()
    });
    results.sort_unstable_by_key(|(at, _)| *at);
    results.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, Kind};

    #[test]
    fn results_are_in_order_and_the_first_failure_is_returned() {
        let numbers: Vec<u32> = (0..1000).collect();
        let doubled = try_map(&numbers, |n| Ok(n * 2)).unwrap();
        assert!(doubled.iter().zip(&numbers).all(|(a, b)| *a == b * 2));
        let error = try_map(&numbers, |n| match n {
            7.. => Err(Error::new(Kind::Refused, n.to_string())),
            _ => Ok(()),
        });
        assert_eq!(error.unwrap_err().to_string(), "7");
        assert!(try_map(&[(); 0], |()| Ok(())).unwrap().is_empty());
    }
}
