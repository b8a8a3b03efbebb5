//! `ZoomInSubfigure`, which is also called `ZoominSubplot` (`SelectSubplot_worker.py`, `zoomInsubfigure_worker.py`).

use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use image::RgbImage;
use regex::Regex;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::call::{OpenThinkImgSettings, param, schema};
use crate::image_ops::{self, LINE_COLOUR, LINE_WIDTH, draw_rectangle};
use crate::rollout::images::TrajectoryImages;
use crate::rollout::judge::shortened;
use crate::rollout::judges::endpoint::Endpoint;
use crate::rollout::judges::settings::JudgeSettings;
use crate::rollout::tool::{Subject, Tool, ToolFault, ToolSession};
use crate::rollout::tools::pure::{Made, PureTool};
use crate::sandbox::png;

/// Settings of the tools `ZoomInSubfigure` and `ZoominSubplot`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ZoomInSubfigureSettings {
    /// As [`OpenThinkImgSettings::image_by_name`].
    pub image_by_name: bool,
    /// A model that takes images and is asked which panel a title means. Without one the answer to a title is the list of panels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub judge: Option<JudgeSettings>,
}

/// The tool `ZoomInSubfigure`: the figure with all its panels ([`image_ops::panels`]) but one white; it is not cropped. `param` is the panel's
/// number, or, as in the original, a title, for which the judge is asked. Without a judge the answer to a title is the list of panels, each
/// with a frame in the image, so that the next call can give the number. A figure of one panel needs neither.
#[derive(Clone)]
pub struct ZoomInSubfigure {
    name: &'static str,
    settings: OpenThinkImgSettings,
    judge: Option<Arc<PanelJudge>>,
}

impl ZoomInSubfigure {
    /// The name in calls.
    pub const NAME: &'static str = "ZoomInSubfigure";
    /// The name in OpenThinkIMG's README.
    pub const SUBPLOT: &'static str = "ZoominSubplot";

    /// The tool `ZoomInSubfigure`. Asks the judge nothing.
    ///
    /// # Errors
    /// When the judge cannot be.
    pub fn new(settings: &ZoomInSubfigureSettings) -> Result<Self, String> {
        let ZoomInSubfigureSettings { image_by_name, judge } = settings;
        let judge = judge.as_ref().map(PanelJudge::new).transpose().map_err(|problem| format!("judge: {problem}"))?;
        let settings = OpenThinkImgSettings { image_by_name: *image_by_name };
        Ok(Self { name: Self::NAME, settings, judge: judge.map(Arc::new) })
    }

    /// The same tool under the name `ZoominSubplot`.
    ///
    /// # Errors
    /// As [`ZoomInSubfigure::new`].
    pub fn subplot(settings: &ZoomInSubfigureSettings) -> Result<Self, String> {
        Ok(Self { name: Self::SUBPLOT, ..Self::new(settings)? })
    }

    /// The panels that a call means, by place, and the figure alone with each; none where that is to be asked.
    fn chosen(&self, figure: &Figure, param: &str) -> Result<Vec<Arc<RgbImage>>, String> {
        let count = figure.panels.len();
        let number: Option<usize> = param.trim().parse().ok().filter(|number| (1..=count).contains(number));
        match (number, &self.judge) {
            (Some(number), _) => Ok(vec![figure.only(number - 1)?]),
            (None, _) if count == 1 => Ok(vec![figure.only(0)?]),
            (None, Some(judge)) => judge.choose(figure, param),
            (None, None) => Ok(Vec::new()),
        }
    }
}

impl fmt::Debug for ZoomInSubfigure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct(self.name).field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// A picture and the boxes of its panels.
struct Figure {
    image: Arc<RgbImage>,
    panels: Vec<[u32; 4]>,
}

impl Figure {
    fn only(&self, place: usize) -> Result<Arc<RgbImage>, String> {
        image_ops::only_panel(&self.image, &self.panels, place).map_err(|error| error.to_string())
    }

