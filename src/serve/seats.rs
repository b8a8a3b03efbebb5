//! Who sits in the engine's places, and who gives one up when others wait. A place is given up for a while only: the sequence rests, and goes
//! on with the same tokens when its turn comes again.

use std::collections::BTreeMap;

use super::fair::Client;
use crate::engine::Engine;
use crate::engine::sequence::SequenceState;

/// A prompt and its answers that are no longer together are a small request.
const SMALL_TOKENS: usize = 512;
/// Tokens that a sequence draws before it gives its place up.
const TURN_TOKENS: usize = 32;

/// A request's claim to places.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Claim {
    /// Whose.
    pub client: Client,
    /// Whether it is soon done.
    pub is_small: bool,
}

impl Claim {
    /// Of a request with a prompt of so many tokens and so many answers of so many.
    pub fn new(client: Client, prompt: usize, n: usize, answer: usize) -> Claim {
        Claim { client, is_small: prompt.saturating_add(n.saturating_mul(answer)) <= SMALL_TOKENS }
    }
}

/// Open sequences with their claims.
#[derive(Debug, Default)]
pub struct Seats(BTreeMap<u64, Seat>);

#[derive(Debug)]
struct Seat {
    claim: Claim,
    /// Tokens since it was opened or resumed.
    tokens: usize,
}

impl Seats {
    /// A sequence was opened.
    pub fn insert(&mut self, sequence: u64, claim: Claim) {
        self.0.insert(sequence, Seat { claim, tokens: 0 });
    }

    /// A sequence drew a token.
    pub fn count(&mut self, sequence: u64) {
        if let Some(seat) = self.0.get_mut(&sequence) {
            seat.tokens += 1;
        }
    }

    /// A sequence goes on; its claim.
    pub fn resume(&mut self, sequence: u64) {
        if let Some(seat) = self.0.get_mut(&sequence) {
            seat.tokens = 0;
        }
    }

    /// A sequence's claim.
    pub fn claim(&self, sequence: u64) -> Option<Claim> {
        self.0.get(&sequence).map(|seat| seat.claim)
    }

    /// How many sequences there are.
    pub fn count_all(&self) -> usize {
        self.0.len()
    }

    /// Forgets sequences that are closed.
    pub fn forget_closed(&mut self, engine: &Engine) {
        self.0.retain(|sequence, _| engine.state(*sequence).is_some());
    }

    /// Who could give a place up now.
    pub fn holders(&self, engine: &Engine) -> Holders {
        let mut holders = Holders::default();
        let seated = |sequence: u64| match engine.state(sequence) {
            Some(SequenceState::Running | SequenceState::Beginning) => true,
            Some(SequenceState::Paused | SequenceState::Stopped | SequenceState::StoppedAside) | None => false,
        };
        for (_, seat) in self.0.iter().filter(|(sequence, _)| seated(**sequence)) {
            *holders.of_party.entry(seat.claim.client.party).or_default() += 1;
            *holders.of_client.entry(seat.claim.client).or_default() += 1;
        }
        for (&sequence, seat) in &self.0 {
            if seat.tokens >= TURN_TOKENS && engine.state(sequence) == Some(SequenceState::Running) {
                let key = (holders.parties(seat.claim.client), holders.clients(seat.claim.client), seat.tokens);
                let victim = Victim { key, sequence, claim: seat.claim };
                holders.most = holders.most.max(Some(victim));
                if !seat.claim.is_small {
                    holders.longest = holders.longest.max(Some(victim));
                }
            }
        }
        holders
    }
}

/// How the places are shared.
#[derive(Debug, Default)]
pub struct Holders {
    of_party: BTreeMap<u128, usize>,
    of_client: BTreeMap<Client, usize>,
    /// Of those that may give their places up the one whose party and request hold most, and which drew most.
    most: Option<Victim>,
    /// The same among those of large requests.
    longest: Option<Victim>,
}

/// A sequence that may give its place up.
#[derive(Clone, Copy, Debug)]
struct Victim {
    /// Places of its party, places of its request, tokens of its turn.
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

impl Holders {
    fn parties(&self, client: Client) -> usize {
        self.of_party.get(&client.party).copied().unwrap_or(0)
    }

    fn clients(&self, client: Client) -> usize {
        self.of_client.get(&client).copied().unwrap_or(0)
    }

    /// The sequence that gives its place up to who waits: one of a party that holds more than the other's would with it, or of such a
    /// request of the same party; to a small request that of any large one.
    pub fn victim(&self, waiting: Claim) -> Option<u64> {
        let most = self.most.filter(|victim| {
            let (parties, clients, _) = victim.key;
            let own = (self.parties(waiting.client), self.clients(waiting.client));
            match victim.claim.client.party == waiting.client.party {
                true => clients > own.1 + 1,
                false => parties > own.0 + 1,
            }
        });
        let longest = self.longest.filter(|victim| waiting.is_small && victim.claim.client != waiting.client);
        most.or(longest).map(|victim| victim.sequence)
    }
}
