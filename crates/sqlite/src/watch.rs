//! Bells: whoever waits for a job or a queue is woken when something is written about it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use penstock_service::ports::Watch;
use tokio::sync::watch;

/// One bell a name, kept only while somebody listens.
#[derive(Default)]
pub(crate) struct Bells {
    bells: Mutex<BTreeMap<String, watch::Sender<()>>>,
}

impl Bells {
    /// Rings the bell of `name`, if anybody listens.
    pub(crate) fn ring(&self, name: &str) {
        if let Some(bell) = self.bells.lock().unwrap_or_else(PoisonError::into_inner).get(name) {
            bell.send_replace(());
        }
    }

    /// Listens to the bell of `name`: hears every ring from now on.
    pub(crate) fn listen(self: &Arc<Self>, name: String) -> Listener {
        let mut bells = self.bells.lock().unwrap_or_else(PoisonError::into_inner);
        let receiver = bells.entry(name.clone()).or_insert_with(|| watch::Sender::new(())).subscribe();
        Listener { bells: Arc::clone(self), name, receiver: Some(receiver) }
    }
}

/// Hears a bell.
pub(crate) struct Listener {
    bells: Arc<Bells>,
    name: String,
    receiver: Option<watch::Receiver<()>>,
}

#[async_trait]
impl Watch for Listener {
    async fn changed(&mut self) {
        if let Some(receiver) = &mut self.receiver {
            // The sender lives as long as this listener does.
            let _ = receiver.changed().await;
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut bells = self.bells.bells.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.receiver.take());
        if bells.get(&self.name).is_some_and(|bell| bell.receiver_count() == 0) {
            bells.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_between_listening_and_waiting_is_heard_and_the_last_listener_takes_the_bell_away() {
        let bells = Arc::new(Bells::default());
        let mut listener = bells.listen("a".to_owned());
        bells.ring("a");
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(listener.changed());
        drop(listener);
        assert!(bells.bells.lock().unwrap().is_empty());
    }
}
