//! Which tokens of which sequences the next forward takes, and who has to give pages up for it.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::ops::Range;

use tracing::debug_span;

use super::kv_cache::KvCache;
use super::sequence::{Sequence, Sequences};

/// A run of one sequence's tokens to compute; its pages are there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chunk {
    /// Number of the sequence whose tokens they are.
    pub sequence: u64,
    /// Places of the tokens in the sequence, from 0.
    pub tokens: Range<usize>,
    /// Whether the sequence's last token is among them, so that the next is sampled.
    pub samples_next: bool,
    /// Drafted tokens: computed after the last token, so that the token after each is sampled too.
    pub draft: Vec<u32>,
}

impl Chunk {
    /// Whether it is a sequence's last token alone, perhaps with a draft. The last token of a prefill counts too.
    pub fn is_decoding(&self) -> bool {
        self.samples_next && self.tokens.len() == 1
    }

    /// Tokens that it computes.
    pub fn computed(&self) -> usize {
        self.tokens.len() + self.draft.len()
    }

    /// Tokens that are sampled from it.
    pub fn sampled(&self) -> usize {
        if self.samples_next { 1 + self.draft.len() } else { 0 }
    }
}

/// One pass over all sequences, the earliest opened first: every decoding sequence's one token, and prompt and observation tokens of the
/// others, at most `prefill_tokens` of these, of which up to a half is kept for short ones. The chunks that [`schedule_ahead`] has `decided`
/// come first. A chunk of one token costs no budget: the last token of a prefill counts as decoding.
///
/// A sequence without pages gets some if there are enough for what it computes now, and one for each that runs already: they will soon
/// want them. It begins after its longest cached prefix. No sequence without pages passes an earlier one that waits for pages.
/// A sequence that has pages takes more of them from others where none is left: from those that have stopped or are paused, and then from
/// those that were opened later, the latest first. They compute theirs again when there is room, to the same bits. The earliest always goes
/// on. Where nothing else could be computed, one that begins takes pages from those that have stopped or are paused.
pub fn schedule(
    sequences: &mut Sequences,
    cache: &mut KvCache,
    decided: Vec<Chunk>,
    prefill_tokens: usize,
) -> Schedule {
    let is_decided: HashSet<u64> = decided.iter().map(|chunk| chunk.sequence).collect();
    let mut schedule = Schedule { chunks: decided, ..Schedule::default() };
    let open = sequences.iter().filter(|(number, _)| !is_decided.contains(number));
    let running = open.filter(|(_, sequence)| sequence.is_running());
    let mut order: Vec<(u64, u64)> = running.map(|(number, sequence)| (sequence.opened, *number)).collect();
    order.sort_unstable();
    let mut budget = PrefillBudget::new(prefill_tokens, order.iter().map(|(_, number)| &sequences[number]));
    let mut may_begin = true;
    for (_, number) in order {
        let sequence = sequences.get_mut(&number).expect("numbers are of open sequences");
        let (is_begun, share) = (sequence.has_pages(), budget.share(sequence));
        let may_compute = share > 0 || (is_begun && sequence.to_compute() == 1);
        if !may_compute || !(is_begun || may_begin) {
            continue;
        }
        if !is_begun {
            sequence.match_prefix(cache.pool());
        }
        let tokens = match sequence.to_compute() {
            decoding @ (0 | 1) => decoding,
            waiting => waiting.min(share),
        };
        let tokens = sequence.computed..sequence.computed + tokens;
        let spare = if is_begun { 0 } else { schedule.chunks.len() };
        let victims = match (is_begun, schedule.chunks.is_empty()) {
            (true, _) => Victims::IdleOrLater,
            (false, true) => Victims::Idle,
            (false, false) => Victims::Nobody,
        };
        let has_room = preempt(sequences, cache, (number, &tokens), spare, victims, &mut schedule.preempted);
        let sequence = sequences.get_mut(&number).expect("numbers are of open sequences");
        if !has_room {
            schedule.preempted += usize::from(is_begun);
            sequence.release(cache.pool());
        }
        may_begin &= has_room && schedule.preempted == 0;
        if !has_room || tokens.is_empty() {
            continue;
        }
        if !is_begun {
            schedule.queried_tokens += sequence.ids.len();
            schedule.cached_tokens += sequence.computed;
        }
        budget.left -= if tokens.len() > 1 { tokens.len() } else { 0 };
        cache.make_writable(&mut sequence.page_table, tokens.start, tokens.end);
        let samples_next = tokens.end == sequence.ids.len();
        schedule.chunks.push(Chunk { sequence: number, tokens, samples_next, draft: Vec::new() });
    }
    if schedule.preempted > 0 {
        schedule.chunks.retain(|chunk| sequences[&chunk.sequence].has_pages());
    }
    schedule.spare_tokens = budget.left;
    schedule
}

