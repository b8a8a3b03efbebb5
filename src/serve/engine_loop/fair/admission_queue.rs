//! The admission queue: requests that came and are not yet opened in the engine. It has an end, and where there are more, one gives way.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Bodies that may upload at once, even if the queue is shorter.
const COMING_MAX: usize = 64;

/// Requests not yet opened in the engine, as many as may wait, and those whose bodies still upload. Where there are more, one gives way: of
/// those that wait the costliest of the tenant that has most, of the others the one whose body has been coming for longest.
#[derive(Debug)]
pub struct AdmissionQueue {
    max: usize,
    state: Mutex<(u64, BTreeMap<u64, QueuedRequest>)>,
}

#[derive(Debug)]
struct QueuedRequest {
    tenant: u128,
    /// What it costs; none until its body is here.
    cost: Option<u64>,
    /// Tells it that it gave way.
    sender: oneshot::Sender<()>,
}

/// A place in the admission queue, left when it is dropped.
#[derive(Debug)]
pub struct Place {
    queue: Arc<AdmissionQueue>,
    number: u64,
}

impl AdmissionQueue {
    /// A queue of at most `max` waiting requests.
    pub fn new(max: usize) -> Arc<AdmissionQueue> {
        Arc::new(AdmissionQueue { max, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, (u64, BTreeMap<u64, QueuedRequest>)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many wait or come in.
    pub fn count(&self) -> usize {
        self.state().1.len()
    }

    /// Comes in as a request whose body is not here yet; the other end hears if it has to give way.
    pub fn enter(self: &Arc<AdmissionQueue>, tenant: u128) -> (Place, oneshot::Receiver<()>) {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.state();
        let (next, all) = &mut *state;
        *next += 1;
        let number = *next;
        all.insert(number, QueuedRequest { tenant, cost: None, sender });
        // Most bodies come at once: the one that has been coming for longest has probably stalled.
        let mut coming = all.iter().filter(|(_, one)| one.cost.is_none()).map(|(number, _)| *number);
        if let Some(oldest) = coming.next()
            && coming.count() >= self.max.max(COMING_MAX)
        {
            give_way(all, oldest);
        }
        drop(state);
        (Place { queue: self.clone(), number }, receiver)
    }
}

/// Takes one out and notifies it.
fn give_way(all: &mut BTreeMap<u64, QueuedRequest>, number: u64) {
    if let Some(gone) = all.remove(&number) {
        let _ = gone.sender.send(());
    }
}

impl Place {
    /// The body is here, and says what the request costs. Another may have to give way.
    ///
    /// # Errors
    /// How many wait, if it is this one.
    pub fn wait(&self, cost: u64) -> Result<(), usize> {
        let mut state = self.queue.state();
        let all = &mut state.1;
        match all.get_mut(&self.number) {
            Some(own) => own.cost = Some(cost),
            // It gave way while its body came, and takes no other's place.
            None => return Err(all.len()),
        }
        let mut of_tenant: BTreeMap<u128, usize> = BTreeMap::new();
        let waiting = all.iter().filter_map(|(number, one)| Some((*number, one.tenant, one.cost?)));
        waiting.clone().for_each(|(_, tenant, _)| *of_tenant.entry(tenant).or_default() += 1);
        let count = of_tenant.values().sum::<usize>();
        if count <= self.queue.max {
            return Ok(());
        }
        let last = waiting.max_by_key(|(number, tenant, cost)| (of_tenant[tenant], *cost, *number));
        let last = last.map_or(self.number, |(number, ..)| number);
        if last == self.number {
            all.remove(&last);
            return Err(count - 1);
        }
        give_way(all, last);
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.queue.state().1.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_a_full_queue_the_costliest_of_the_largest_tenant_gives_way() {
        let queue = AdmissionQueue::new(2);
        let enter = |tenant: u128| queue.enter(tenant);
        let (first, mut first_gone) = enter(0);
        first.wait(1000).unwrap();
        let (second, mut second_gone) = enter(0);
        second.wait(10).unwrap();
        let (third, _third_gone) = enter(0);
        third.wait(10).unwrap();
        assert!(first_gone.try_recv().is_ok() && second_gone.try_recv().is_err());
        drop(first);
        assert_eq!(enter(0).0.wait(10).unwrap_err(), 2);
        let (other, _other_gone) = enter(1);
        assert!(other.wait(5000).is_ok(), "a tenant that has less goes first");
        assert_eq!(AdmissionQueue::new(0).enter(0).0.wait(1), Err(0));
    }

    #[test]
    fn who_gave_way_takes_no_place_of_another() {
        let queue = AdmissionQueue::new(1);
        let (slow, _slow_gone) = queue.enter(0);
        let coming: Vec<_> = (0..COMING_MAX).map(|_| queue.enter(1)).collect();
        let (other, mut other_gone) = queue.enter(2);
        other.wait(1000).unwrap();
        assert!(slow.wait(1).is_err() && other_gone.try_recv().is_err());
        drop(coming);
    }
}
