//! Prefix branching: some rollouts of a group begin as another of it did and part from it in its first turn (AXPO 2026 resamples the call behind a thought
//! that is kept). The engine finds the keys and values of what they share in its prefix cache.
//!
//! What is shared was sampled once, under the weights that learn from it, so its log-probabilities are those of the policy in each of its rollouts.

use serde::{Deserialize, Serialize};

use super::generator::Sampled;
use super::trajectory::{Trajectory, TurnKind};

/// Where rollouts part from the one whose beginning they share; always in its first turn, so that no tool need be run again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BranchAt {
    /// Where its first call begins. One that calls nothing has no branches of its own: they begin with the prompt.
    FirstCall,
    /// At the token of the first turn that was sampled with the largest entropy.
    Entropy,
}

/// How a group branches.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize)]
pub struct Branching {
    /// Where.
    pub at: BranchAt,
    /// Rollouts that begin alike; the group size is a multiple of it.
    pub rollouts: usize,
}

/// Some sequences of a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Members {
    /// The first of them.
    pub first: usize,
    /// How many.
    pub count: usize,
}

impl Branching {
    /// The members of a group that begin with the prompt.
    pub fn trunks(&self, group_size: usize) -> Members {
        Members { first: 0, count: group_size / self.rollouts }
    }

    /// Those that share the beginning of a trunk.
    pub fn branches(&self, group_size: usize, trunk: usize) -> Members {
        let count = self.rollouts - 1;
        Members { first: self.trunks(group_size).count + trunk * count, count }
    }

    /// What the branches of a trunk share with it.
    pub fn shared(&self, trunk: &Trajectory) -> Vec<Sampled> {
        let own: Vec<Sampled> = trunk.sampled[trunk.prompt_tokens..].iter().map_while(|sampled| *sampled).collect();
        let tokens = match self.at {
            BranchAt::FirstCall => {
                let call = trunk.turns.iter().find(|turn| turn.kind == TurnKind::Call);
                call.map_or(0, |call| call.tokens.start - trunk.prompt_tokens)
            }
            BranchAt::Entropy => {
                let drawn = own.iter().enumerate().filter(|(_, token)| token.temperature > 0.0);
                let largest = drawn.max_by(|(_, one), (_, other)| one.entropy.total_cmp(&other.entropy));
                largest.map_or(0, |(place, _)| place)
            }
        };
        own[..tokens.min(own.len())].to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::Prompt;
    use crate::rollout::trajectory::{End, OwnParts};

    #[test]
    fn branches_part_at_the_first_call_or_where_the_model_was_least_sure() {
        let prompt = Prompt { token_ids: vec![1, 2], ..Prompt::default() };
        let mut trunk = Trajectory::of_prompt(&prompt, 0, 0, 0, End::Answered);
        let token =
            |(id, &entropy): (usize, &f32)| Sampled { id: id as u32, entropy, temperature: 1.0, ..Sampled::default() };
        let tokens: Vec<Sampled> = [0.5, 2.0, 0.1, 0.2, 0.3].iter().enumerate().map(token).collect();
        let parts = OwnParts::Then { split_at: 3, kind: TurnKind::Call };
        trunk.push_own(&tokens, &[1; 5], "abcde", parts);
        trunk.push_observation(&[9], &[], "seen", 0);
        trunk.push_own(&tokens[1..2], &[1], "b", OwnParts::Thought);
        let shared = |at| Branching { at, rollouts: 2 }.shared(&trunk).iter().map(|token| token.id).collect::<Vec<_>>();
        assert_eq!((shared(BranchAt::FirstCall), shared(BranchAt::Entropy)), (vec![0, 1, 2], vec![0]));
    }

    #[test]
    fn every_member_of_a_group_is_a_trunk_or_a_branch_of_one() {
        let branching = Branching { at: BranchAt::Entropy, rollouts: 4 };
        let trunks = branching.trunks(8);
        let mut members: Vec<usize> = (0..trunks.count).collect();
        for trunk in 0..trunks.count {
            let branches = branching.branches(8, trunk);
            members.extend(branches.first..branches.first + branches.count);
        }
        members.sort_unstable();
        assert_eq!(members, (0..8).collect::<Vec<_>>());
    }
}
