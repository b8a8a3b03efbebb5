//! Images between the processor, rollouts and training: tokens, templates, positions, tiles.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use image::RgbImage;
use serde_json::{Value, json};
use thyme_engine::checkpoint::Checkpoint;
use thyme_engine::engine::request::GenerateRequest;
use thyme_engine::engine::sequence::Sequence;
use thyme_engine::model::vision::ImageBatch;
use thyme_engine::prompt::positions::positions;
use thyme_engine::prompt::{Grid, ImageSource, Message, Part, PictureSize, PositionCursor, PreparedImage, Processor};
use thyme_engine::recipe::TrainTurns;
use thyme_engine::rollout::registry::Registry;
use thyme_engine::rollout::task::{Task, TaskPrompt};
use thyme_engine::rollout::tool::CallStatus;
use thyme_engine::rollout::trajectory::{End, Trajectory};
use thyme_engine::tasks::{self, Example, Role};
use thyme_engine::train::demonstration::{Demonstration, sample};
use thyme_engine::train::sample::{Layout, Pack, Sample, SampleImage};

use super::{environment, picture, play, policy, task, tool};
use crate::support::small_policy::{SmallPolicy, learner_settings};

fn root(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

// ---- 1 ----

/// Arguments with which a tool of an environment works on pictures of 168x112 and 112x112 pixels.
fn arguments(environment: &str, tool: &str) -> Value {
    match (environment, tool) {
        ("zoom_in_bank", "image_zoom_in_tool") => json!({"bbox_2d": [100, 100, 800, 900], "label": "a", "img_idx": 1}),
        (_, "image_zoom_in_tool") => json!({"bbox_2d": [10, 10, 120, 90], "label": "a"}),
        (_, "image_rotate_tool") => json!({"angle": 90}),
        (_, "crop_image_normalized") => json!({"bbox_2d": [0.1, 0.2, 0.8, 0.9], "target_image": 1}),
        (_, "select_frames") => json!({"target_frames": [1, 2]}),
        (_, "Crop") => json!({"image": "img_1", "param": "[4, 4, 90, 80]"}),
        (_, "DrawHorizontalLineByY") => json!({"image": "img_1", "param": "y=28.5"}),
        (_, "DrawVerticalLineByX") => json!({"image": "img_1", "param": "x=21.5"}),
        (_, "ZoomInSubfigure" | "ZoominSubplot") => json!({"image": "img_1", "param": "1"}),
        (_, "crop_image") => json!({"x": 3, "y": 5, "width": 90, "height": 70}),
        (_, "zoom_image") => json!({"zoom_factor": 1.5}),
        (_, "rotate_image") => json!({"angle": 30}),
        (_, "flip_image") => json!({"direction": "horizontal"}),
        (_, "adjust_brightness" | "adjust_contrast") => json!({"factor": 1.5}),
        (_, "apply_blur") => json!({"radius": 2}),
        (_, "apply_sharpen" | "convert_grayscale" | "get_image_info") => json!({}),
        (_, "resize_image") => json!({"width": 150, "height": 140, "maintain_aspect": false}),
        (environment, tool) => panic!("write arguments for the tool {tool:?} of {environment:?} here"),
    }
}

const CODE: &str = "<code>\n```python\nfrom PIL import Image\nimage = Image.open(image_path)\nfor side in (60, 90):\n    \
                    path = os.path.join(temp_output_dir, f'{side}.png')\n    image.crop((0, 0, side, 40)).save(path)\n    \
                    print(path)\n```\n</code>";

/// Each tool of an environment is called twice, so that its images stand behind those of others and of its own. The tool that ends a sequence,
/// and makes no image, is not among them.
fn script(environment: &str, tools: &[&str]) -> (String, usize) {
    let mut script = String::new();
    let mut calls = 0;
    for tool in tools.iter().chain(tools).filter(|tool| **tool != "Terminate") {
        calls += 1;
        match *tool {
            "python" => script.push_str(CODE),
            tool => {
                let call = json!({"name": tool, "arguments": arguments(environment, tool)});
                script.push_str(&format!("<tool_call>\n{call}\n</tool_call>"));
            }
        }
    }
    (script + "<answer>7</answer>", calls)
}

#[test]
fn image_tokens_match_image_features_with_every_tool() {
    let (policy, registry) = (policy(), Registry::default());
    let mut called = BTreeSet::from(["Terminate"]);
    for name in registry.environments().into_iter().filter(|name| registry.calls_tools(name)) {
        let of_it = registry.tools().filter(|tool| registry.environments_of(tool).contains(&name));
        let tools: Vec<&str> = of_it.map(|tool| tool.name).collect();
        let keys = match name {
            "think_with_code" => "",
            _ => {
                "call_format = \"hermes\"\nstop_at_call = true\ncalls_run = \"first\"\nmax_turns = 99\nmax_calls = 99\n\
                 max_images = 99\nmax_turn_tokens = 9999\nmax_total_tokens = 99999"
            }
        };
        let named = |tool: &&str| {
            let keys = if *tool == "select_frames" { "video = true" } else { "" };
            ((*tool).to_owned(), toml::from_str(keys).unwrap())
        };
        let named: Vec<_> = tools.iter().map(named).collect();
        let started = registry.environment((name.to_owned(), toml::from_str(keys).unwrap()), &named).unwrap();
        let (script, calls) = script(name, &tools);
        let task = task(&[(168, 112), (112, 112)], 9);
        let trajectory = play(&policy.processor, &*started, task, &script);
        assert_eq!((&trajectory.end, trajectory.calls.len()), (&End::Answered, calls), "{name}");
        assert!(trajectory.calls.iter().any(|call| call.images_shown > 0), "{name}: no tool shows an image");
        for call in &trajectory.calls {
            // What has no panels cannot be cut into them.
            let may_fail = ["ZoomInSubfigure", "ZoominSubplot"].contains(&call.tool.as_str());
            let (tool, status) = (&call.tool, call.output.status);
            assert!(status == CallStatus::Ok || may_fail, "{name}, {tool}: {}", call.output.text);
        }
        tokens_match_features(&policy, &trajectory);
        called.extend(tools);
    }
    let known: BTreeSet<&str> = registry.tools().map(|tool| tool.name).collect();
    assert!(known.is_subset(&called), "not called: {:?}", known.difference(&called));
}

/// The placeholders of each part of a trajectory are as many as its images need, as many as the tower gives features, and as the learner takes.
fn tokens_match_features(policy: &SmallPolicy, trajectory: &Trajectory) {
    let SmallPolicy { model, weights, processor, .. } = policy;
    let pad = processor.special_ids().image_pad;
    let pads = |ids: &[u32]| ids.iter().filter(|&&id| id == pad).count();
    let mut images = trajectory.images.iter();
    let mut tokens_of =
        |count: usize| -> usize { images.by_ref().take(count).map(|i| processor.image_tokens(i)).sum() };
    let made: usize = trajectory.calls.iter().map(|call| call.images_shown).sum();
    assert_eq!(
        pads(&trajectory.token_ids[..trajectory.prompt_tokens]),
        tokens_of(trajectory.images.len() - made),
        "the prompt"
    );
    for (turn, calls) in trajectory.observations() {
        let shown = calls.iter().map(|call| call.images_shown).sum();
        assert_eq!(pads(&trajectory.token_ids[turn.tokens.clone()]), tokens_of(shown), "{:?}", calls[0].tool);
    }
    processor.check_expanded(&trajectory.token_ids, &trajectory.images).unwrap();
    let settings = learner_settings(processor, false);
    let patches = trajectory.images.iter().map(|image| (image.patches.as_slice(), image.grid)).collect();
    let batch = ImageBatch { images: patches, scale: settings.pixel_scale };
    let (features, _) = model.merger_forward(weights, &model.tower_forward(weights, &batch, false).0);
    assert_eq!(features.rows.rows(), pads(&trajectory.token_ids));
    let pack = Pack::new(&[&sample_of(trajectory)], Layout::of(processor));
    assert_eq!(pack.batch.image_index.iter().filter(|&&row| row >= 0).count(), features.rows.rows());
    let ones = vec![1.0; pack.targets.len()];
    let found = thyme_engine::train::learner::logprobs(model, weights, &pack, &ones, &settings);
    assert!(found.logprob.len() == trajectory.own_tokens() && found.logprob.iter().all(|logprob| logprob.is_finite()));
}

fn sample_of(trajectory: &Trajectory) -> Sample {
    Sample {
        ids: trajectory.token_ids.clone(),
        trained: trajectory.sampled.iter().map(Option::is_some).collect(),
        images: trajectory.images.iter().map(sample_image).collect(),
    }
}

fn sample_image(prepared: &Arc<PreparedImage>) -> SampleImage {
    SampleImage { prepared: prepared.clone(), unmerged_features: None }
}

// ---- 2 ----

/// Chat templates of checkpoints by name: those that ship, and those of the golden files.
fn templates() -> BTreeMap<&'static str, String> {
    let read = |path: &'static str| (path, std::fs::read_to_string(root(path)).unwrap());
    BTreeMap::from([
        read("recipes/tiny/chat_template.jinja"),
        read("recipes/tiny-sft/chat_template.jinja"),
        read("tests/golden/prompt/templates/vision.jinja"),
        read(TEXT_TEMPLATE),
    ])
}

