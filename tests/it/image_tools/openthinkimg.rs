//! The tools of OpenThinkIMG.

use std::path::Path;
use std::sync::Arc;

use image::RgbImage;
use serde_json::{Value, json};
use thyme_engine::image_ops::{
    Direction, LINE_COLOUR, LINE_WIDTH, Line, draw_lines, draw_rectangle, only_panel, panels,
};
use thyme_engine::prompt::ImageSource;
use thyme_engine::rollout::judges::settings::{CacheUse, JudgeSettings};
use thyme_engine::rollout::tool::Tool;
use thyme_engine::rollout::tools::openthinkimg::{
    Crop, DrawLine, OpenThinkImgSettings, Terminate, ZoomInSubfigure, ZoomInSubfigureSettings,
};

use super::{ERROR, OK, call, charts, check, compare, picture, trajectory};
use crate::support::chat_endpoint::{endpoint, says};

#[test]
fn crops_equal_those_of_pillow_bit_for_bit() {
    compare("Crop", |_| Crop::new(Default::default()), |area| json!({"image": "img_1", "param": area.to_string()}));
}

#[test]
fn crops_and_lines_say_what_openthinkimg_says() {
    let (old, new) = (picture(200, 100, true), picture(60, 40, true));
    let images = trajectory(&[&old], &[&new]);
    let crop = Crop::new(Default::default());
    let param = |param: Value| json!({"image": "img_1", "param": param});
    let missing = "Missing 'param' or 'image' in the input parameters.";
    let cropped = "Image cropped successfully.";
    check(
        &crop,
        &images,
        &[
            (param(json!("[1, 2, 31, 22]")), (OK, cropped, Some((30, 20)))),
            (param(json!([1, 2, 31, 22])), (OK, cropped, Some((30, 20)))),
            (param(json!("[ 50,30 , 99999999999,90 ] of it")), (OK, cropped, Some((10, 10)))),
            (param(json!("1, 2, 3, 4")), (ERROR, "Parameter format mismatch: 1, 2, 3, 4", None)),
            (param(json!("[-1, 2, 3, 4]")), (ERROR, "Parameter format mismatch: [-1, 2, 3, 4]", None)),
            (
                param(json!("[1, 2, 3]")),
                (ERROR, "Error processing line parameters '[1, 2, 3]': Invalid number of coordinates: [1, 2, 3]", None),
            ),
            (
                param(json!("[1 2, 3]")),
                (
                    ERROR,
                    "Error processing line parameters '[1 2, 3]': invalid literal for int() with base 10: '1 2'",
                    None,
                ),
            ),
            (
                param(json!("[9, 2, 3, 4]")),
                (
                    ERROR,
                    "Error processing line parameters '[9, 2, 3, 4]': Coordinate 'right' is less than 'left'",
                    None,
                ),
            ),
            (
                param(json!("[70, 2, 80, 4]")),
                (
                    ERROR,
                    "Error processing line parameters '[70, 2, 80, 4]': the box [70, 2, 80, 4] in pixels has no pixel of the image of 60x40",
                    None,
                ),
            ),
            (json!({"image": "img_1"}), (ERROR, missing, None)),
            (param(Value::Null), (ERROR, missing, None)),
        ],
    );
    let nothing = "Failed to call tool Crop: there is no image to work on";
    check(&crop, &trajectory(&[], &[]), &[(param(json!("[1, 2, 3, 4]")), (ERROR, nothing, None))]);
    let by_name = OpenThinkImgSettings { image_by_name: true };
    let named = |name: &str| json!({"image": name, "param": "[0, 0, 500, 500]"});
    check(
        &Crop::new(by_name.clone()),
        &images,
        &[
            (named("img_1"), (OK, cropped, Some((200, 100)))),
            (named("img_2"), (OK, cropped, Some((60, 40)))),
            (
                named("img_3"),
                (ERROR, "Failed to call tool Crop: there is no image \"img_3\"; the images are: img_1, img_2", None),
            ),
            (json!({"param": "[0, 0, 5, 5]"}), (ERROR, missing, None)),
        ],
    );
    let drawn = "Line drawn successfully.";
    let places: String = (0..101).map(|number| format!("y{number}=1 ")).collect();
    let many = "Error when drawing line: 101 lines are asked for; give at most 100";
    check(
        &DrawLine::horizontal(Default::default()),
        &images,
        &[
            (param(json!("y=28.5")), (OK, drawn, Some((60, 40)))),
            (param(json!("x=28.5")), (ERROR, "No valid points extracted.", None)),
            (param(json!("y=101")), (ERROR, "No valid points extracted.", None)),
            (param(json!(places)), (ERROR, many, None)),
            (json!({}), (ERROR, missing, None)),
        ],
    );
    let lines = [
        (DrawLine::horizontal(by_name.clone()), "y1=28.5 y2=100", Direction::Horizontal),
        (DrawLine::vertical(by_name), "x1=\"28.5\" y1=\"3\" x2=\"100\" y2=\"3\"", Direction::Vertical),
    ];
    for (tool, param, direction) in lines {
        let output = call(&tool, &json!({"image": "img_1", "param": param}), &images);
        let first = draw_lines(&old, &[Line::new(direction, 28.5)]).unwrap();
        let both = draw_lines(&first, &[Line::new(direction, 100.0)]).unwrap();
        assert_eq!((output.text.as_str(), &output.images[0].pixels), (drawn, &both));
    }
}

