//! Locking without poisoning.

use std::sync::PoisonError;

use crate::sync::{Mutex, MutexGuard};

/// Locks `mutex`, ignoring poisoning: a thread that panicked has left no value half changed.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
