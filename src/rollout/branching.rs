//! Prefix branching: some rollouts of a group, the branches, begin as another of it did, their trunk, and part from it at one of its tokens (AXPO 2026
//! resamples the call behind a thought that is kept). A branch shares all that stands before this token: the trunk's whole turns with their
//! observations, images and calls, and the beginning of the turn in which they part. The generator opens it on the prompt with that as its
//! history, so limits, penalties and temperatures are those of a sequence that sampled it itself, and the engine finds the keys and values in its
//! prefix cache.
//!
//! A branch has an episode of its own, which must know what the trunk's knew: on a worker thread it reads the shared turns and replays their
//! calls; a tool without a memory has nothing to replay. What the branch has observed is what the trunk did, whatever the tool says this time. If the tool
//! itself fails in a replay, the branch gets a new episode and begins with the prompt.
//!
//! What is shared was sampled once, under the weights that learn from it, so its log-probabilities are those of the policy in each of its rollouts.

use serde::{Deserialize, Serialize};

use super::environment::{EnvironmentError, Episode, Next, PreparedTask};
use super::generator::{HistoryPart, Sampled};
use super::tool::{CallResult, ToolCall};
use super::trajectory::{Call, End, Trajectory, Turn, TurnKind};
use crate::prompt::Processor;

/// Where rollouts part from the one whose beginning they share, in whichever of its turns that is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BranchAt {
    /// Where its first call begins. One that calls nothing has no branches of its own: they begin with the prompt.
    FirstCall,
    /// At the token that was sampled with the largest entropy, of all that were sampled at a temperature above 0.
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

/// What a branch shares with its trunk.
#[derive(Clone, Debug)]
pub struct Shared {
    /// The prompt and the whole turns, the last of which is an observation.
    pub trajectory: Trajectory,
    /// The beginning of the turn in which they part.
    pub begun: Vec<Sampled>,
}

/// A branch that is not open yet.
pub struct Branch {
    /// How it begins, with its own numbers.
    pub shared: Shared,
    /// Its own.
    pub episode: Box<dyn Episode>,
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
    pub fn shared(&self, trunk: &Trajectory) -> Shared {
        let place = match self.at {
            BranchAt::FirstCall => {
                let is_call = |turn: &&Turn| turn.kind == TurnKind::Call && !turn.tokens.is_empty();
                trunk.turns.iter().find(is_call).map(|call| call.tokens.start)
            }
            BranchAt::Entropy => {
                let drawn = trunk.own().filter(|(_, token)| token.temperature > 0.0);
                let largest = drawn.max_by(|(_, one), (_, other)| one.entropy.total_cmp(&other.entropy));
                largest.map(|(place, _)| place)
            }
        };
        Shared::before(trunk, place.unwrap_or(trunk.prompt_tokens))
    }
}

impl Shared {
    /// What stands in a trajectory before the token at `place`, which is its own or the first behind the prompt.
    fn before(trunk: &Trajectory, place: usize) -> Shared {
        let is_before = |turn: &Turn| turn.kind == TurnKind::Observation && turn.tokens.end <= place;
        let turns = trunk.turns.iter().rposition(is_before).map_or(0, |last| last + 1);
        let turns = &trunk.turns[..turns];
        let (tokens, calls) = turns.last().map_or((trunk.prompt_tokens, 0), |turn| (turn.tokens.end, turn.calls.end));
        let shown = images_shown(&trunk.calls[..calls]);
        let observations = turns.iter().filter(|turn| turn.kind == TurnKind::Observation).count();
        let trajectory = Trajectory {
            task: trunk.task,
            sample: trunk.sample,
            sequence: trunk.sequence,
            prompt_tokens: trunk.prompt_tokens,
            conversation: trunk.conversation.clone(),
            token_ids: trunk.token_ids[..tokens].to_vec(),
            sampled: trunk.sampled[..tokens].to_vec(),
            images: trunk.images[..trunk.prompt_images() + shown].to_vec(),
            original_images: trunk.original_images.with_made(shown),
            turns: turns.to_vec(),
            turn_ends: trunk.turn_ends[..observations].to_vec(),
            calls: trunk.calls[..calls].to_vec(),
            answer: None,
            end: End::Running,
        };
        Shared { trajectory, begun: trunk.sampled[tokens..place].iter().flatten().copied().collect() }
    }

