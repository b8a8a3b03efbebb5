//! Who is served next. Whatever requests wait for (a processor to prepare them, a place in the engine, a piece of a step) is given out in one
//! order: round robin among the tenants that wait, and within a tenant by the virtual time at which each would be done if all were served at
//! once (weighted fair queueing by virtual finish time, with equal weights). So a small request passes large ones that wait, and a large
//! request cannot starve.
//!
//! A request's parts wait one after the other. Work that cannot be cut leaves a permit to small work. The engine's slots are shared out by
//! `slots.rs`: where none is free, a request that holds many gives one up to one that holds fewer, and a long one to a small one; its
//! sequence is paused, and goes on with the same bits. A step keeps up to half of its prompt tokens for short prompts. Where the admission
//! queue is full, the costliest request of the largest tenant is refused, whoever came last. A body that comes to a stop gives its memory and
//! its place up when others want them; where descriptors are short, so does the longest idle connection.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Virtual time of a unit of cost: fine enough to be shared by many.
const COST_SCALE: u64 = 1 << 12;
/// Bodies that may upload at once, even if the queue is shorter.
const COMING_MAX: usize = 64;

/// A request and its tenant: what is shared out, is shared among tenants first and among their requests then.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Client {
    /// The tenant: all who share a key or an address.
    pub tenant: u128,
    /// Number of the request.
    pub request: u64,
}

impl Client {
    /// A request that brought the key of this number, if there are several, from an address. All of this machine share one, and so do
    /// those of a network of version 6.
    pub fn new(key: Option<usize>, address: Option<IpAddr>, request: u64) -> Client {
        // Where the server listens at addresses of version 6, those of version 4 come written as such.
        let tenant = match (key, address.map(|address| address.to_canonical())) {
            (Some(key), _) => 1 + key as u128,
            (None, Some(IpAddr::V4(address))) if !address.is_loopback() => address.to_ipv6_mapped().to_bits(),
            (None, Some(IpAddr::V6(address))) if !address.is_loopback() => address.to_bits() >> 64 << 64,
            (None, _) => 0,
        };
        Client { tenant, request }
    }
}

/// Things that wait, in fair order.
#[derive(Debug)]
pub struct FairQueue<T> {
    tenants: BTreeMap<u128, Tenant<T>>,
    /// Virtual time among tenants.
    clock: u64,
    arrivals: u64,
}

/// What waits of a tenant.
#[derive(Debug)]
struct Tenant<T> {
    /// Virtual time at which it is served next.
    next_served: u64,
    /// Virtual time within it: the cost that each of its requests would have been served by now, were all served at once.
    clock: u64,
    /// Of each request: its virtual finish time, and how many items of it wait.
    requests: BTreeMap<u64, (u64, usize)>,
    /// By when each would be done, and when it came.
    waiting: BTreeMap<(u64, u64), Waiter<T>>,
}

#[derive(Debug)]
struct Waiter<T> {
    request: u64,
    cost: u64,
    item: T,
}

/// Where something waits.
pub type Spot = (u128, (u64, u64));

impl<T> Default for FairQueue<T> {
    fn default() -> FairQueue<T> {
        FairQueue { tenants: BTreeMap::new(), clock: 0, arrivals: 0 }
    }
}

impl<T> FairQueue<T> {
    /// Adds an item of a request to the queue, at a cost.
    pub fn push(&mut self, client: Client, cost: u64, item: T) {
        self.arrivals += 1;
        let new = || Tenant { next_served: self.clock, clock: 0, requests: BTreeMap::new(), waiting: BTreeMap::new() };
        let tenant = self.tenants.entry(client.tenant).or_insert_with(new);
        let (done, count) = tenant.requests.entry(client.request).or_default();
        *done = tenant.clock.max(*done).saturating_add(cost.saturating_mul(COST_SCALE));
        *count += 1;
        let waiter = Waiter { request: client.request, cost, item };
        tenant.waiting.insert((*done, self.arrivals), waiter);
    }

    /// What waits, in the order in which it is served as far as that is known: each tenant's own order, the tenant first that is served next.
    pub fn iter(&self) -> impl Iterator<Item = (Spot, &T)> {
        let mut tenants: Vec<_> = self.tenants.iter().collect();
        tenants.sort_by_key(|(number, tenant)| (tenant.next_served, **number));
        tenants
            .into_iter()
            .flat_map(|(number, tenant)| tenant.waiting.iter().map(|(spot, waiter)| ((*number, *spot), &waiter.item)))
    }

