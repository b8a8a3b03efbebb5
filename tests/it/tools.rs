//! The command `tools`: what it lists, and one call of a tool.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

#[test]
fn tools_are_listed_with_their_environments_and_tried_on_an_image() {
    let folder = tempfile::tempdir().unwrap();
    let listed = String::from_utf8(
        Command::new(env!("CARGO_BIN_EXE_thyme-engine")).args(["tools", "list"]).output().unwrap().stdout,
    )
    .unwrap();
    let lines: Vec<Vec<&str>> = listed.lines().map(|line| line.split('\t').collect()).collect();
    assert!(lines.iter().all(|line| line.len() == 3), "{listed}");
    assert!(lines.iter().any(|line| line[..2] == ["python", "think_with_code"]));
    assert!(lines.contains(&vec!["crop_image", "vision_tools", "-"]));

    let image = folder.path().join("picture.png");
    image::RgbImage::new(40, 30).save(&image).unwrap();
    let call = |name: &str, arguments: &str, more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_thyme-engine"));
        command.args(["tools", "try", name, "--image"]).arg(&image).args(["--arguments", arguments, "--out"]);
        command.arg(folder.path().join("out")).args(more).output().unwrap()
    };
    let output = call("crop_image", r#"{"x": 10, "y": 5, "width": 20, "height": 50}"#, &["--env", "vision_tools"]);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&said["status"], &said["text"]), (&"ok".into(), &"Image processed successfully.".into()));
    let saved = Path::new(said["images"][0].as_str().unwrap());
    assert!(saved.is_absolute() && saved.ends_with("out/image-1.png"));
    assert_eq!(image::open(saved).unwrap().to_rgb8().dimensions(), (20, 25));

    let output = call("flip_image", r#"{"direction": "up"}"#, &[]);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&said["status"], said["images"].as_array().unwrap().len()), (&"error".into(), 0));

    for (name, arguments, more, part) in [
        ("crop", "{}", &[] as &[&str], "there is no tool \"crop\"; the tools are: python, crop_image"),
        ("crop_image", "[]", &[], "give a JSON object"),
        ("crop_image", "{}", &["--env", "direct"], "the environment \"direct\" calls no crop_image"),
    ] {
        let output = call(name, arguments, more);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && output.stdout.is_empty() && error.contains(part), "{error}");
    }
}
