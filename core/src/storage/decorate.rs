//! What every storage gets around it, whoever wrote its connector: counts, limits, patience.
//!
//! ```text
//! engine ──► Retried ──► Adaptive ──► Limited ──► Counted ──► connector
//! ```
//! A wait before the next try holds no place among the calls under way, and what is counted is what reaches the connector.

use std::sync::Arc;

use super::Storage;
use super::adaptive::Adaptive;
use super::counted::{Counted, Traffic};
use super::layer::Layer;
use super::limited::{Limited, Limits};
use super::pace::Pace;
use super::retried::{Retried, RetryPolicy};

/// What is put around a storage.
#[derive(Debug, Clone, Copy, Default)]
pub struct Decoration {
    /// How patiently calls are tried again.
    pub retry: RetryPolicy,
    /// Rates to keep below.
    pub limits: Limits,
}

/// Puts all decorators around a storage; the totals grow as it is used.
pub fn decorate(
    storage: Arc<dyn Storage>,
    decoration: Decoration,
    pace: &Pace,
) -> (Arc<dyn Storage>, Arc<Traffic>) {
    let most = storage.capabilities().concurrency;
    let traffic = Arc::new(Traffic::default());
    let mut storage: Arc<dyn Storage> = Arc::new(Layer::new(
        storage,
        Counted::new(Arc::clone(&traffic), pace.clone()),
    ));
    if decoration.limits.any() {
        storage = Arc::new(Layer::new(storage, Limited::new(decoration.limits, pace.clone())));
    }
    storage = Arc::new(Layer::new(storage, Adaptive::new(most, pace.clone())));
    let retried = Retried::new(storage, decoration.retry, pace.clone(), Arc::clone(&traffic));
    (Arc::new(retried), traffic)
}
