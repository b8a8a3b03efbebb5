//! The rewards that ship.

use super::entries::{NoSettings, RewardEntry, settings};
use super::error::RegistryError;
use crate::rollout::rewards::answer::{Answer, AnswerSettings};
use crate::rollout::rewards::consistency::{Consistency, ConsistencySettings};
use crate::rollout::rewards::format::Format;
use crate::rollout::rewards::tool_success::ToolSuccess;

pub(super) const REWARDS: [RewardEntry; 4] = [
    RewardEntry {
        name: "format",
        default_weight: 0.5,
        build: |table, _| settings::<NoSettings>("reward", "format", table).map(|_| Box::new(Format) as _),
    },
    RewardEntry {
        name: "answer",
        default_weight: 1.0,
        build: |table, judge| {
            let settings: AnswerSettings = settings("reward", "answer", table)?;
            Ok(Box::new(Answer::new(settings, judge).map_err(RegistryError::Judge)?))
        },
    },
    RewardEntry {
        name: "consistency",
        default_weight: 0.5,
        build: |table, _| {
            let settings: ConsistencySettings = settings("reward", "consistency", table)?;
            Ok(Box::new(Consistency { settings }))
        },
    },
    RewardEntry {
        name: "tool_success",
        default_weight: 0.0,
        build: |table, _| settings::<NoSettings>("reward", "tool_success", table).map(|_| Box::new(ToolSuccess) as _),
    },
];
