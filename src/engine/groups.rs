//! Sequences that were opened together, on one prompt: one of them computes it for all.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::kv_cache::PagePool;
use super::sequence::{PromptRole, Sequence, Sequences};
use crate::ops::attention::PAGE_TOKENS;

/// The groups that have open members.
#[derive(Debug, Default)]
pub struct Groups {
    open: BTreeMap<u64, Group>,
    /// Groups opened so far; numbers the next.
    opened: u64,
}

/// Sequences that were opened together.
#[derive(Debug)]
struct Group {
    /// Those still open, ascending.
    members: Vec<u64>,
    /// No member computes the prompt for others or waits for it. Cleared when a member is preempted, paused, resumed, appended to or closed,
    /// and when the weights change.
    is_settled: bool,
}

impl Groups {
    /// Number of the group that is opened next.
    pub fn next(&self) -> u64 {
        self.opened
    }

    /// Opens a group of these sequences, ascending; of none it opens none.
    pub fn open(&mut self, members: Vec<u64>) {
        if !members.is_empty() {
            self.open.insert(self.opened, Group { members, is_settled: false });
            self.opened += 1;
        }
    }

    /// A member of a group is no longer where it was: who computes the prompt is to be decided anew.
    pub fn unsettle(&mut self, group: u64) {
        self.open.get_mut(&group).expect("a sequence's group is open").is_settled = false;
    }

    /// The same for all groups.
    pub fn unsettle_all(&mut self) {
        self.open.values_mut().for_each(|group| group.is_settled = false);
    }

    /// Takes a closed sequence out of its group. What it has computed for others goes to one of them.
    pub fn close(&mut self, number: u64, closed: &Sequence, sequences: &mut Sequences, pool: &mut PagePool) {
        let group = self.open.get_mut(&closed.group).expect("a sequence's group is open");
        group.members.retain(|&member| member != number);
        group.is_settled = false;
        if closed.prompt_role == PromptRole::Leads {
            let waits = |member: &&u64| sequences[*member].prompt_role == PromptRole::Waits;
            if let Some(heir) = group.members.iter().find(waits).and_then(|heir| sequences.get_mut(heir)) {
                // Where it began anew it may have found more than the prompt, which is its own.
                heir.computed = closed.computed.min(closed.prompt_tokens() - 1);
                heir.page_table = pool.share(&closed.page_table, heir.computed.div_ceil(PAGE_TOKENS));
            }
        }
        if group.members.is_empty() {
            self.open.remove(&closed.group);
        }
    }

    /// In each group one sequence computes the common prompt but for its last token; there the others fork off. A preempted member that has
    /// already sampled uses the prefix cache instead.
    pub fn share_prompts(&mut self, sequences: &mut Sequences, pool: &mut PagePool) {
        for group in self.open.values_mut().filter(|group| !group.is_settled) {
            let is_settled = |member: &u64| {
                let sequence = &sequences[member];
                sequence.prompt_role == PromptRole::Alone && (sequence.computed > 0 || sequence.is_stopped())
            };
            group.is_settled = group.members.iter().all(is_settled);
            if group.is_settled {
                continue;
            }
            let is_candidate = |member: &&u64| {
                let sequence = &sequences[*member];
                // A paused sequence can lead only if its prompt is computed.
                let common = sequence.prompt_tokens() - 1;
                if sequence.is_paused() {
                    sequence.computed >= common
                } else {
                    sequence.computed > 0 || !sequence.is_stopped()
                }
            };
            let candidates = group.members.iter().filter(is_candidate);
            let Some(&leader) = candidates.max_by_key(|&&member| (sequences[&member].computed, Reverse(member))) else {
                continue;
            };
            let common = sequences[&leader].prompt_tokens() - 1;
            let is_ready = sequences[&leader].computed >= common;
            let mut leads = false;
            for &member in group.members.iter().filter(|&&member| member != leader) {
                let sequence = &sequences[&member];
                let lacks = common > 0 && sequence.computed == 0 && !sequence.is_stopped();
                let can_fork = is_ready && sequence.completion_tokens() == 0 && pool.available() > 0;
                let forked = (lacks && can_fork)
                    .then(|| pool.share(&sequences[&leader].page_table, common.div_ceil(PAGE_TOKENS)));
                let sequence = sequences.get_mut(&member).expect("members are open");
                sequence.prompt_role = if lacks && !is_ready { PromptRole::Waits } else { PromptRole::Alone };
                leads |= sequence.prompt_role == PromptRole::Waits;
                if let Some(page_table) = forked {
                    sequence.page_table = page_table;
                    sequence.computed = common;
                }
            }
            let leader = sequences.get_mut(&leader).expect("members are open");
            leader.prompt_role = if leads { PromptRole::Leads } else { PromptRole::Alone };
        }
    }
}
