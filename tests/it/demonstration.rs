//! What is learned of a demonstration, on the tiny model's own tokenizer.

use std::path::Path;

use image::RgbImage;
use thyme_engine::prompt::Processor;
use thyme_engine::recipe::TrainTurns;
use thyme_engine::tasks::{Example, Message, Role};
use thyme_engine::train::demonstration::sample;
use thyme_engine::train::sample::Sample;

const RESPONSE: &str = "<think>one<code>two</code><sandbox_output><image></sandbox_output> three<code>four</code>\
                        <sandbox_output>five</sandbox_output> six</think>\n<answer>7</answer>";

fn processor() -> Processor {
    Processor::open(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/recipes/tiny"))).unwrap()
}

fn learned(turns: TrainTurns) -> (Processor, Sample) {
    let processor = processor();
    let example = Example {
        messages: vec![Message::new(Role::User, "<image>\nWhat?"), Message::new(Role::Assistant, RESPONSE)],
        images: vec![RgbImage::new(112, 112), RgbImage::new(56, 56)],
        solution: None,
        question: None,
        tools: None,
    };
    let sample = sample(&processor, &example, turns).unwrap();
    (processor, sample)
}

fn learned_text(turns: TrainTurns) -> String {
    let (processor, sample) = learned(turns);
    let ids: Vec<u32> = (0..sample.ids.len()).filter(|&i| sample.trained[i]).map(|i| sample.ids[i]).collect();
    processor.tokenizer().decode(&ids, false)
}

#[test]
fn observations_and_their_markers_are_never_learned() {
    assert_eq!(
        learned_text(TrainTurns::All),
        "<think>one<code>two</code> three<code>four</code> six</think>\n<answer>7</answer><|im_end|>"
    );
}

#[test]
fn the_last_turn_is_what_follows_the_last_observation() {
    assert_eq!(learned_text(TrainTurns::Last), " six</think>\n<answer>7</answer><|im_end|>");
}

#[test]
fn the_last_two_turns_begin_behind_the_second_to_last_observation() {
    assert_eq!(learned_text(TrainTurns::LastTwo), " three<code>four</code> six</think>\n<answer>7</answer><|im_end|>");
}

#[test]
fn images_take_their_placeholders_and_are_never_learned() {
    let (processor, sample) = learned(TrainTurns::All);
    let pad = processor.special_ids().image_pad;
    let pads = (0..sample.ids.len()).filter(|&i| sample.ids[i] == pad);
    assert!(pads.clone().all(|i| !sample.trained[i]));
    assert_eq!(pads.count(), 16 + 4);
    assert_eq!(sample.images.len(), 2);
}
