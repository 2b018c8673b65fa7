//! What threads use to wait for each other. With the feature `shuttle`, a test decides the order in
//! which they run, and tries many orders.

#[cfg(not(feature = "shuttle"))]
pub(crate) use std::{
    sync::{Condvar, Mutex, MutexGuard, atomic, mpsc},
    thread,
};

#[cfg(feature = "shuttle")]
pub(crate) use shuttle::{
    sync::{Condvar, Mutex, MutexGuard, atomic, mpsc},
    thread,
};

/// Waits for a notice, for `time` at most. Returns whether the time was over. In a test of orders,
/// time has no length, so it is over at once.
pub(crate) fn wait_timeout<'a, T>(
    condvar: &Condvar,
    mutex: &'a Mutex<T>,
    guard: MutexGuard<'a, T>,
    time: std::time::Duration,
) -> (MutexGuard<'a, T>, bool) {
    use std::sync::PoisonError;
    if cfg!(feature = "shuttle") {
        drop(guard);
        thread::yield_now();
        return (mutex.lock().unwrap_or_else(PoisonError::into_inner), true);
    }
    let waited = condvar.wait_timeout(guard, time);
    let (guard, result) = waited.unwrap_or_else(PoisonError::into_inner);
    (guard, result.timed_out())
}

/// Runs `test` in many orders of its threads: SHUTTLE_ORDERS, or 2,000. Half of them are random, in
/// the other half few threads change at unlikely places.
#[cfg(all(test, feature = "shuttle"))]
pub(crate) fn orders(test: impl Fn() + Send + Sync + 'static) {
    let test = std::sync::Arc::new(test);
    let same = std::sync::Arc::clone(&test);
    random_orders(move || test());
    shuttle::check_pct(move || same(), number() / 2, 3);
}

/// Does the same only at random, for threads that look again and again whether something has
/// happened.
#[cfg(all(test, feature = "shuttle"))]
pub(crate) fn random_orders(test: impl Fn() + Send + Sync + 'static) {
    shuttle::check_random(test, number() / 2);
}

#[cfg(all(test, feature = "shuttle"))]
fn number() -> usize {
    std::env::var("SHUTTLE_ORDERS").map_or(2_000, |number| number.parse().unwrap())
}
