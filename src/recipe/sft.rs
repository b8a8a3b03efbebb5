//! The keys of `[sft]`.

use serde::{Deserialize, Serialize};

/// What supervised fine-tuning learns. Which keys give the loss masks of other systems is said in `recipes/README.md`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct SftSettings {
    /// Which of the model's turns are learned.
    pub train_turns: TrainTurns,
    /// Which tokens of these turns are learned, or whether all of the sample's are.
    pub train_tokens: TrainTokens,
    /// Tokens of a sample at most, placeholders of images included; as many as the model takes where absent.
    pub max_length: Option<usize>,
    /// What becomes of a sample with more.
    pub max_length_action: MaxLengthAction,
}

/// Which turns of a demonstration are learned; a turn ends with an observation, or with the assistant's message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TrainTurns {
    /// All of them.
    #[default]
    All,
    /// What stands behind the last observation.
    Last,
    /// What stands behind the second-to-last observation: the last code and the final text (Thyme's SFT); where each turn is a message, the
    /// last two messages of the assistant (Pixel Reasoner's).
    LastTwo,
}

/// Which tokens are learned.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TrainTokens {
    /// The assistant's own words, and `<|im_end|>` behind its messages.
    #[default]
    Assistant,
    /// These, and the role header `<|im_start|>assistant\n` in front of a learned turn that begins a message (Pixel Reasoner's).
    AssistantAndHeader,
    /// Every token but the placeholders of images: prompt and observations too (OpenThinkIMG's). It takes all turns.
    All,
}

/// What becomes of a sample that is longer than `max_length`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MaxLengthAction {
    /// It is left out, named and counted, as a row that cannot be used is.
    #[default]
    LeaveOut,
    /// Its end is cut off, never within an image; it is left out where nothing that is learned remains.
    Truncate,
}