    /// The same for another sequence of the group.
    pub fn of_sample(&self, sample: usize) -> Shared {
        let Shared { trajectory, begun } = self.clone();
        let sequence = trajectory.sequence - trajectory.sample as u64 + sample as u64;
        Shared { trajectory: Trajectory { sample, sequence, ..trajectory }, begun }
    }

    /// What follows the prompt, as a generator takes it.
    pub fn history(&self) -> Vec<HistoryPart> {
        let trajectory = &self.trajectory;
        let mut images = trajectory.images[trajectory.prompt_images()..].iter().cloned();
        let part = |turn: &Turn| {
            let tokens = turn.tokens.clone();
            if turn.kind != TurnKind::Observation {
                return HistoryPart::Sampled(trajectory.sampled[tokens].iter().flatten().copied().collect());
            }
            let shown = images_shown(&trajectory.calls[turn.calls.clone()]);
            let images = images.by_ref().take(shown).collect();
            HistoryPart::Observed { token_ids: trajectory.token_ids[tokens].to_vec(), images }
        };
        let begun = (!self.begun.is_empty()).then(|| HistoryPart::Sampled(self.begun.clone()));
        trajectory.turns.iter().map(part).chain(begun).collect()
    }
}

fn images_shown(calls: &[Call]) -> usize {
    calls.iter().map(|call| call.images_shown).sum()
}

impl Branch {
    /// Whether its episode has turns to learn of.
    pub(super) fn has_turns(&self) -> bool {
        !self.shared.trajectory.turns.is_empty()
    }

    /// Plays the shared turns on its episode. Called on a worker thread.
    ///
    /// # Errors
    /// When a tool itself fails, or the tokenizer; the episode is then good for nothing.
    pub(super) fn replay(&mut self, processor: &Processor) -> Result<(), EnvironmentError> {
        let Branch { shared: Shared { trajectory, .. }, episode } = self;
        let (mut text, mut bytes, mut shown) = (String::new(), 0, 0);
        let mut ends = trajectory.turn_ends.iter();
        for turn in &trajectory.turns {
            if turn.kind != TurnKind::Observation {
                text.push_str(&turn.text);
                continue;
            }
            let Some(&end) = ends.next() else { break };
            let parsed = episode.read_ended(&text, end);
            trajectory.answer = parsed.answer.map(|answer| answer.behind(bytes)).or(trajectory.answer.take());
            bytes += text.len();
            text.clear();
            if let Next::Call(planned) = parsed.next {
                let images = trajectory.original_images.with_made(shown);
                for planned in planned.iter().filter(|planned| planned.refusal.is_none()) {
                    episode.replay(&planned.call, &images)?;
                }
            }
            let calls = &trajectory.calls[turn.calls.clone()];
            shown += images_shown(calls);
            let result = |Call { tool, request, output, .. }: &Call| CallResult {
                call: ToolCall { tool: tool.clone(), request: request.clone() },
                output: output.clone(),
            };
            episode.observe(processor, &mut calls.iter().map(result).collect::<Vec<_>>())?;
        }
        Ok(())
    }

