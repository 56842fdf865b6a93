//! Error, timeout and throttling rates per model version and route against their baseline. Home:
//! merged minute.

use crate::event::{Decision, Event};

/// How a call ended, as far as rates are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outcome {
    /// The provider or the way to it failed (timeouts included).
    pub error: bool,
    /// It took too long.
    pub timeout: bool,
    /// The provider refused for rate.
    pub throttled: bool,
    /// The caller's own mistake (other 4xx).
    pub client: bool,
    /// The gateway's policy blocked it.
    pub blocked: bool,
}

impl Outcome {
    /// Reads status, error class and policy.
    pub fn of(event: &Event) -> Self {
        let class = event.error.as_deref().unwrap_or_default();
        let timeout = matches!(event.status, 408 | 504) || class.contains("timeout");
        let throttled = event.status == 429 || class.contains("rate_limit");
        let network =
            class.contains("connection") || class.contains("network") || class.contains("reset");
        Self {
            error: timeout || (event.status >= 500 && !throttled) || network,
            timeout,
            throttled,
            client: (400..500).contains(&event.status) && !timeout && !throttled,
            blocked: event
                .policy
                .as_ref()
                .is_some_and(|p| p.decision == Decision::Block),
        }
    }
}
