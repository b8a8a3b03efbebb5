//! The tools that ship.

use std::sync::Arc;

use super::entries::{NoSettings, ToolEntry, settings};
use super::error::RegistryError;
use crate::rollout::tool::{Tool, ToolFault};
use crate::rollout::tools::image_edit::IMAGE_EDITS;
use crate::rollout::tools::openthinkimg::{
    Crop, DrawLine, OpenThinkImgSettings, Terminate, ZoomInSubfigure, ZoomInSubfigureSettings,
};
use crate::rollout::tools::pixel_reasoner::{
    CropImageNormalized, CropImageNormalizedSettings, SelectFrames, SelectFramesSettings,
};
use crate::rollout::tools::python::{Python, PythonSettings};
use crate::rollout::tools::zoom_in::{ImageRotate, ZoomIn, ZoomInSettings};
use crate::rollout::tools::zoom_in_bank::{ZoomInBank, ZoomInBankSettings};

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

/// The entry of a tool that needs nothing beside this program: its name, the only environment that means it by the name, the type of its settings,
/// and how it is made of them.
macro_rules! own_tool {
    ($name:expr, $only_in:expr, $settings:ty, $make:expr) => {{
        fn make(table: toml::Table) -> Result<Arc<dyn Tool>, RegistryError> {
            let make: fn($settings) -> Result<Arc<dyn Tool>, String> = $make;
            let made = make(settings("tool", $name, table)?);
            made.map_err(|reason| ToolFault { tool: $name, reason }.into())
        }
        ToolEntry { name: $name, only_in: $only_in, needs: "-", check: |table| make(table).map(drop), build: make }
    }};
}

/// [`own_tool`] of a tool that one panel is shown by.
macro_rules! subfigure {
    ($name:expr, $new:path) => {
        ToolEntry {
            needs: "- (a judge endpoint where it shall decide which panel a title means)",
            ..own_tool!($name, None, ZoomInSubfigureSettings, |settings| Ok(Arc::new($new(&settings)?)))
        }
    };
}

pub(super) const TOOLS: [ToolEntry; 23] = [
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
    own_tool!(ZoomInBank::NAME, None, ZoomInBankSettings, |settings| Ok(Arc::new(ZoomInBank::new(settings)?))),
    own_tool!(ZoomIn::NAME, Some("zoom_in"), ZoomInSettings, |settings| Ok(Arc::new(ZoomIn::new(settings)))),
    own_tool!(ImageRotate::NAME, None, NoSettings, |_| Ok(Arc::new(ImageRotate))),
    own_tool!(CropImageNormalized::NAME, None, CropImageNormalizedSettings, |settings| {
        Ok(Arc::new(CropImageNormalized::new(settings)?))
    }),
    own_tool!(SelectFrames::NAME, None, SelectFramesSettings, |settings| Ok(Arc::new(SelectFrames::new(settings)?))),
    own_tool!(Crop::NAME, None, OpenThinkImgSettings, |settings| Ok(Arc::new(Crop::new(settings)))),
    own_tool!(DrawLine::HORIZONTAL, None, OpenThinkImgSettings, |settings| Ok(Arc::new(DrawLine::horizontal(
        settings
    )))),
    own_tool!(DrawLine::VERTICAL, None, OpenThinkImgSettings, |settings| Ok(Arc::new(DrawLine::vertical(settings)))),
    subfigure!(ZoomInSubfigure::NAME, ZoomInSubfigure::new),
    subfigure!(ZoomInSubfigure::SUBPLOT, ZoomInSubfigure::subplot),
    own_tool!(Terminate::NAME, None, NoSettings, |_| Ok(Arc::new(Terminate))),
];
