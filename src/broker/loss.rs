//! What sessions of several engines need: how one is lost, and tasks that end with it.
//!
//! In:    reasons, from any task of a session.
//! Out:   the first of them, once, to whoever waits.
//! Never: knows a broker.

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::BrokerError;

/// Whether a session is lost, and why.
#[derive(Debug)]
pub struct Loss(watch::Sender<Option<BrokerError>>);

impl Default for Loss {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl Loss {
    /// Ends the session; the first reason stays.
    pub fn lose(&self, reason: BrokerError) {
        self.0.send_if_modified(|lost| {
            let first = lost.is_none();
            if first {
                *lost = Some(reason);
            }
            first
        });
    }

    /// Why the session is lost; else, what went wrong instead.
    #[must_use]
    pub fn reason(&self, otherwise: BrokerError) -> BrokerError {
        self.0.borrow().clone().unwrap_or(otherwise)
    }

    /// Resolves when the session is lost.
    pub async fn wait(&self) -> BrokerError {
        let mut lost = self.0.subscribe();
        // The sender is `self`, which is borrowed: there is no other end.
        let _ = lost.wait_for(Option::is_some).await;
        self.reason(BrokerError("the connection was lost".into()))
    }
}

/// A task that ends with its owner.
#[derive(Debug)]
pub struct Task(JoinHandle<()>);

impl Task {
    /// Starts it on the runtime of the caller.
    #[must_use]
    pub fn start(work: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(work))
    }

    /// Starts it on the caller's thread, among its local tasks.
    #[must_use]
    pub fn start_local(work: impl Future<Output = ()> + 'static) -> Self {
        Self(tokio::task::spawn_local(work))
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_stays() {
        let error = |text: &str| BrokerError(text.into());
        let loss = Loss::default();
        assert_eq!(loss.reason(error("well")), error("well"));
        loss.lose(error("first"));
        loss.lose(error("second"));
        assert_eq!(loss.reason(error("well")), error("first"));
    }
}
