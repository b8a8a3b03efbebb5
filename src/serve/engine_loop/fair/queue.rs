//! The fair queue: what waits, in the order in which it is served. Tenants take turns; within a tenant the request goes first that would be
//! done first if all were served at once.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::client::Client;

/// Virtual time of a unit of cost: fine enough to be shared by many.
const COST_SCALE: u64 = 1 << 12;

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

#[cfg(test)]
mod tests {
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
}