/// One that knows of no images.
const TEXT_TEMPLATE: &str = "tests/golden/prompt/templates/tools.jinja";

/// A template keeps the images of a tool's message or the prompt is refused; in rollouts and demonstrations, where no template writes what a tool
/// brought, they are kept under every template.
#[test]
fn chat_templates_keep_images_in_messages_of_tools() {
    let image = |tint| Part::Image(ImageSource::Memory(picture(84, 84, tint)));
    let conversation = [
        Message::text("user", "Look closer."),
        Message::text("assistant", "<tool_call>{}</tool_call>"),
        Message::new("tool", vec![image(1), Part::Text("and".into()), image(2)]),
    ];
    for (name, template) in templates() {
        let processor = Processor::open(&root("recipes/tiny-sft")).unwrap().with_template(template).unwrap();
        let processor = Arc::new(processor);
        match processor.encode_messages(&conversation, Path::new(""), true) {
            Ok(prompt) => {
                assert_eq!(prompt.images.len(), 2, "{name}");
                processor.check_expanded(&prompt.token_ids, &prompt.images).unwrap();
                let text = processor.tokenizer().decode(&prompt.token_ids, false).replace("<|image_pad|>", "");
                let shown = "<|vision_start|><|vision_end|>and<|vision_start|><|vision_end|>";
                assert!(text.contains(shown), "{name}: {text}");
            }
            Err(error) => {
                assert_eq!(name, TEXT_TEMPLATE, "{error}");
                assert!(error.to_string().contains("0 <|image_pad|> but 2 images"), "{error}");
            }
        }
        let crop = tool!("crop_image", "{\"x\": 0, \"y\": 0, \"width\": 60, \"height\": 60}");
        let prompt = TaskPrompt::Conversation(vec![Message::text("user", "Look closer.")]);
        let task = Task { prompt, ..task(&[(84, 84)], 5) };
        let trajectory = play(
            &processor,
            &*environment("vision_tools", "").unwrap(),
            task,
            &format!("{crop}{crop}<answer>7</answer>"),
        );
        assert_eq!((&trajectory.end, trajectory.images.len()), (&End::Answered, 2), "{name}");
        processor.check_expanded(&trajectory.token_ids, &trajectory.images).unwrap();
        let example = Example {
            messages: vec![
                tasks::Message::new(Role::User, "Look closer."),
                tasks::Message::new(Role::Assistant, "<tool_call>{}</tool_call>"),
                tasks::Message::new(Role::Tool, "<image>and<image>"),
                tasks::Message::new(Role::Assistant, "<answer>7</answer>"),
            ],
            images: vec![RgbImage::clone(&picture(84, 84, 1)), RgbImage::clone(&picture(56, 84, 2))],
            solution: None,
            question: None,
            tools: None,
        };
        let learned = sample(&processor, &example, TrainTurns::All).unwrap();
        let prepared: Vec<_> = learned.images.iter().map(|image| image.prepared.clone()).collect();
        assert_eq!(prepared.len(), 2, "{name}");
        processor.check_expanded(&learned.ids, &prepared).unwrap();
    }
}

