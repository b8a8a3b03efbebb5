//! The prompt side as a whole.

use std::path::Path;
use std::sync::Arc;

use image::RgbImage;
use serde_json::json;
use thyme_engine::prompt::{IMAGE_MARKUP, ImageSource, Message, Part, Processor, RenderOptions};

use super::{golden_folder, processor};

/// A copy of the golden checkpoint that a test may change.
fn checkpoint_copy() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(golden_folder().join("checkpoint")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    folder
}

fn error_of(folder: &Path) -> String {
    Processor::open(folder).err().expect("an error").to_string()
}

#[test]
fn each_placeholder_becomes_as_many_as_its_image_has_tokens() {
    let processor = processor();
    let prepared = |width, height| Arc::new(processor.prepare(&RgbImage::new(width, height)).unwrap());
    let images = [prepared(56, 84), prepared(280, 140)];
    let text = format!("a {IMAGE_MARKUP} b {IMAGE_MARKUP}");
    let ids = processor.encode_prompt(&text, &images).unwrap();
    let pad = "<|image_pad|>";
    let literal = text.replacen(pad, &"#".repeat(6), 1).replacen(pad, &pad.repeat(50), 1).replace('#', pad);
    assert_eq!(ids, processor.tokenizer().encode(&literal).unwrap());
    processor.check_expanded(&ids, &images).unwrap();
    let error = processor.check_expanded(&ids, &images[..1]).unwrap_err().to_string();
    assert!(error.contains("56 image placeholders but the 1 images need 6"), "{error}");
    let error = processor.encode_prompt(&text, &images[..1]).unwrap_err().to_string();
    assert!(error.contains("2 <|image_pad|> but 1 images"), "{error}");
}

#[test]
fn messages_become_ids_and_prepared_images() {
    let processor = processor().with_max_pixels(150 * 150).with_min_pixels(56 * 56);
    let folder = tempfile::tempdir().unwrap();
    RgbImage::new(300, 300).save(folder.path().join("a.png")).unwrap();
    let memory = Part::Image(ImageSource::Memory(Arc::new(RgbImage::new(56, 56))));
    let file = Part::Image(ImageSource::Path("a.png".into()));
    let messages = [Message::new("user", vec![file, Part::Text("and".into()), memory])];
    let prompt = processor.encode_messages(&messages, folder.path(), true).unwrap();
    let sizes: Vec<usize> = prompt.images.iter().map(|image| processor.image_tokens(image)).collect();
    assert_eq!(sizes, [25, 4]);
    let pad = processor.special_ids().image_pad;
    assert_eq!(prompt.token_ids.iter().filter(|&&id| id == pad).count(), 29);
    let text = processor.tokenizer().decode(&prompt.token_ids, false).replace("<|image_pad|>", "");
    let markup = "<|vision_start|><|vision_end|>";
    assert_eq!(
        text,
        format!(
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n{markup}and{markup}<|im_end|>\n\
             <|im_start|>assistant\n"
        )
    );
    let missing = [Message::new("user", vec![Part::Image(ImageSource::Path("no.png".into()))])];
    let error = processor.encode_messages(&missing, folder.path(), true).unwrap_err().to_string();
    assert!(error.contains("no.png") && error.contains("cannot be read"), "{error}");
}

#[test]
fn the_template_is_taken_from_the_first_file_that_has_one() {
    let folder = checkpoint_copy();
    let rendered = || {
        let options = RenderOptions { tools: Some(json!([{"name": "crop"}])), ..RenderOptions::default() };
        let processor = Processor::open(folder.path()).unwrap();
        processor.render(&[Message::text("user", "x")], &options).map_err(|error| error.to_string())
    };
    std::fs::write(folder.path().join("chat_template.jinja"), "own {{ eos_token }}\n").unwrap();
    assert_eq!(rendered().unwrap(), "own <|im_end|>");
    std::fs::remove_file(folder.path().join("chat_template.jinja")).unwrap();
    assert!(!rendered().unwrap().contains("# Tools"));
    std::fs::remove_file(folder.path().join("chat_template.json")).unwrap();
    assert!(rendered().unwrap().contains("# Tools"));
    std::fs::remove_file(folder.path().join("tokenizer_config.json")).unwrap();
    assert!(rendered().unwrap_err().contains("no chat template in"));
}

#[test]
fn image_settings_are_read_in_every_spelling() {
    let folder = checkpoint_copy();
    let path = folder.path().join("preprocessor_config.json");
    let limits = |text: &str| {
        std::fs::write(&path, text).unwrap();
        let settings = Processor::open(folder.path()).unwrap().image_settings().clone();
        (settings.min_pixels, settings.max_pixels, settings.patch_size)
    };
    assert_eq!(limits(r#"{"min_pixels": 784, "max_pixels": 12544, "patch_size": 6}"#), (784, 12_544, 6));
    assert_eq!(limits(r#"{"size": {"shortest_edge": 784, "longest_edge": 12544.0}}"#), (784, 12_544, 14));
    assert_eq!(
        limits(r#"{"max_pixels": 90000, "size": {"shortest_edge": 784, "longest_edge": 12544}}"#),
        (784, 90_000, 14)
    );
    assert_eq!(limits("{}"), (3136, 1_003_520, 14));
    std::fs::remove_file(&path).unwrap();
    let nested = r#"{"image_processor": {"size": {"shortest_edge": 5, "longest_edge": 6}}}"#;
    std::fs::write(folder.path().join("processor_config.json"), nested).unwrap();
    assert_eq!(Processor::open(folder.path()).unwrap().image_settings().max_pixels, 6);
}

#[test]
fn a_damaged_checkpoint_names_the_file_and_the_fault() {
    let folder = checkpoint_copy();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("preprocessor_config.json", r#"{"patch_size": 0}"#);
    assert!(error_of(folder.path()).contains("preprocessor_config.json: patch_size is 0"));
    write("preprocessor_config.json", r#"{"image_mean": [1, 2]}"#);
    assert!(error_of(folder.path()).contains("image_mean is [1,2]; it must be a list of three numbers"));
    write("preprocessor_config.json", "{");
    assert!(error_of(folder.path()).contains("not valid JSON"));
    std::fs::remove_file(folder.path().join("preprocessor_config.json")).unwrap();
    assert!(error_of(folder.path()).contains("preprocessor_config.json: does not exist"));
    write("chat_template.jinja", "{% if %}");
    assert!(error_of(folder.path()).contains("chat template: syntax error"));
    let tokenizer = std::fs::read_to_string(folder.path().join("tokenizer.json")).unwrap();
    write("tokenizer.json", &tokenizer.replace("<|image_pad|>", "<|other_pad|>"));
    assert!(error_of(folder.path()).contains("no token \"<|image_pad|>\""));
}
