//! The environments that ship.

use std::sync::Arc;

use super::entries::{DEFAULT_TOOL, EnvironmentEntry, settings};
use super::error::RegistryError;
use crate::rollout::environment::Environment;
use crate::rollout::environments::direct::Direct;
use crate::rollout::environments::think_with_code::{ThinkWithCode, ThinkWithCodeSettings};
use crate::rollout::environments::tool_calling::ToolCalling;
use crate::rollout::environments::tool_calling::presets::PRESETS;
use crate::rollout::environments::tool_calling::settings::ToolCallingSettings;
use crate::rollout::tool_set::ToolSet;

pub(super) const ENVIRONMENTS: [EnvironmentEntry; 7] = [
    EnvironmentEntry {
        name: "direct",
        default_tools: &[],
        tools_max: 0,
        check: |table| Ok(settings::<Direct>("environment", "direct", table)?.limits()),
        build: |table, _| Ok(Arc::new(settings::<Direct>("environment", "direct", table)?)),
    },
    EnvironmentEntry {
        name: "think_with_code",
        default_tools: &[DEFAULT_TOOL],
        tools_max: 1,
        check: |table| Ok(settings::<ThinkWithCodeSettings>("environment", "think_with_code", table)?.limits()),
        build: |table, tools| {
            Ok(Arc::new(ThinkWithCode::new(settings("environment", "think_with_code", table)?, tools)))
        },
    },
    tool_calling::<0>(),
    tool_calling::<1>(),
    tool_calling::<2>(),
    tool_calling::<3>(),
    tool_calling::<4>(),
];

/// The entry of the preset of that number.
const fn tool_calling<const NUMBER: usize>() -> EnvironmentEntry {
    fn read<const NUMBER: usize>(table: toml::Table) -> Result<ToolCallingSettings, RegistryError> {
        let preset = PRESETS[NUMBER];
        preset.read(table).map_err(|source| RegistryError::Settings {
            kind: "environment",
            name: preset.name.to_owned(),
            source: Box::new(source),
        })
    }
    fn build<const NUMBER: usize>(table: toml::Table, tools: ToolSet) -> Result<Arc<dyn Environment>, RegistryError> {
        Ok(Arc::new(ToolCalling::new(PRESETS[NUMBER], read::<NUMBER>(table)?, tools)))
    }
    let preset = PRESETS[NUMBER];
    EnvironmentEntry {
        name: preset.name,
        default_tools: preset.default_tools,
        tools_max: usize::MAX,
        check: |table| Ok(read::<NUMBER>(table)?.limits()),
        build: build::<NUMBER>,
    }
}