// ---- 4 ----

/// Positions of six turns as the golden file has them, wherever they are computed: whole, chunk by chunk, in a sequence of the engine that is
/// appended to turn by turn, and in a pack of the learner with a beginning that two samples share. What the model makes of them is held to
/// transformers by `parity`, and the sampler to the learner below.
#[test]
fn positions_of_many_images_in_many_turns_are_those_of_transformers() {
    const IMAGES_OF_TURNS: [usize; 6] = [2, 3, 1, 4, 2, 3];
    let golden: Value =
        serde_json::from_slice(&std::fs::read(root("tests/golden/prompt/positions.json")).unwrap()).unwrap();
    let case = &golden["rope_index"]["six turns of several images"];
    let wanted: Vec<[u32; 3]> = serde_json::from_value(case["positions"].clone()).unwrap();
    let sizes: Vec<[u32; 2]> = serde_json::from_value(case["grids"].clone()).unwrap();
    let grids: Vec<Grid> = sizes.iter().map(|&[h, w]| Grid { t: 1, h, w }).collect();
    assert_eq!(grids.len(), IMAGES_OF_TURNS.iter().sum::<usize>());
    for name in ["qwen2_5_vl_untied_flat", "qwen2_vl_tied_flat"] {
        let config = Checkpoint::open(root("tests/golden/model").join(name)).unwrap().config;
        let (pad, merge) = (config.image_pad, config.merge());
        let golden_ids: Vec<u64> = serde_json::from_value(case["ids"].clone()).unwrap();
        let ids: Vec<u32> = golden_ids.iter().map(|&id| if golden["pad"] == id { pad } else { 1 }).collect();
        assert_eq!(positions(&ids, &grids, merge, pad).unwrap().0, wanted);

        let mut cursor = PositionCursor::new(merge, pad);
        cursor.add_images(&grids);
        let chunked: Vec<[u32; 3]> = ids.chunks(7).flat_map(|chunk| cursor.extend(chunk).unwrap()).collect();
        assert_eq!(chunked, wanted);

        let images: Vec<Arc<PreparedImage>> = grids.iter().map(|&grid| Arc::new(blank(grid))).collect();
        let turns = turns(&ids, &images, &IMAGES_OF_TURNS, merge, pad);
        let (prompt, prompt_images) = turns[0];
        let request = GenerateRequest {
            token_ids: prompt.to_vec(),
            images: prompt_images.to_vec(),
            ..GenerateRequest::default()
        };
        let mut sequence = Sequence::open(&request, 0, &config, (0, 0), &|_| &[]).unwrap();
        for (ids, images) in &turns[1..] {
            sequence.append(ids, images, &config).unwrap();
        }
        assert_eq!((&sequence.ids, &sequence.positions), (&ids, &wanted));

        // Two that part in the last turn.
        let shared = ids.len() - turns[5].0.len();
        let trained: Vec<bool> = (0..ids.len()).map(|place| place > shared && ids[place] != pad).collect();
        let first = Sample { ids: ids.clone(), trained, images: images.iter().map(sample_image).collect() };
        let mut second = first.clone();
        second.ids[shared] = 2;
        let pack = Pack::new(&[&first, &second], Layout { merge, image_pad: pad });
        let [prefix, one, other] =
            [0, 1, 2].map(|part| &pack.batch.positions[pack.batch.bounds[part]..pack.batch.bounds[part + 1]]);
        assert_eq!([prefix, one].concat(), wanted);
        assert_eq!([prefix, other].concat(), wanted);
        assert_eq!((prefix.len(), &pack.batch.prefixes[..]), (shared, &[None, Some(0), Some(0)][..]));
    }
}

