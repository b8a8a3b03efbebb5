//! Messages and templates.

use std::path::Path;

use serde_json::{Map, Value, json};
use thyme_engine::prompt::{ChatTemplate, ImageSource, Message, Part, PictureSize, RenderOptions, place_images};

use super::{golden, golden_folder};

fn message(json: Value) -> Result<Message, String> {
    serde_json::from_value(json).map_err(|error| error.to_string())
}

fn template(name: &str) -> ChatTemplate {
    let source = std::fs::read_to_string(golden_folder().join(format!("templates/{name}.jinja"))).unwrap();
    let special = json!({"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"});
    ChatTemplate::compile(source, special.as_object().unwrap().clone()).unwrap()
}

#[test]
fn rendered_templates_equal_those_of_transformers() {
    let golden = golden("chat.json");
    for case in golden["cases"].as_array().unwrap() {
        let messages: Vec<Message> = serde_json::from_value(case["messages"].clone()).unwrap();
        let mut variables: Map<String, Value> = case["options"].as_object().unwrap().clone();
        let options = RenderOptions {
            add_generation_prompt: variables.remove("add_generation_prompt").is_some_and(|value| value == true),
            tools: variables.remove("tools"),
            variables,
        };
        let rendered = template(case["template"].as_str().unwrap()).render(&messages, &options);
        match (rendered, case["error"].as_str()) {
            (Ok(rendered), None) => assert_eq!(rendered, case["rendered"].as_str().unwrap()),
            (Err(error), Some(expected)) => assert!(error.to_string().contains(expected), "{error}"),
            (rendered, expected) => panic!("{rendered:?}, but transformers says {expected:?} for {case}"),
        }
    }
}

#[test]
fn openai_messages_are_read_in_all_their_spellings() {
    let parts = message(json!({"role": "user", "content": [
        {"type": "text", "text": "a"},
        {"type": "image", "image": "b/c.png"},
        {"type": "image", "image": "file:///d.png"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
        {"type": "image_url", "image_url": "e.jpg"},
    ]}));
    let image = |path: &str| Part::Image(ImageSource::Path(path.into()));
    let data = Part::Image(ImageSource::DataUrl("data:image/png;base64,AA==".into()));
    let expected = vec![Part::Text("a".into()), image("b/c.png"), image("/d.png"), data, image("e.jpg")];
    assert_eq!(parts.unwrap(), Message::new("user", expected));
    assert_eq!(message(json!({"role": "user", "content": "a"})).unwrap(), Message::text("user", "a"));
    assert_eq!(message(json!({"role": "assistant", "content": null})).unwrap().content, []);
}

#[test]
fn a_picture_has_the_size_that_is_asked_beside_it() {
    let parts = message(json!({"role": "user", "content": [
        {"type": "image", "image": "a.png", "max_pixels": 50176, "min_pixels": null},
        {"type": "image_url", "image_url": {"url": "b.png", "resized_height": 56, "resized_width": 84}},
        {"type": "image_url", "image_url": {"url": "c.png", "detail": "low"}},
    ]}));
    let limits = PictureSize::Limits { min_pixels: None, max_pixels: Some(50176) };
    let sides = PictureSize::Sides { resized_height: 56, resized_width: 84 };
    let image = |path: &str, size| Part::Image(ImageSource::Path(path.into()).sized(size));
    let expected = vec![image("a.png", Some(limits)), image("b.png", Some(sides)), image("c.png", None)];
    assert_eq!(parts.unwrap().content, expected);
    let listed: Vec<ImageSource> =
        serde_json::from_value(json!(["a.png", {"image": "a.png", "max_pixels": 50176}])).unwrap();
    assert_eq!(listed, [ImageSource::Path("a.png".into()), ImageSource::Path("a.png".into()).sized(Some(limits))]);
}

#[test]
fn unusable_messages_name_what_is_wrong() {
    let user = |content: Value| message(json!({"role": "user", "content": content})).unwrap_err();
    assert!(user(json!(7)).contains("a string or a list of parts"));
    assert!(user(json!([{"type": "audio"}])).contains("\"audio\" is not supported; known types: text, image"));
    assert!(user(json!([{"type": "image"}])).contains("has no \"image\""));
    assert!(user(json!([{"text": "a"}])).contains("has no \"type\""));
    assert!(user(json!([{"type": "image", "image": "a", "max_pixel": 3}])).contains("`max_pixel` is not known"));
    assert!(user(json!([{"type": "image", "image": "a", "max_pixels": 0}])).contains("`max_pixels` is 0; it must be"));
    assert!(user(json!([{"type": "image", "image": 3}])).contains("a path or a data URL"));
    assert!(user(json!([{"type": "image", "image": "https://x/y.png"}])).contains("download it"));
    assert!(message(json!({"content": "a"})).unwrap_err().contains("role"));
}

#[test]
fn thyme_rows_get_their_images_at_the_marks_in_order() {
    let mut messages = [
        Message::text("system", "no mark"),
        Message::text("user", "<image>\nlook<image>"),
        Message::text("assistant", "see <image>there"),
    ];
    let source = |name: &str| ImageSource::Path(name.into());
    place_images(&mut messages, vec![source("a"), source("b"), source("c")]).unwrap();
    assert_eq!(messages[0], Message::text("system", "no mark"));
    assert_eq!(messages[1].content, [Part::Image(source("a")), Part::Text("\nlook".into()), Part::Image(source("b"))]);
    assert_eq!(messages[2].images().collect::<Vec<_>>(), [&source("c")]);
    let error = place_images(&mut [Message::text("user", "<image>")], Vec::new()).unwrap_err().to_string();
    assert!(error.contains("1 <image> marks but 0 images"), "{error}");
}

#[test]
fn a_broken_template_or_data_url_is_an_error_with_its_reason() {
    let broken = ChatTemplate::compile("{% for %}".into(), Map::new()).err().expect("an error").to_string();
    assert!(broken.starts_with("chat template: syntax error"), "{broken}");
    for (url, reason) in [
        ("data:image/png,raw", "not base64"),
        ("data:image/png;base64,@@", "bad base64"),
        ("data:image/png;base64,AAAA", "not PNG"),
    ] {
        let error = ImageSource::DataUrl(url.into()).load(Path::new("/")).unwrap_err().to_string();
        assert!(error.contains(url) && error.contains(reason), "{error}");
    }
}
