//! A semaphore whose permits are given out in fair order, some of them to small work only.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::client::Client;
use super::queue::FairQueue;

/// A semaphore that gives its permits out in fair order. Beside those for all there are some for small work only, so that it need not wait
/// until large work is done.
#[derive(Debug)]
pub struct FairSemaphore {
    /// What costs no more is small.
    small_cost: u64,
    state: Mutex<FreePermits>,
}

#[derive(Debug)]
struct FreePermits {
    for_all: usize,
    for_small: usize,
    queue: FairQueue<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    is_small: bool,
    sender: oneshot::Sender<FairPermit>,
}

/// A permit, given back when it is dropped.
#[derive(Debug)]
pub struct FairPermit {
    semaphore: Arc<FairSemaphore>,
    is_for_small: bool,
}

impl FairSemaphore {
    /// `for_all` permits for all work, and `for_small` more for work that costs no more than `small_cost`.
    pub fn new(for_all: usize, for_small: usize, small_cost: u64) -> Arc<FairSemaphore> {
        let state = Mutex::new(FreePermits { for_all, for_small, queue: FairQueue::default() });
        Arc::new(FairSemaphore { small_cost, state })
    }

    /// Waits for a permit. Whoever stops waiting is passed over.
    pub async fn acquire(self: &Arc<FairSemaphore>, client: Client, cost: u64) -> Option<FairPermit> {
        let (sender, permit) = oneshot::channel();
        let waiting = Waiting { is_small: cost <= self.small_cost, sender };
        self.state().queue.push(client, cost, waiting);
        self.grant();
        permit.await.ok()
    }

    fn state(&self) -> MutexGuard<'_, FreePermits> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives free permits to those who are next.
    fn grant(self: &Arc<FairSemaphore>) {
        loop {
            let next = self.state().next();
            let Some((waiting, is_for_small)) = next else { return };
            // Should it have stopped waiting just now, the permit comes back as it is dropped.
            let _ = waiting.sender.send(FairPermit { semaphore: self.clone(), is_for_small });
        }
    }
}

impl FreePermits {
    /// Who is next, and whether by a permit for small work.
    fn next(&mut self) -> Option<(Waiting, bool)> {
        self.queue.retain(|waiting| !waiting.sender.is_closed());
        let (all, small) = (self.for_all > 0, self.for_small > 0);
        let next = self.queue.pop_where(|waiting| all || (small && waiting.is_small))?;
        let is_for_small = small && next.is_small;
        *(if is_for_small { &mut self.for_small } else { &mut self.for_all }) -= 1;
        Some((next, is_for_small))
    }
}

impl Drop for FairPermit {
    fn drop(&mut self) {
        let mut state = self.semaphore.state();
        *(if self.is_for_small { &mut state.for_small } else { &mut state.for_all }) += 1;
        drop(state);
        self.semaphore.grant();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn small_work_has_a_permit_beside_large_work() {
        let semaphore = FairSemaphore::new(1, 1, 10);
        let client = Client::default();
        let large = semaphore.acquire(client, 1000).await.unwrap();
        let second = tokio::spawn({
            let semaphore = semaphore.clone();
            async move { semaphore.acquire(client, 1000).await.unwrap() }
        });
        let small = semaphore.acquire(client, 10).await.unwrap();
        let abandoned = tokio::time::timeout(Duration::from_millis(10), semaphore.acquire(client, 1)).await;
        assert!(abandoned.is_err() && !second.is_finished());
        drop(large);
        drop(second.await.unwrap());
        drop(small);
        let state = semaphore.state();
        assert_eq!((state.for_all, state.for_small), (1, 1));
    }
}