    /// The list of panels for a tool of this name, and the figure with their frames.
    fn listed(self, name: &str) -> Result<Made, String> {
        let mut framed = self.image;
        for panel in &self.panels {
            framed = draw_rectangle(&framed, *panel, LINE_WIDTH, LINE_COLOUR).map_err(|error| error.to_string())?;
        }
        let panel = |(place, panel): (usize, &[u32; 4])| format!("{}: {panel:?}", place + 1);
        let list: Vec<String> = self.panels.iter().enumerate().map(panel).collect();
        let text = format!(
            "The image has {} panels, each in a frame; their boxes [x1, y1, x2, y2] in pixels are {}. To see one alone, call {name} again with \
             its number as param.",
            self.panels.len(),
            list.join(", ")
        );
        Ok(Made::image(text, framed))
    }
}

/// The model that says which panel a title means.
struct PanelJudge {
    endpoint: Endpoint,
    /// How it names one.
    form: Regex,
}

impl PanelJudge {
    fn new(settings: &JudgeSettings) -> Result<Self, String> {
        if settings.max_failed_steps.is_some() {
            return Err("max_failed_steps is of `[reward.judge]` only; remove it".to_owned());
        }
        let form = Regex::new("image-([0-9]+)").expect("a pattern that compiles");
        Ok(Self { endpoint: Endpoint::new(settings)?, form })
    }

    /// The figure alone with each panel that the model names, in its order.
    fn choose(&self, figure: &Figure, title: &str) -> Result<Vec<Arc<RgbImage>>, String> {
        let alone = (0..figure.panels.len()).map(|place| figure.only(place)).collect::<Result<Vec<_>, String>>()?;
        let mut content = Vec::new();
        for (place, image) in alone.iter().enumerate() {
            let bytes = png(image).map_err(|error| error.to_string())?;
            let url = format!("data:image/png;base64,{}", BASE64_STANDARD.encode(bytes));
            content.push(json!({"type": "text", "text": format!("image-{}:", place + 1)}));
            content.push(json!({"type": "image_url", "image_url": {"url": url}}));
        }
        let question = format!(
            "The images show one figure with several charts, a different one of them left visible in each. Which image shows what this names: \
             {title}\nReply with the image's name only, such as image-1."
        );
        content.push(json!({"type": "text", "text": question}));
        let reply = self.endpoint.ask(&json!([{"role": "user", "content": content}]));
        let reply = reply.map_err(|error| error.to_string())?;
        let mut places = Vec::new();
        for name in self.form.captures_iter(&reply) {
            let place = name[1].parse::<usize>().ok().and_then(|number| number.checked_sub(1));
            let place = place.filter(|place| *place < alone.len() && !places.contains(place));
            places.extend(place);
        }
        if places.is_empty() {
            return Err(format!("the judge named none of {} panels: {:?}", alone.len(), shortened(&reply)));
        }
        Ok(places.into_iter().map(|place| alone[place].clone()).collect())
    }
}

impl PureTool for ZoomInSubfigure {
    fn call(&self, arguments: &Value, images: &TrajectoryImages) -> Result<Made, String> {
        let param = param(arguments)?;
        let image = self.settings.image(self.name, arguments, images)?;
        let show = || {
            let panels = image_ops::panels(&image).map_err(|error| error.to_string())?;
            if panels.is_empty() {
                return Err("no panel has an outline in the image".to_owned());
            }
            let figure = Figure { image, panels };
            let images = self.chosen(&figure, &param)?;
            if images.is_empty() {
                return figure.listed(self.name);
            }
            Ok(Made { text: "Select subplot done.".to_owned(), images })
        };
        show().map_err(|why| format!("Error when selecting subplot: {why}"))
    }
}

impl Tool for ZoomInSubfigure {
    fn name(&self) -> &'static str {
        self.name
    }

    fn schema(&self) -> Option<Value> {
        let description = "Shows one panel of a figure alone: the others become white.";
        let panel = match self.judge {
            Some(_) => "The panel's title, or what it shows; or its number, from 1 on in reading order.",
            None => {
                "The panel's number, from 1 on in reading order; or its title, to get the list of panels with their numbers."
            }
        };
        Some(schema(self.name, description, panel))
    }

    fn parallel_calls(&self) -> Option<usize> {
        self.judge.as_ref().map(|judge| judge.endpoint.parallel_requests())
    }

    fn open(&self, _: &Subject<'_>, sessions: usize) -> Result<Vec<Box<dyn ToolSession>>, ToolFault> {
        Ok(self.sessions(sessions))
    }
}
