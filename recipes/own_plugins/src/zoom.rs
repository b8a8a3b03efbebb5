//! The tool `zoom`: the model writes `<code>IMAGE LEFT TOP RIGHT BOTTOM</code>`, five whole numbers, and gets that part of that image,
//! enlarged. Images are counted from 0, those that the tool made too.

use std::collections::BTreeMap;
use std::sync::Arc;

use image::imageops::{self, FilterType};
use serde::Deserialize;
use thyme_engine::rollout::images::TrajectoryImages;
use thyme_engine::rollout::registry::{RegistryError, ToolEntry, settings};
use thyme_engine::rollout::tool::{CallStatus, Subject, Tool, ToolFault, ToolImage, ToolOutput, ToolSession};

/// What the registry needs to know.
pub const ENTRY: ToolEntry = ToolEntry {
    name: "zoom",
    only_in: None,
    needs: "-",
    check: |table| Zoom::read(table).map(drop),
    build: |table| Ok(Arc::new(Zoom::read(table)?)),
};

/// Largest side of an enlarged part, in pixels: what the model asks for must not fill the memory.
const SIDE_MAX: u32 = 4096;

/// The tool, which is its settings.
#[derive(Clone, Copy, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Zoom {
    /// A part is enlarged until its shorter side has so many pixels.
    pub least_side: u32,
}

impl Default for Zoom {
    fn default() -> Self {
        Zoom { least_side: 224 }
    }
}

impl Zoom {
    /// The tool of a recipe's table.
    fn read(table: toml::Table) -> Result<Zoom, RegistryError> {
        let zoom: Zoom = settings("tool", "zoom", table)?;
        if !(1..=SIDE_MAX).contains(&zoom.least_side) {
            let reason = format!("least_side is {}: give a whole number from 1 to {SIDE_MAX}", zoom.least_side);
            return Err(ToolFault { tool: "zoom", reason }.into());
        }
        Ok(zoom)
    }
}

impl Tool for Zoom {
    fn name(&self) -> &'static str {
        "zoom"
    }

    fn versions(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("zoom".to_owned(), "1".to_owned())])
    }

    fn open(&self, _: &Subject<'_>, sessions: usize) -> Result<Vec<Box<dyn ToolSession>>, ToolFault> {
        Ok((0..sessions).map(|_| Box::new(ZoomSession { zoom: *self, made: 0 }) as _).collect())
    }
}

/// One sequence's use of it.
struct ZoomSession {
    zoom: Zoom,
    /// Images so far.
    made: usize,
}

impl ToolSession for ZoomSession {
    fn run(&mut self, request: &str, images: &TrajectoryImages) -> Result<ToolOutput, ToolFault> {
        // What the model did wrong is an output that it reads.
        let mistake = |status, text: String| Ok(ToolOutput::text(status, text));
        let numbers: Vec<u32> = request.split_whitespace().map_while(|word| word.parse().ok()).collect();
        let [index, left, top, right, bottom] = numbers[..] else {
            return mistake(
                CallStatus::Malformed,
                "Write five whole numbers: image, left, top, right, bottom.".to_owned(),
            );
        };
        let pixels = match images.get(index as usize) {
            Ok(pixels) => pixels,
            Err(missing) => return mistake(CallStatus::Error, missing.to_string()),
        };
        let (width, height) = pixels.dimensions();
        if left >= right || top >= bottom || right > width || bottom > height {
            return mistake(
                CallStatus::Error,
                format!("The image is {width}x{height}, and the part lies not inside it."),
            );
        }
        let part = imageops::crop_imm(&*pixels, left, top, right - left, bottom - top).to_image();
        let (short, long) = (part.width().min(part.height()), part.width().max(part.height()));
        let scale = self.zoom.least_side.div_ceil(short).min(SIDE_MAX / long).max(1);
        let part = imageops::resize(&part, part.width() * scale, part.height() * scale, FilterType::CatmullRom);
        self.made += 1;
        let name = format!("zoom-{}.png", self.made);
        let image = ToolImage { label: name.clone(), name, pixels: Arc::new(part), widened: None };
        Ok(ToolOutput { images: vec![image], ..ToolOutput::text(CallStatus::Ok, format!("image {}", images.len())) })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use image::{Rgb, RgbImage};
    use thyme_engine::prompt::{ImageSource, Processor};
    use thyme_engine::rollout::environments::think_with_code::ThinkWithCode;
    use thyme_engine::rollout::generator::Scripted;
    use thyme_engine::rollout::task::Task;
    use thyme_engine::rollout::tool_set::ToolSet;
    use thyme_engine::rollout::{RolloutSettings, run};

    use super::*;

    /// A model that speaks from a script zooms into a picture, into what came of it, and beside it.
    #[test]
    fn a_model_zooms_twice() {
        let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tiny-sft");
        let processor = Arc::new(Processor::open(&tiny).expect("the tiny model's tokenizer"));
        let script = "<think><code>0 10 20 30 40</code> closer <code>1 0 0 28 28</code> beside it <code>0 90 0 110 9</code></think>\n<answer>7</answer>";
        let script = [(0, processor.tokenizer().encode(script).expect("text"))];
        let end = processor.special_ids().im_end;
        let bytes_of = processor.clone();
        let mut generator = Scripted::new(script, end, move |id| bytes_of.tokenizer().token_bytes(id).to_vec());

        let picture = RgbImage::from_fn(100, 80, |x, y| Rgb([x as u8, y as u8, 0]));
        let images = vec![ImageSource::Memory(Arc::new(picture))];
        let task = Task { question: "What is there?".to_owned(), images, ..Task::default() };
        let tools = ToolSet::new(vec![Arc::new(Zoom { least_side: 56 })]);
        let environment = ThinkWithCode::new(Default::default(), tools);
        let groups = run(&mut generator, &processor, &environment, &[task], &RolloutSettings::default());
        let trajectory = &groups.expect("one task").remove(0).trajectories[0];

        let made = |index: usize| trajectory.original_images.get(index).expect("an image").dimensions();
        assert_eq!((made(0), made(1), made(2)), ((100, 80), (60, 60), (56, 56)));
        let outside = &trajectory.calls[2].output;
        assert_eq!((outside.status, outside.text.contains("100x80")), (CallStatus::Error, true));
    }
}
