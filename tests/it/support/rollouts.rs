//! Rollouts as rewards see them, made by hand.

use serde_json::{Map, Value};
use thyme_engine::rollout::images::TrajectoryImages;
use thyme_engine::rollout::registry::Registry;
use thyme_engine::rollout::reward::View;
use thyme_engine::rollout::reward_set::{RewardSet, Scores};
use thyme_engine::rollout::tool::{CallStatus, ToolOutput};
use thyme_engine::rollout::trajectory::{Call, End, Turn, TurnKind};
use thyme_engine::tasks::Solution;

/// A rollout. What its text says and what its answer is need not agree.
pub struct Rollout {
    pub text: String,
    pub answer: Option<String>,
    pub calls: Vec<Call>,
    pub turns: Vec<Turn>,
    pub own_tokens: usize,
    pub end: End,
    pub columns: Map<String, Value>,
    pub images: TrajectoryImages,
}

impl Rollout {
    pub fn new(text: &str, answer: &str) -> Self {
        Self {
            text: text.to_owned(),
            answer: Some(answer.to_owned()),
            calls: Vec::new(),
            turns: Vec::new(),
            own_tokens: 0,
            end: End::Answered,
            columns: Map::new(),
            images: TrajectoryImages::default(),
        }
    }

    /// With calls of one tool, a letter for how each went: `o`, `e`, `t`, `d`, `m`, `l`.
    pub fn with_calls(mut self, went: &str) -> Self {
        self.calls = went.chars().map(|letter| call("python", "crop", letter, 0)).collect();
        self
    }

    pub fn with_column(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.columns.insert(key.to_owned(), value.into());
        self
    }

    pub fn view<'a>(&'a self, solution: &'a Solution) -> View<'a> {
        View {
            text: self.text.clone(),
            thought: self.text.split("<answer>").next().unwrap().to_owned(),
            answer: self.answer.clone(),
            turns: &self.turns,
            calls: &self.calls,
            own_tokens: self.own_tokens,
            images: &self.images,
            end: &self.end,
            question: "Which number?",
            solution,
            columns: Some(&self.columns),
        }
    }
}

/// A call, by the first letter of how it went, and the images that it showed.
pub fn call(tool: &str, request: &str, went: char, images_shown: usize) -> Call {
    let status = match went {
        'o' => CallStatus::Ok,
        'e' => CallStatus::Error,
        't' => CallStatus::Timeout,
        'd' => CallStatus::Denied,
        'm' => CallStatus::Malformed,
        'l' => CallStatus::OverLimit,
        other => panic!("no status {other}"),
    };
    Call { tool: tool.to_owned(), request: request.to_owned(), output: ToolOutput::text(status, ""), images_shown }
}

/// A turn without tokens.
pub fn turn(kind: TurnKind, text: &str, calls: std::ops::Range<usize>) -> Turn {
    Turn { kind, tokens: 0..0, text: text.to_owned(), calls }
}

/// The rewards of a recipe's table `[reward]`.
pub fn rewards(settings: &str) -> Result<RewardSet, String> {
    RewardSet::new(&toml::from_str(settings).unwrap(), &Registry::default()).map_err(|error| error.to_string())
}

/// The scores of a group.
pub fn scores(rewards: &RewardSet, group: &[Rollout], solution: &str) -> Vec<Scores> {
    let solution = solution.into();
    let views: Vec<View<'_>> = group.iter().map(|rollout| rollout.view(&solution)).collect();
    rewards.score_group(&views)
}
