//! Do the crops crop? Takes the place of Thyme's `code_prm`, whose judge looks at them.

use serde::{Deserialize, Serialize};

use crate::rollout::reward::{Needs, Reward, Score, View};
use crate::rollout::tool::CallStatus;
use crate::rollout::trajectory::Call;

/// The tool whose calls are code.
const CODE_TOOL: &str = "python";
/// What code says that crops.
const CROPS: &str = "crop";

/// Settings of the reward `crop_validity`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CropValiditySettings {
    /// The tools whose calls are crops. Of `python`, calls whose code speaks of a crop.
    pub tools: Vec<String>,
}

impl Default for CropValiditySettings {
    fn default() -> Self {
        let tools = [
            CODE_TOOL,
            "image_zoom_in_tool",
            "crop_image_normalized",
            "select_frames",
            "crop_image",
            "zoom_image",
            "Crop",
            "ZoomInSubfigure",
            "ZoominSubplot",
        ];
        Self { tools: tools.map(str::to_owned).to_vec() }
    }
}

/// The share of crops that made an image which the model was shown; 0 without a crop. Crops beyond the limit of calls do not count.
///
/// What differs from Thyme's `code_prm`: that asks a model which sees the crops whether they help to answer; this says only that there is
/// something to see.
pub struct CropValidity {
    /// Which calls are crops.
    pub settings: CropValiditySettings,
}

impl Reward for CropValidity {
    fn gate(&self) -> Option<&'static str> {
        Some("answer")
    }

    fn needs(&self) -> Needs {
        Needs::Calls
    }

    fn score_group(&self, group: &[&View<'_>]) -> Vec<Score> {
        group.iter().map(|view| Score::Value(self.share_of_images(view.calls))).collect()
    }
}

impl CropValidity {
    fn share_of_images(&self, calls: &[Call]) -> f64 {
        let crops = calls.iter().filter(|call| call.output.status != CallStatus::OverLimit && self.is_crop(call));
        let (good, all) = crops.fold((0, 0), |(good, all), call| (good + u32::from(call.images_shown > 0), all + 1));
        f64::from(good) / f64::from(all.max(1))
    }

    fn is_crop(&self, call: &Call) -> bool {
        let is_code = call.tool == CODE_TOOL;
        self.settings.tools.contains(&call.tool) && (!is_code || call.request.to_ascii_lowercase().contains(CROPS))
    }
}
