//! Which tokens of a demonstration are learned: the loss masks of supervised fine-tuning and of preferences.

use crate::recipe::{SftSettings, TrainTokens, TrainTurns};

/// Which tokens of a demonstration are learned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LossMask {
    /// The turns whose tokens are learned.
    pub turns: LearnedTurns,
    /// Which of their tokens, or whether all of the sample's.
    pub tokens: TrainTokens,
}

/// The turns of the assistant that are learned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LearnedTurns {
    /// Counted from the last, as the recipe says.
    Of(TrainTurns),
    /// Those of the messages from this one on, counted from 0: a completion behind its prompt.
    FromMessage(usize),
}

impl LossMask {
    /// The mask of a recipe's supervised fine-tuning.
    pub fn of(settings: &SftSettings) -> LossMask {
        LossMask { turns: LearnedTurns::Of(settings.train_turns), tokens: settings.train_tokens }
    }

    /// The assistant's words in a completion, whose first message has this number.
    pub fn of_completion(first_message: usize) -> LossMask {
        LossMask { turns: LearnedTurns::FromMessage(first_message), tokens: TrainTokens::Assistant }
    }

    /// The first learned turn, counted from 0, of `turns` in all; `turns_before` are those in front of a message.
    pub(super) fn first_turn(self, turns: usize, turns_before: impl FnOnce(usize) -> usize) -> usize {
        match self.turns {
            LearnedTurns::Of(TrainTurns::All) => 0,
            LearnedTurns::Of(TrainTurns::Last) => turns.saturating_sub(1),
            LearnedTurns::Of(TrainTurns::LastTwo) => turns.saturating_sub(2),
            LearnedTurns::FromMessage(message) => turns_before(message),
        }
    }
}

impl From<TrainTurns> for LossMask {
    fn from(turns: TrainTurns) -> LossMask {
        LossMask { turns: LearnedTurns::Of(turns), tokens: TrainTokens::Assistant }
    }
}