    /// Takes out what waits at a spot, to be served.
    pub fn take(&mut self, (tenant, spot): Spot) -> Option<T> {
        let Entry::Occupied(mut entry) = self.tenants.entry(tenant) else { return None };
        let tenant = entry.get_mut();
        let Waiter { request, cost, item } = tenant.waiting.remove(&spot)?;
        self.clock = self.clock.max(tenant.next_served);
        tenant.next_served = tenant.next_served.saturating_add(cost.max(1));
        let share = cost.saturating_mul(COST_SCALE) / tenant.requests.len() as u64;
        tenant.clock = tenant.clock.saturating_add(share);
        tenant.leave(request);
        if tenant.waiting.is_empty() {
            entry.remove();
        }
        Some(item)
    }

    /// Takes the first that may go.
    pub fn pop_where(&mut self, mut may: impl FnMut(&T) -> bool) -> Option<T> {
        let (spot, _) = self.iter().find(|(_, item)| may(item))?;
        self.take(spot)
    }

    /// Keeps those of which this is true.
    pub fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        for tenant in self.tenants.values_mut() {
            let mut gone = Vec::new();
            tenant.waiting.retain(|_, waiter| {
                let stays = keep(&waiter.item);
                gone.extend((!stays).then_some(waiter.request));
                stays
            });
            gone.into_iter().for_each(|request| tenant.leave(request));
        }
        self.tenants.retain(|_, tenant| !tenant.waiting.is_empty());
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.tenants.is_empty()
    }
}

impl<T> Tenant<T> {
    /// One less of a request waits.
    fn leave(&mut self, request: u64) {
        if let Entry::Occupied(mut entry) = self.requests.entry(request) {
            entry.get_mut().1 -= 1;
            if entry.get().1 == 0 {
                entry.remove();
            }
        }
    }
}

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
    use std::time::Duration;

    use super::*;

    fn drain(queue: &mut FairQueue<&'static str>) -> Vec<&'static str> {
        std::iter::from_fn(|| queue.pop_where(|_| true)).collect()
    }

    fn client(tenant: u128, request: u64) -> Client {
        Client { tenant, request }
    }

    #[test]
    fn small_work_passes_large_work_and_does_not_starve_it() {
        let mut queue = FairQueue::default();
        queue.push(client(0, 0), 100, "large");
        let mut passed = 0;
        for request in 1.. {
            queue.push(client(0, request), 10, "small");
            match queue.pop_where(|_| true) {
                Some("small") => passed += 1,
                _ => break,
            }
        }
        // While both wait, each has a half.
        assert!((15..25).contains(&passed), "{passed}");
        assert_eq!(drain(&mut queue), ["small"]);
        assert!(queue.is_empty());
    }

    #[test]
    fn parts_of_a_request_wait_one_behind_the_other() {
        let mut queue = FairQueue::default();
        (0..4000).for_each(|_| queue.push(client(0, 1), 10, "part"));
        assert_eq!(queue.pop_where(|_| true), Some("part"));
        queue.push(client(0, 2), 10, "other");
        let order = drain(&mut queue);
        assert!(order.iter().position(|name| *name == "other").unwrap() < 3);
        (0..10).for_each(|_| queue.push(client(0, 1), 10, "part"));
        queue.retain(|name| *name == "other");
        assert!(queue.is_empty());
    }

    #[test]
    fn tenants_take_turns_however_much_each_asks() {
        let mut queue = FairQueue::default();
        for (request, name) in (1..).zip(["a1", "a2", "a3", "a4"]) {
            queue.push(client(1, request), 10, name);
        }
        queue.push(client(2, 5), 25, "b1");
        queue.push(client(2, 6), 25, "b2");
        assert_eq!(drain(&mut queue), ["a1", "b1", "a2", "a3", "b2", "a4"]);
        queue.push(client(1, 7), 10, "a5");
        queue.push(client(3, 8), 10, "c1");
        assert_eq!(drain(&mut queue), ["a5", "c1"]);
    }

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

    #[test]
    fn addresses_of_version_4_are_tenants_of_their_own_however_they_are_written() {
        let tenant = |address: &str| Client::new(None, Some(address.parse().unwrap()), 0).tenant;
        assert_ne!(tenant("::ffff:192.0.2.1"), tenant("::ffff:192.0.2.2"));
        assert_eq!(tenant("::ffff:192.0.2.1"), tenant("192.0.2.1"));
        assert_eq!(tenant("::ffff:127.0.0.1"), tenant("::1"));
        assert_eq!(tenant("2001:db8::1"), tenant("2001:db8::2"));
    }
}
