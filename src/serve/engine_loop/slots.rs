//! Who holds the engine's slots, and who gives one up when others wait. A slot is given up for a while only: the sequence is paused,
//! and goes on with the same tokens when it gets one again.

use std::collections::BTreeMap;

use super::fair::Client;
use crate::engine::Engine;
use crate::engine::sequence::SequenceState;

/// A prompt and its answers that are no longer together are a small request.
const SMALL_TOKENS: usize = 512;
/// Tokens that a sequence samples before it gives its slot up.
const QUANTUM_TOKENS: usize = 32;

/// A request's claim to slots.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Claim {
    /// The request, and on whose behalf it came.
    pub client: Client,
    /// Whether it is soon done.
    pub is_small: bool,
}

impl Claim {
    /// Of a request with a prompt of `prompt` tokens and `n` answers of up to `answer` tokens.
    pub fn new(client: Client, prompt: usize, n: usize, answer: usize) -> Claim {
        Claim { client, is_small: prompt.saturating_add(n.saturating_mul(answer)) <= SMALL_TOKENS }
    }
}

/// Open sequences with their claims.
#[derive(Debug, Default)]
pub struct Slots(BTreeMap<u64, Slot>);

#[derive(Debug)]
struct Slot {
    claim: Claim,
    /// Tokens since it was opened or resumed.
    tokens: usize,
}

impl Slots {
    /// A sequence was opened.
    pub fn insert(&mut self, sequence: u64, claim: Claim) {
        self.0.insert(sequence, Slot { claim, tokens: 0 });
    }

    /// A sequence sampled a token.
    pub fn count(&mut self, sequence: u64) {
        if let Some(slot) = self.0.get_mut(&sequence) {
            slot.tokens += 1;
        }
    }

    /// A sequence goes on.
    pub fn resume(&mut self, sequence: u64) {
        if let Some(slot) = self.0.get_mut(&sequence) {
            slot.tokens = 0;
        }
    }

    /// A sequence's claim.
    pub fn claim(&self, sequence: u64) -> Option<Claim> {
        self.0.get(&sequence).map(|slot| slot.claim)
    }

    /// How many sequences there are.
    pub fn count_all(&self) -> usize {
        self.0.len()
    }

    /// Forgets sequences that are closed.
    pub fn forget_closed(&mut self, engine: &Engine) {
        self.0.retain(|sequence, _| engine.state(*sequence).is_some());
    }

    /// Who could give a slot up now.
    pub fn usage(&self, engine: &Engine) -> SlotUsage {
        let mut usage = SlotUsage::default();
        let holds_slot = |sequence: u64| match engine.state(sequence) {
            Some(SequenceState::Running | SequenceState::SharingPrompt) => true,
            Some(SequenceState::Paused | SequenceState::Stopped | SequenceState::StoppedAside) | None => false,
        };
        for (_, slot) in self.0.iter().filter(|(sequence, _)| holds_slot(**sequence)) {
            *usage.of_tenant.entry(slot.claim.client.tenant).or_default() += 1;
            *usage.of_request.entry(slot.claim.client).or_default() += 1;
        }
        for (&sequence, slot) in &self.0 {
            if slot.tokens >= QUANTUM_TOKENS && engine.state(sequence) == Some(SequenceState::Running) {
                let key = (usage.tenants(slot.claim.client), usage.clients(slot.claim.client), slot.tokens);
                let victim = Victim { key, sequence, claim: slot.claim };
                usage.most = usage.most.max(Some(victim));
                if !slot.claim.is_small {
                    usage.most_of_large = usage.most_of_large.max(Some(victim));
                }
            }
        }
        usage
    }
}

/// How the slots are shared.
#[derive(Debug, Default)]
pub struct SlotUsage {
    of_tenant: BTreeMap<u128, usize>,
    of_request: BTreeMap<Client, usize>,
    /// Of those that may give their slots up the one whose tenant and request hold most, and which sampled most.
    most: Option<Victim>,
    /// The same among those of large requests.
    most_of_large: Option<Victim>,
}

/// A sequence that may give its slot up.
#[derive(Clone, Copy, Debug)]
struct Victim {
    /// Slots of its tenant, slots of its request, tokens since it has its slot.
    key: (usize, usize, usize),
    sequence: u64,
    claim: Claim,
}

impl PartialEq for Victim {
    fn eq(&self, other: &Victim) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Victim {}

impl PartialOrd for Victim {
    fn partial_cmp(&self, other: &Victim) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Victim {
    fn cmp(&self, other: &Victim) -> std::cmp::Ordering {
        (self.key, self.sequence).cmp(&(other.key, other.sequence))
    }
}

impl SlotUsage {
    fn tenants(&self, client: Client) -> usize {
        self.of_tenant.get(&client.tenant).copied().unwrap_or(0)
    }

    fn clients(&self, client: Client) -> usize {
        self.of_request.get(&client).copied().unwrap_or(0)
    }

    /// The sequence that gives its slot up to who waits: one of a tenant that holds more than the other's would with it, or of such a
    /// request of the same tenant; to a small request that of any large one.
    pub fn victim(&self, waiting: Claim) -> Option<u64> {
        let most = self.most.filter(|victim| {
            let (tenants, clients, _) = victim.key;
            let own = (self.tenants(waiting.client), self.clients(waiting.client));
            match victim.claim.client.tenant == waiting.client.tenant {
                true => clients > own.1 + 1,
                false => tenants > own.0 + 1,
            }
        });
        let most_of_large =
            self.most_of_large.filter(|victim| waiting.is_small && victim.claim.client != waiting.client);
        most.or(most_of_large).map(|victim| victim.sequence)
    }
}
