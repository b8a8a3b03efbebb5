//! The rewards of Pixel Reasoner (TIGER-AI-Lab/Pixel-Reasoner, `experience_maker.py`; arXiv 2505.15966). Its total is answer + curiosity +
//! call_penalty, where validity is the gate of the answer. A call is one that the model wrote, whatever became of it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::rollout::reward::{Needs, Reward, Score, View};
use crate::rollout::tool::CallStatus;

/// The two formulas of curiosity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CuriosityForm {
    /// `alpha · max(target_rate − RaPR, 0) / divisor / RaPR`, as the repository computes it.
    #[default]
    Code,
    /// `alpha · max(target_rate − RaPR, 0)`, as the paper writes it.
    Paper,
}

/// Settings of the reward `curiosity`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CuriositySettings {
    /// Which formula.
    pub form: CuriosityForm,
    /// The share of a group's rollouts with a call from which on none is rewarded for one: the paper's H.
    pub target_rate: f64,
    /// The factor before the formula; 0.25 in the code and 0.5 in the paper where absent.
    pub alpha: Option<f64>,
    /// Divisor of the code's formula for a task about images.
    pub image_divisor: f64,
    /// Divisor of the code's formula for a task about a video.
    pub video_divisor: f64,
    /// The column of a row that says, by `true` or a number that is not 0, that its task is about a video.
    pub video_column: String,
}

impl Default for CuriositySettings {
    fn default() -> Self {
        Self {
            form: CuriosityForm::Code,
            target_rate: 0.3,
            alpha: None,
            image_divisor: 2.0,
            video_divisor: 1.5,
            video_column: "is_video".to_owned(),
        }
    }
}

/// A bonus for rollouts with a call where few of the group have one; 0 without a call. RaPR, the rate of pixel-space reasoning, is the share of
/// the group's rollouts with at least one call, right or wrong. Rollouts without a score are not in the group.
pub struct Curiosity {
    settings: CuriositySettings,
}

impl Curiosity {
    /// The reward.
    ///
    /// # Errors
    /// When a number cannot be.
    pub fn new(settings: CuriositySettings) -> Result<Self, String> {
        let CuriositySettings { target_rate, alpha, image_divisor, video_divisor, .. } = settings;
        if !(0.0..=1.0).contains(&target_rate) {
            return Err(format!("target_rate is {target_rate}; give a share from 0 to 1"));
        }
        if let Some(alpha) = alpha.filter(|alpha| !alpha.is_finite()) {
            return Err(format!("alpha is {alpha}; give a finite number"));
        }
        for (key, divisor) in [("image_divisor", image_divisor), ("video_divisor", video_divisor)] {
            if !(divisor.is_finite() && divisor > 0.0) {
                return Err(format!("{key} is {divisor}; give a number above 0"));
            }
        }
        Ok(Self { settings })
    }

    /// The bonus of a rollout with a call.
    fn bonus(&self, rapr: f64, is_video: bool) -> f64 {
        let CuriositySettings { form, target_rate, alpha, image_divisor, video_divisor, .. } = &self.settings;
        let missing = (target_rate - rapr).max(0.0);
        match form {
            CuriosityForm::Code => {
                let divisor = if is_video { video_divisor } else { image_divisor };
                missing / divisor / rapr * alpha.unwrap_or(0.25)
            }
            CuriosityForm::Paper => alpha.unwrap_or(0.5) * missing,
        }
    }

    fn is_video(&self, view: &View<'_>) -> bool {
        match view.columns.and_then(|columns| columns.get(&self.settings.video_column)) {
            Some(Value::Bool(is_video)) => *is_video,
            Some(Value::Number(number)) => number.as_f64().is_some_and(|number| number != 0.0),
            _ => false,
        }
    }
}

impl Reward for Curiosity {
    fn needs(&self) -> Needs {
        Needs::Calls
    }

    fn compares_group(&self) -> bool {
        true
    }

    fn score_group(&self, group: &[&View<'_>]) -> Vec<Score> {
        let callers = group.iter().filter(|view| !view.calls.is_empty()).count();
        let rapr = callers as f64 / group.len().max(1) as f64;
        let score = |view: &&View<'_>| match view.calls.is_empty() {
            true => 0.0,
            false => self.bonus(rapr, self.is_video(view)),
        };
        group.iter().map(|view| Score::Value(score(view))).collect()
    }
}

/// Settings of the reward `call_penalty`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CallPenaltySettings {
    /// What each further call costs: the paper's beta.
    pub per_call: f64,
    /// Calls that cost nothing: the paper's N.
    pub free_calls: usize,
}

impl Default for CallPenaltySettings {
    fn default() -> Self {
        Self { per_call: 0.05, free_calls: 1 }
    }
}

/// `per_call · min(free_calls − calls, 0)`. The code's `−0.05 (calls − 1)`, for rollouts with a call, is this with the defaults.
pub struct CallPenalty {
    settings: CallPenaltySettings,
}

impl CallPenalty {
    /// The reward.
    ///
    /// # Errors
    /// When a number cannot be.
    pub fn new(settings: CallPenaltySettings) -> Result<Self, String> {
        let per_call = settings.per_call;
        match per_call.is_finite() && per_call >= 0.0 {
            true => Ok(Self { settings }),
            false => Err(format!("per_call is {per_call}; give a number from 0 on, which is taken off for each call")),
        }
    }
}

impl Reward for CallPenalty {
    fn needs(&self) -> Needs {
        Needs::Calls
    }

    fn score_group(&self, group: &[&View<'_>]) -> Vec<Score> {
        let CallPenaltySettings { per_call, free_calls } = self.settings;
        let further = |view: &&View<'_>| view.calls.len().saturating_sub(free_calls) as f64;
        group.iter().map(|view| Score::Value(0.0 - per_call * further(view))).collect()
    }
}

/// 0 where the last call that ran failed and no other followed, else 1. As the gate of `answer` it takes a right answer's reward where the model
/// did not mend its last failed operation.
///
/// What differs from the original: it looks up the failures of the batch by the place in the group, so that it takes the reward of other
/// rollouts than those that failed. And a selection of frames of what is no video is a failure here.
pub struct Validity;

impl Reward for Validity {
    fn needs(&self) -> Needs {
        Needs::Calls
    }

    fn score_group(&self, group: &[&View<'_>]) -> Vec<Score> {
        let is_valid = |view: &&View<'_>| {
            let last = view.calls.iter().rfind(|call| call.output.status != CallStatus::OverLimit);
            last.is_none_or(|call| call.output.status.is_ok())
        };
        group.iter().map(|view| Score::of(is_valid(view))).collect()
    }
}
