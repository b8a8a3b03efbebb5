//! `ZoomInSubfigure`, which is also called `ZoominSubplot` (`SelectSubplot_worker.py`, `zoomInsubfigure_worker.py`).

use serde_json::Value;

use super::call::{OpenThinkImgSettings, param, schema};
use crate::image_ops::{self, LINE_COLOUR, LINE_WIDTH, draw_rectangle};
use crate::rollout::images::TrajectoryImages;
use crate::rollout::tool::{Subject, Tool, ToolFault, ToolSession};
use crate::rollout::tools::pure::{Made, PureTool};

/// The tool `ZoomInSubfigure`: the figure with all its panels ([`image_ops::panels`]) but one white; it is not cropped. `param` is the panel's
/// number. The original gives a title to a remote model, which says the panel; here the answer to a title is the list of panels, each with a
/// frame in the image, so that the next call can give the number. A figure of one panel needs no number.
#[derive(Clone, Debug)]
pub struct ZoomInSubfigure {
    name: &'static str,
    settings: OpenThinkImgSettings,
}

impl ZoomInSubfigure {
    /// The name in calls.
    pub const NAME: &'static str = "ZoomInSubfigure";
    /// The name in OpenThinkIMG's README.
    pub const SUBPLOT: &'static str = "ZoominSubplot";

    /// The tool `ZoomInSubfigure`.
    pub fn new(settings: OpenThinkImgSettings) -> Self {
        Self { name: Self::NAME, settings }
    }

    /// The same tool under the name `ZoominSubplot`.
    pub fn subplot(settings: OpenThinkImgSettings) -> Self {
        Self { name: Self::SUBPLOT, settings }
    }
}

impl PureTool for ZoomInSubfigure {
    fn call(&self, arguments: &Value, images: &TrajectoryImages) -> Result<Made, String> {
        let param = param(arguments)?;
        let image = self.settings.image(self.name, arguments, images)?;
        let failed = |why: String| format!("Error when selecting subplot: {why}");
        let panels = image_ops::panels(&image).map_err(|error| failed(error.to_string()))?;
        let number = param.trim().parse().ok().filter(|number| (1..=panels.len()).contains(number));
        match number.or((panels.len() == 1).then_some(1)) {
            Some(number) => {
                let only = image_ops::only_panel(&image, &panels, number - 1);
                Ok(Made::image("Select subplot done.", only.map_err(|error| failed(error.to_string()))?))
            }
            None if panels.is_empty() => Err(failed("no panel has an outline in the image".to_owned())),
            None => {
                let mut framed = image;
                for panel in &panels {
                    let frame = draw_rectangle(&framed, *panel, LINE_WIDTH, LINE_COLOUR);
                    framed = frame.map_err(|error| failed(error.to_string()))?;
                }
                let list: Vec<String> =
                    panels.iter().enumerate().map(|(place, panel)| format!("{}: {panel:?}", place + 1)).collect();
                let text = format!(
                    "The image has {} panels, each in a frame; their boxes [x1, y1, x2, y2] in pixels are {}. To see one alone, call {} again with \
                     its number as param.",
                    panels.len(),
                    list.join(", "),
                    self.name
                );
                Ok(Made::image(text, framed))
            }
        }
    }
}

impl Tool for ZoomInSubfigure {
    fn name(&self) -> &'static str {
        self.name
    }

    fn schema(&self) -> Option<Value> {
        let description = "Shows one panel of a figure alone: the others become white.";
        let panel = "The panel's number, from 1 on in reading order; or its title, to get the list of panels with their numbers.";
        Some(schema(self.name, description, panel))
    }

    fn open(&self, _: &Subject<'_>, sessions: usize) -> Result<Vec<Box<dyn ToolSession>>, ToolFault> {
        Ok(self.sessions(sessions))
    }
}
