//! The rewards that ship.

use std::sync::Arc;

use super::entries::{NoSettings, RewardEntry, settings};
use super::error::RegistryError;
use crate::rollout::judge::Judge;
use crate::rollout::reward::Reward;
use crate::rollout::rewards::answer::{Answer, AnswerSettings};
use crate::rollout::rewards::code_quality::CodeQuality;
use crate::rollout::rewards::consistency::{Consistency, ConsistencySettings};
use crate::rollout::rewards::crop_validity::{CropValidity, CropValiditySettings};
use crate::rollout::rewards::deepeyes::{DeepEyesFormat, DeepEyesFormatSettings, ToolUse, ToolUseSettings};
use crate::rollout::rewards::format::Format;
use crate::rollout::rewards::openthinkimg::{OpenThinkImgFormat, OpenThinkImgFormatSettings};
use crate::rollout::rewards::pixel_reasoner::{
    CallPenalty, CallPenaltySettings, Curiosity, CuriositySettings, Validity,
};
use crate::rollout::rewards::process::Process;
use crate::rollout::rewards::soft_overlong::{SoftOverlong, SoftOverlongSettings};
use crate::rollout::rewards::tool_economy::{CumulativeTool, CumulativeToolSettings, ToolEconomy};
use crate::rollout::rewards::tool_success::ToolSuccess;
use crate::rollout::rewards::verifiers::{VerifiersAnswer, VerifiersFormat, VerifiersTool};

/// An entry: the name, the weight in recipes that give none, the type of the reward's settings, and how it is made of them and the judge. Without a
/// weight it is scored where a recipe names it.
macro_rules! reward {
    ($name:literal, $weight:literal, $settings:ty, $make:expr) => {
        RewardEntry {
            name: $name,
            default_weight: $weight,
            scored_without_weight: false,
            build: |table, judge| {
                let make: fn($settings, Option<Arc<dyn Judge>>) -> Result<Box<dyn Reward>, String> = $make;
                let made = make(settings("reward", $name, table)?, judge);
                made.map_err(|reason| RegistryError::Reward { name: $name.to_owned(), reason })
            },
        }
    };
}

/// [`reward`] that is scored in every recipe, for its figure.
macro_rules! figure {
    ($($entry:tt)*) => {
        RewardEntry { scored_without_weight: true, ..reward!($($entry)*) }
    };
}

pub(super) const REWARDS: [RewardEntry; 19] = [
    figure!("format", 0.5, NoSettings, |_, _| Ok(Box::new(Format))),
    RewardEntry {
        name: "answer",
        default_weight: 1.0,
        scored_without_weight: true,
        build: |table, judge| {
            let settings: AnswerSettings = settings("reward", "answer", table)?;
            Ok(Box::new(Answer::new(settings, judge).map_err(RegistryError::Judge)?))
        },
    },
    figure!("consistency", 0.5, ConsistencySettings, |settings, judge| Ok(Box::new(Consistency { settings, judge }))),
    figure!("tool_success", 0.0, NoSettings, |_, _| Ok(Box::new(ToolSuccess))),
    reward!("code_quality", 0.0, NoSettings, |_, judge| Ok(Box::new(CodeQuality { judge }))),
    reward!("process", 0.0, NoSettings, |_, judge| Ok(Box::new(Process { judge }))),
    reward!("crop_validity", 0.0, CropValiditySettings, |settings, _| Ok(Box::new(CropValidity { settings }))),
    reward!("deepeyes_format", 0.0, DeepEyesFormatSettings, |settings, _| Ok(Box::new(DeepEyesFormat { settings }))),
    reward!("tool_use_if_correct", 0.0, ToolUseSettings, |settings, _| Ok(Box::new(ToolUse { settings }))),
    reward!("curiosity", 0.0, CuriositySettings, |settings, _| Ok(Box::new(Curiosity::new(settings)?))),
    reward!("call_penalty", 0.0, CallPenaltySettings, |settings, _| Ok(Box::new(CallPenalty::new(settings)?))),
    reward!("validity", 0.0, NoSettings, |_, _| Ok(Box::new(Validity))),
    reward!("verifiers_format", 0.0, NoSettings, |_, _| Ok(Box::new(VerifiersFormat))),
    reward!("verifiers_tool", 0.0, NoSettings, |_, _| Ok(Box::new(VerifiersTool))),
    reward!("verifiers_answer", 0.0, NoSettings, |_, _| Ok(Box::new(VerifiersAnswer))),
    reward!("openthinkimg_format", 0.0, OpenThinkImgFormatSettings, |settings, _| {
        Ok(Box::new(OpenThinkImgFormat { settings }))
    }),
    reward!("cumulative_tool", 0.0, CumulativeToolSettings, |settings, _| Ok(Box::new(CumulativeTool::new(settings)?))),
    reward!("tool_economy", 0.0, NoSettings, |_, _| Ok(Box::new(ToolEconomy))),
    reward!("soft_overlong", 0.0, SoftOverlongSettings, |settings, _| Ok(Box::new(SoftOverlong::new(settings)?))),
];
