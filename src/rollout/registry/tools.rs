//! The tools that ship.

use std::sync::Arc;

use super::entries::{NoSettings, ToolEntry, settings};
use super::error::RegistryError;
use crate::rollout::tool::Tool;
use crate::rollout::tools::image_edit::IMAGE_EDITS;
use crate::rollout::tools::python::{Python, PythonSettings};

const PYTHON: ToolEntry = ToolEntry {
    name: "python",
    only_in: None,
    needs: "Linux with user namespaces; python3 with numpy, opencv and pillow",
    check: |table| Ok(settings::<PythonSettings>("tool", "python", table)?.options().map(drop)?),
    build: |table| Ok(Arc::new(Python::start(&settings("tool", "python", table)?)?)),
};

/// The entry of the tool of that number.
const fn image_edit<const NUMBER: usize>() -> ToolEntry {
    fn check<const NUMBER: usize>(table: toml::Table) -> Result<(), RegistryError> {
        settings::<NoSettings>("tool", IMAGE_EDITS[NUMBER].name, table).map(drop)
    }
    fn build<const NUMBER: usize>(table: toml::Table) -> Result<Arc<dyn Tool>, RegistryError> {
        check::<NUMBER>(table)?;
        Ok(Arc::new(&IMAGE_EDITS[NUMBER]))
    }
    ToolEntry {
        name: IMAGE_EDITS[NUMBER].name,
        only_in: None,
        needs: "-",
        check: check::<NUMBER>,
        build: build::<NUMBER>,
    }
}

pub(super) const TOOLS: [ToolEntry; 12] = [
    PYTHON,
    image_edit::<0>(),
    image_edit::<1>(),
    image_edit::<2>(),
    image_edit::<3>(),
    image_edit::<4>(),
    image_edit::<5>(),
    image_edit::<6>(),
    image_edit::<7>(),
    image_edit::<8>(),
    image_edit::<9>(),
    image_edit::<10>(),
];