/// An image of that size in patches.
fn blank(grid: Grid) -> PreparedImage {
    PreparedImage {
        patches: Vec::new(),
        grid,
        original_width: 14 * grid.w,
        original_height: 14 * grid.h,
        resized_width: 14 * grid.w as usize,
        resized_height: 14 * grid.h as usize,
        digest: 0,
    }
}

/// The tokens and images of each turn: a turn ends two tokens behind its last image.
fn turns<'a>(
    mut ids: &'a [u32],
    mut images: &'a [Arc<PreparedImage>],
    images_of_turns: &[usize],
    merge: usize,
    pad: u32,
) -> Vec<(&'a [u32], &'a [Arc<PreparedImage>])> {
    let mut turns = Vec::new();
    for (number, &count) in images_of_turns.iter().enumerate() {
        let own: &[Arc<PreparedImage>];
        (own, images) = images.split_at(count);
        let tokens: usize = own.iter().map(|image| image.grid.tokens(merge)).sum();
        let mut pads = ids.iter().enumerate().filter(|(_, id)| **id == pad).map(|(place, _)| place);
        let last = pads.nth(tokens - 1).unwrap();
        let end = if number + 1 == images_of_turns.len() { ids.len() } else { last + 3 };
        let turn: &[u32];
        (turn, ids) = ids.split_at(end);
        turns.push((turn, own));
    }
    turns
}

// ---- 8 ----