#[test]
fn a_subfigure_is_chosen_by_its_number_and_a_title_lists_them() {
    let figure = charts(160, 120, &[(10, 12), (90, 12), (10, 70), (90, 70)]);
    let found = panels(&figure).unwrap();
    assert_eq!(found.len(), 4);
    let images = trajectory(&[&figure], &[]);
    let param = |param: Value| json!({"image": "img_1", "param": param});
    let tool = ZoomInSubfigure::new(&Default::default()).unwrap();
    for choice in [json!("3"), json!(" 3 "), json!(3)] {
        let output = call(&tool, &param(choice), &images);
        assert_eq!(output.text, "Select subplot done.");
        assert_eq!(output.images[0].pixels, only_panel(&figure, &found, 2).unwrap());
    }
    let list = call(&ZoomInSubfigure::subplot(&Default::default()).unwrap(), &param(json!("Loss by year")), &images);
    let boxes: Vec<String> = found.iter().enumerate().map(|(place, area)| format!("{}: {area:?}", place + 1)).collect();
    let text = format!(
        "The image has 4 panels, each in a frame; their boxes [x1, y1, x2, y2] in pixels are {}. To see one alone, call ZoominSubplot again \
         with its number as param.",
        boxes.join(", ")
    );
    assert_eq!((list.status, list.text), (OK, text));
    let framed = found
        .iter()
        .fold(figure.clone(), |drawn, area| draw_rectangle(&drawn, *area, LINE_WIDTH, LINE_COLOUR).unwrap());
    assert_eq!(list.images[0].pixels, framed);
    assert_eq!(call(&tool, &param(json!("5")), &images).images[0].pixels, framed, "no panel has that number");
    let one = charts(80, 60, &[(10, 10)]);
    let output = call(&tool, &param(json!("Loss by year")), &trajectory(&[&one], &[]));
    assert!(output.text == "Select subplot done." && Arc::ptr_eq(&output.images[0].pixels, &one));
    check(
        &tool,
        &trajectory(&[&Arc::new(RgbImage::new(40, 40))], &[]),
        &[
            (param(json!("1")), (ERROR, "Error when selecting subplot: no panel has an outline in the image", None)),
            (json!({"image": "img_1"}), (ERROR, "Missing 'param' or 'image' in the input parameters.", None)),
        ],
    );
    check(
        &Terminate,
        &images,
        &[
            (json!({"ans": "1985"}), (OK, "1985", None)),
            (json!({"ans": 1985}), (OK, "1985", None)),
            (json!({}), (ERROR, "Missing 'ans' in the input parameters.", None)),
        ],
    );
}

#[test]
fn a_judge_is_asked_which_panel_a_title_means() {
    let figure = charts(240, 60, &[(10, 10), (90, 10), (170, 10)]);
    let found = panels(&figure).unwrap();
    let images = trajectory(&[&figure], &[]);
    let replies = vec![says("image-3, then image-1, image-3 and image-9"), says("none"), (500, "{}".into())];
    let (base_url, requests) = endpoint(replies);
    let judge = JudgeSettings {
        base_url: base_url.into(),
        model: "a judge".into(),
        parallel_requests: 3,
        max_retries: Some(0),
        cache: CacheUse::Never,
        ..Default::default()
    };
    let settings = ZoomInSubfigureSettings { judge: Some(judge), ..Default::default() };
    let tool = ZoomInSubfigure::new(&settings).unwrap();
    assert_eq!(tool.parallel_calls(), Some(3));
    let title = json!({"image": "img_1", "param": "Loss by year"});
    let output = call(&tool, &title, &images);
    let shown: Vec<RgbImage> = output.images.iter().map(|image| RgbImage::clone(&image.pixels)).collect();
    let alone = |place| RgbImage::clone(&only_panel(&figure, &found, place).unwrap());
    assert_eq!((output.text.as_str(), shown), ("Select subplot done.", vec![alone(2), alone(0)]));
    let numbered = call(&tool, &json!({"image": "img_1", "param": "2"}), &images);
    assert_eq!(*numbered.images[0].pixels, alone(1), "a number is not asked for");
    let none = "Error when selecting subplot: the judge named none of 3 panels: \"none\"";
    check(&tool, &images, &[(title.clone(), (ERROR, none, None))]);
    let output = call(&tool, &title, &images);
    let reason = "Error when selecting subplot: the judge did not reply: ";
    assert!(
        output.status == ERROR && output.text.starts_with(reason) && output.text.contains("500"),
        "{}",
        output.text
    );
    let requests = requests.join().unwrap();
    assert_eq!(requests.len(), 3);
    let content = requests[0].1["messages"][0]["content"].as_array().unwrap().clone();
    let kinds: Vec<&str> = content.iter().map(|part| part["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["text", "image_url", "text", "image_url", "text", "image_url", "text"]);
    assert!(content[6]["text"].as_str().unwrap().contains("Loss by year"));
    let url = content[3]["image_url"]["url"].as_str().unwrap().to_owned();
    assert_eq!(*ImageSource::DataUrl(url).load(Path::new("")).unwrap(), alone(1));
    let settings = ZoomInSubfigureSettings { judge: Some(Default::default()), ..Default::default() };
    let error = ZoomInSubfigure::new(&settings).unwrap_err();
    assert_eq!(error, "judge: base_url is \"\"; give an address such as \"http://localhost:8000/v1\"");
}