    /// Lets it begin with the prompt; the episode that it has is given up for one of `prepared_task`.
    ///
    /// # Errors
    /// Where that is one.
    pub(super) fn begin_anew(
        &mut self,
        prepared_task: Result<PreparedTask, EnvironmentError>,
    ) -> Result<(), EnvironmentError> {
        self.shared = Shared::before(&self.shared.trajectory, self.shared.trajectory.prompt_tokens);
        let episode = prepared_task?.episodes.pop();
        self.episode = episode.expect("an environment opens an episode for each sequence");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::Prompt;
    use crate::rollout::tool::{CallStatus, ToolOutput};
    use crate::rollout::trajectory::{OwnParts, TurnEnd};

    /// A turn whose tokens have these entropies; the call begins at a token, if at one.
    fn push_turn(trunk: &mut Trajectory, entropies: &[f32], call: Option<usize>) {
        let first = trunk.token_ids.len() as u32;
        let token = |(id, &entropy): (u32, &f32)| Sampled { id, entropy, temperature: 1.0, ..Sampled::default() };
        let tokens: Vec<Sampled> = (first..).zip(entropies).map(token).collect();
        let parts = call.map_or(OwnParts::Thought, |split_at| OwnParts::Then { split_at, kind: TurnKind::Call });
        trunk.push_own(&tokens, &vec![1; tokens.len()], &"a".repeat(tokens.len()), parts);
    }

    /// Two tokens, and a call of which they are the observation.
    fn push_observation(trunk: &mut Trajectory) {
        let first = trunk.calls.len();
        let output = ToolOutput::text(CallStatus::Ok, "seen");
        trunk.calls.push(Call { tool: "look".into(), request: String::new(), output, images_shown: 0 });
        trunk.turn_ends.push(TurnEnd::Message);
        trunk.push_observation(&[90, 91], &[], "seen", first);
    }

    fn trunk() -> Trajectory {
        let prompt = Prompt { token_ids: vec![1, 2], ..Prompt::default() };
        Trajectory::of_prompt(&prompt, 0, 0, 0, End::Answered)
    }

    /// Tokens of the whole turns that are shared with the prompt, calls, and tokens of the turn that is shared in part.
    fn shared(at: BranchAt, trunk: &Trajectory) -> (usize, usize, Vec<u32>) {
        let Shared { trajectory, begun } = Branching { at, rollouts: 2 }.shared(trunk);
        assert_eq!(trajectory.token_ids, trunk.token_ids[..trajectory.token_ids.len()]);
        assert_eq!(trajectory.turn_ends.len(), trajectory.observations().count());
        (trajectory.token_ids.len(), trajectory.calls.len(), begun.iter().map(|token| token.id).collect())
    }

    #[test]
    fn branches_part_at_the_first_call_or_where_the_model_was_least_sure() {
        let mut trunk = trunk();
        push_turn(&mut trunk, &[0.5, 2.0, 0.1, 0.2, 0.3], Some(3));
        push_observation(&mut trunk);
        push_turn(&mut trunk, &[1.9], None);
        assert_eq!(shared(BranchAt::FirstCall, &trunk), (2, 0, vec![2, 3, 4]));
        assert_eq!(shared(BranchAt::Entropy, &trunk), (2, 0, vec![2]));
    }

    #[test]
    fn branches_part_in_whichever_turn_that_is() {
        let mut trunk = trunk();
        push_turn(&mut trunk, &[0.5, 1.0], None);
        push_observation(&mut trunk);
        push_turn(&mut trunk, &[0.1, 0.2], Some(0));
        push_observation(&mut trunk);
        push_turn(&mut trunk, &[0.1, 3.0, 0.2], Some(2));
        assert_eq!(shared(BranchAt::FirstCall, &trunk), (6, 1, vec![]));
        assert_eq!(shared(BranchAt::Entropy, &trunk), (10, 2, vec![10]));
        // A token that was not drawn cannot be another.
        trunk.sampled[11].as_mut().unwrap().temperature = 0.0;
        assert_eq!(shared(BranchAt::Entropy, &trunk), (2, 0, vec![2]));
    }

    #[test]
    fn a_history_has_the_turns_and_what_came_between() {
        let mut trunk = trunk();
        push_turn(&mut trunk, &[0.5, 1.0], Some(1));
        push_observation(&mut trunk);
        push_turn(&mut trunk, &[0.1, 3.0], None);
        let shared = Branching { at: BranchAt::Entropy, rollouts: 2 }.shared(&trunk).of_sample(5);
        assert_eq!((shared.trajectory.sample, shared.trajectory.sequence), (5, 5));
        let ids = |part: &HistoryPart| match part {
            HistoryPart::Sampled(tokens) => (true, tokens.iter().map(|token| token.id).collect()),
            HistoryPart::Observed { token_ids, .. } => (false, token_ids.clone()),
        };
        let parts: Vec<(bool, Vec<u32>)> = shared.history().iter().map(ids).collect();
        assert_eq!(parts, [(true, vec![2]), (true, vec![3]), (false, vec![90, 91]), (true, vec![6])]);
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