/// What the next pass does in any case, unless a sequence stops: found out while a device is busy with `computing`. Sequences that sample a token
/// go on with it where a page is free for it. Who else takes part, and who gives pages up, is decided when it is known who has stopped;
/// how many tokens of a draft are right is not known earlier either.
pub fn schedule_ahead(sequences: &mut Sequences, cache: &mut KvCache, computing: &[Chunk]) -> Vec<Chunk> {
    let _span = debug_span!("schedule ahead").entered();
    let mut ahead = Vec::with_capacity(computing.len());
    for chunk in computing.iter().filter(|chunk| chunk.samples_next && chunk.draft.is_empty()) {
        let sequence = sequences.get_mut(&chunk.sequence).expect("scheduled sequences are open");
        let (from, to) = (chunk.tokens.end, chunk.tokens.end + 1);
        sequence.settle(from, cache.pool());
        if cache.pool().available() >= cache.pool().needed(&sequence.page_table, from, to) {
            cache.make_writable(&mut sequence.page_table, from, to);
            ahead.push(Chunk { sequence: chunk.sequence, tokens: from..to, samples_next: true, draft: Vec::new() });
        }
    }
    ahead
}

/// What a pass decided.
#[derive(Default, Debug)]
pub struct Schedule {
    /// What is computed now: what was decided ahead, in the last step's order, then the rest, the earliest opened sequence first.
    pub chunks: Vec<Chunk>,
    /// What is left of the prefill budget. Drafts may use it, and no more.
    pub spare_tokens: usize,
    /// Sequences that lost their pages.
    pub preempted: usize,
    /// Tokens of the sequences that began.
    pub queried_tokens: usize,
    /// Of these, tokens that were in the prefix cache.
    pub cached_tokens: usize,
}

/// Prompt and observation tokens that a step may still compute. Some are kept for short prefills, so that they do not wait for long ones.
struct PrefillBudget {
    left: usize,
    kept: usize,
    /// A prefill of so many tokens at most is short.
    short: usize,
}

impl PrefillBudget {
    /// What is short, as a share of the budget.
    const SHORT_SHARE: usize = 8;

    /// Keeps up to a half for the short prefills among the sequences.
    fn new<'a>(tokens: usize, sequences: impl Iterator<Item = &'a Sequence>) -> PrefillBudget {
        let mut budget = PrefillBudget { left: tokens, kept: 0, short: tokens / Self::SHORT_SHARE };
        let short = sequences.filter(|sequence| budget.is_short(sequence)).map(Sequence::to_compute);
        budget.kept = short.sum::<usize>().min(tokens / 2);
        budget
    }

    fn is_short(&self, sequence: &Sequence) -> bool {
        (2..=self.short).contains(&sequence.to_compute())
    }

    /// Tokens that a sequence may take, now that its turn has come.
    fn share(&mut self, sequence: &Sequence) -> usize {
        if self.is_short(sequence) {
            self.kept -= sequence.to_compute().min(self.kept);
            return self.left;
        }
        self.left.saturating_sub(self.kept)
    }
}

/// From whom a sequence may take pages where none is free.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Victims {
    /// From those that have stopped or are paused, and then from those that were opened later.
    IdleOrLater,
    /// From those that have stopped or are paused.
    Idle,
    /// From nobody.
    Nobody,
}

impl Victims {
    /// Whether `victim` is among them, for a sequence that was opened as number `opened`.
    fn have(self, victim: &Sequence, opened: u64) -> bool {
        match self {
            Victims::IdleOrLater => victim.is_idle() || victim.opened > opened,
            Victims::Idle => victim.is_idle(),
            Victims::Nobody => false,
        }
    }
}

/// Takes pages from victims, idle ones first and the latest first, until there are enough for tokens of a sequence, and `spare` ones; false if that
/// cannot be.
fn preempt(
    sequences: &mut Sequences,
    cache: &mut KvCache,
    (number, tokens): (u64, &Range<usize>),
    spare: usize,
    victims: Victims,
    preempted: &mut usize,
) -> bool {
    let opened = sequences[&number].opened;
    loop {
        // What others hold in common with it, they no longer do once they give it up.
        let needed = cache.pool().needed(&sequences[&number].page_table, tokens.start, tokens.end);
        if cache.pool().available() >= needed + spare {
            return true;
        }
        let others = sequences.iter_mut().filter(|(other, victim)| **other != number && victim.has_pages());
        let victims = others.map(|(_, victim)| victim).filter(|victim| victims.have(victim, opened));
        let Some(victim) = victims.min_by_key(|victim| (!victim.is_idle(), Reverse(victim.opened))) else {
            return false;
        };
        victim.release(cache.pool());
        *preempted += 1;
    }
}
