//! The reward of OpenThinkIMG's format (`tool_grpo.py`, `format_reward`). Its accuracy is the reward `answer`.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::rollout::reward::{Reward, Score, View};
use crate::rollout::trajectory::TurnKind;

/// Which keys a message's object must have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequiredKeys {
    /// `thought`, `thoughts` or `actions`, as in the original.
    #[default]
    Any,
    /// `thought` or `thoughts`, and `actions`.
    All,
}

/// Settings of the reward `openthinkimg_format`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OpenThinkImgFormatSettings {
    /// Which of the keys a message needs.
    pub keys: RequiredKeys,
}

/// The share of the model's messages in which the first braces that close hold JSON with a thought or actions. Braces in strings count.
///
/// What differs from the original: it looks no deeper than four levels of braces.
pub struct OpenThinkImgFormat {
    /// What is asked for.
    pub settings: OpenThinkImgFormatSettings,
}

impl Reward for OpenThinkImgFormat {
    fn score_group(&self, group: &[&View<'_>]) -> Vec<Score> {
        group.iter().map(|view| Score::Value(self.share(view))).collect()
    }
}

impl OpenThinkImgFormat {
    fn share(&self, view: &View<'_>) -> f64 {
        let messages = messages(view);
        let good = messages.iter().filter(|message| first_object(message).is_some_and(|object| self.has_keys(&object)));
        good.count() as f64 / messages.len().max(1) as f64
    }

    fn has_keys(&self, object: &Map<String, Value>) -> bool {
        let has_thought = object.contains_key("thought") || object.contains_key("thoughts");
        let has_actions = object.contains_key("actions");
        match self.settings.keys {
            RequiredKeys::Any => has_thought || has_actions,
            RequiredKeys::All => has_thought && has_actions,
        }
    }
}

/// The model's messages, whole: its own words between observations.
fn messages(view: &View<'_>) -> Vec<String> {
    if view.turns.is_empty() {
        return vec![view.text.clone()];
    }
    let parts = view.turns.split(|turn| turn.kind == TurnKind::Observation);
    // Behind the last observation there may be no message; one without words has a turn.
    let messages = parts.filter(|turns| !turns.is_empty());
    messages.map(|turns| turns.iter().map(|turn| turn.text.as_str()).collect()).collect()
}

/// The object in the first braces of a text that close.
fn first_object(text: &str) -> Option<Map<String, Value>> {
    let (mut open, mut first) = (Vec::new(), None::<Range<usize>>);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'{' => open.push(at),
            b'}' => {
                let start = open.pop().filter(|start| first.as_ref().is_none_or(|first| *start < first.start));
                first = start.map(|start| start..at + 1).or(first);
            }
            _ => {}
        }
    }
    serde_json::from_str(&text[first?]).ok()
}