/// A prompt's picture, a tool's and a demonstration's become the same patches, and the learner is given those of the rollout itself.
#[test]
fn rollout_and_training_tile_an_image_alike() {
    let processor = policy().processor;
    for (number, size) in
        [(1, 1), (28, 28), (29, 27), (55, 57), (56, 56), (84, 41), (112, 112), (113, 112), (300, 40), (77, 901)]
            .into_iter()
            .enumerate()
    {
        let source = picture(size.0, size.1, number as u32);
        let task = Task { images: vec![ImageSource::Memory(source.clone())], ..task(&[], 0) };
        // The picture comes back as it is, so that it stands as a tool's image behind the prompt's.
        let same = tool!("adjust_brightness", "{\"factor\": 1.0}");
        let trajectory =
            play(&processor, &*environment("vision_tools", "").unwrap(), task, &format!("{same}<answer>7</answer>"));
        let prepared = processor.prepare(&source).unwrap();
        assert_eq!(trajectory.images.len(), 2, "{size:?}");
        assert!(trajectory.images.iter().all(|image| **image == prepared), "{size:?}");
        let pack = Pack::new(&[&sample_of(&trajectory)], Layout::of(&processor));
        for (rolled_out, trained) in trajectory.images.iter().zip(&pack.images) {
            assert!(Arc::ptr_eq(rolled_out, &trained.prepared));
        }
        demonstration_tiles_alike(&processor, &trajectory);
    }
}

/// A demonstration that is written of a rollout is cut into its patches: where the environment or the message made a picture smaller than the
/// checkpoint does, too.
#[test]
fn demonstrations_tile_an_image_as_their_rollouts_did() {
    let processor = policy().processor;
    let small = PictureSize::Limits { min_pixels: None, max_pixels: Some(4704) };
    let sides = PictureSize::Sides { resized_height: 112, resized_width: 56 };
    for (size, keys) in [(None, "max_image_pixels = 6272"), (Some(small), ""), (Some(sides), "max_image_pixels = 4704")]
    {
        let source = ImageSource::Memory(picture(200, 170, 4)).sized(size);
        let task = Task { images: vec![source], ..task(&[], 0) };
        let crop = tool!("crop_image", "{\"x\": 3, \"y\": 5, \"width\": 150, \"height\": 140}");
        let trajectory =
            play(&processor, &*environment("vision_tools", keys).unwrap(), task, &format!("{crop}<answer>7</answer>"));
        let tokens: Vec<usize> = trajectory.images.iter().map(|image| processor.image_tokens(image)).collect();
        let of_checkpoint = |image: &Arc<PreparedImage>| {
            let (width, height) = (image.original_width, image.original_height);
            processor.image_settings().resized((height, width), None).unwrap()
        };
        let differs = trajectory.images.iter().any(|image| {
            let (height, width) = of_checkpoint(image);
            (width as u32, height as u32) != image.resized()
        });
        assert!(differs, "{keys}: {tokens:?}");
        demonstration_tiles_alike(&processor, &trajectory);
    }
    // A size that the checkpoint gives no picture cannot be written.
    let large = PictureSize::Limits { min_pixels: None, max_pixels: Some(50_176) };
    let source = ImageSource::Memory(picture(400, 400, 4)).sized(Some(large));
    let task = Task { images: vec![source], ..task(&[], 0) };
    let trajectory = play(&processor, &*environment("vision_tools", "").unwrap(), task, "<answer>7</answer>");
    assert!(trajectory.images[0].resized() > (112, 112));
    assert!(Demonstration::of(&trajectory, processor.image_settings()).is_none());
}

/// The demonstration of a trajectory has its tokens and its patches.
fn demonstration_tiles_alike(processor: &Processor, trajectory: &Trajectory) {
    let Demonstration { messages, images, tools } = Demonstration::of(trajectory, processor.image_settings()).unwrap();
    let load = |image: ImageSource| RgbImage::clone(&image.load(Path::new("")).unwrap());
    let images = images.into_iter().map(load).collect();
    let example = Example { messages, images, solution: None, question: None, tools };
    let learned = sample(processor, &example, TrainTurns::All).unwrap();
    assert_eq!(learned.images.len(), trajectory.images.len());
    for (image, rolled_out) in learned.images.iter().zip(&trajectory.images) {
        assert_eq!((image.prepared.grid, &image.prepared.patches), (rolled_out.grid, &rolled_out.patches));
    }
    assert_eq!(learned.ids.strip_suffix(&[processor.special_ids().im_end]).unwrap(), trajectory.token_ids);
}
