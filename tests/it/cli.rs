//! The commands as one types them: the built binary on small checkpoints, what it writes and what it says when something is wrong.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use image::{Rgb, RgbImage};
use serde_json::{Value, json};
use tempfile::TempDir;
use thyme_engine::prompt::{Message, Processor, RenderOptions};
use thyme_engine::tasks::needle::SYSTEM_PROMPT;

const GOLDEN: [&str; 4] =
    ["qwen2_5_vl_untied_flat", "qwen2_5_vl_tied_nested", "qwen2_vl_tied_flat", "qwen2_vl_untied_nested"];
/// What the project promises; the parity test is stricter.
const LOGPROB: f64 = 1e-3;
/// As the built-in task asks.
const QUESTION: &str = "\nWhat digit is on the red plate?";

// ---- score ----

#[test]
fn score_gives_the_logprobs_of_transformers() {
    for name in GOLDEN {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/model");
        let golden: Value = serde_json::from_slice(&std::fs::read(root.join(format!("{name}.json"))).unwrap()).unwrap();
        let workplace = Workplace::new();
        let mut requests = Vec::new();
        for case in golden["cases"].as_array().unwrap() {
            let images: Vec<String> = (0..case["images"].as_array().unwrap().len())
                .map(|k| {
                    let side = |key: &str| case["images"][k][key].as_u64().unwrap() as u32;
                    let file = format!("{}-{k}.png", case["name"].as_str().unwrap());
                    draw(side("width"), side("height"), k as u32).save(workplace.path(&file)).unwrap();
                    file
                })
                .collect();
            requests.push(json!({"id": case["name"], "token_ids": case["token_ids"], "images": images}));
        }
        let replies = workplace.score(&root.join(name), &requests);
        assert_eq!(replies.len(), requests.len());
        for (case, reply) in golden["cases"].as_array().unwrap().iter().zip(&replies) {
            assert_eq!(keys(reply), ["id", "token_ids", "logprobs"]);
            assert_eq!(reply["id"], case["name"]);
            assert_eq!(reply["token_ids"], case["token_ids"]);
            let (found, wanted) = (reply["logprobs"].as_array().unwrap(), case["logprobs"].as_array().unwrap());
            assert_eq!(found.len(), wanted.len());
            assert!(found[0].is_null());
            for (token, (found, wanted)) in found.iter().zip(wanted).enumerate().skip(1) {
                let difference = (found.as_f64().unwrap() - wanted.as_f64().unwrap()).abs();
                assert!(difference <= LOGPROB, "{name} {}, token {token}: off by {difference}", case["name"]);
            }
        }
    }
}

#[test]
fn messages_prompt_and_token_ids_are_scored_alike() {
    let workplace = Workplace::with_picture();
    let messages = json!([{"role": "user", "content": [
        {"type": "image", "image": "picture.png"}, {"type": "text", "text": "What is it?"}]},
        {"role": "assistant", "content": "A plate."}]);
    let parsed: Vec<Message> = serde_json::from_value(messages.clone()).unwrap();
    let processor = Processor::open(tiny()).unwrap();
    let text = processor.render(&parsed, &RenderOptions::default()).unwrap();
    let ids = processor.encode_messages(&parsed, workplace.folder.path(), false).unwrap().token_ids;
    let replies = workplace.score(
        tiny(),
        &[
            json!({"id": "messages", "messages": messages}),
            json!({"id": 7, "prompt": text, "images": ["picture.png"]}),
            json!({"id": "ids", "token_ids": ids, "images": ["picture.png"]}),
        ],
    );
    assert_eq!(
        replies.iter().map(|reply| reply["id"].clone()).collect::<Vec<_>>(),
        [json!("messages"), json!(7), json!("ids")]
    );
    for reply in &replies {
        assert_eq!(reply["token_ids"], json!(ids));
        assert_eq!(reply["logprobs"], replies[0]["logprobs"]);
    }
}

#[test]
fn a_logprob_is_the_shortest_decimal_of_its_float32() {
    let workplace = Workplace::new();
    workplace.score(tiny(), &[json!({"id": 1, "token_ids": [5, 6, 7, 8, 9]})]);
    let line = workplace.read("out.jsonl");
    let list = line.split("\"logprobs\":[null,").nth(1).unwrap().trim_end().trim_end_matches("]}");
    for number in list.split(',') {
        assert_eq!(number.parse::<f32>().unwrap().to_string(), number);
    }
}

#[test]
fn one_token_has_no_logprob_to_give() {
    assert_eq!(Workplace::new().score(tiny(), &[json!({"id": 1, "token_ids": [5]})])[0]["logprobs"], json!([null]));
}

// ---- batch and generate ----

#[test]
fn generated_logprobs_are_those_of_score_to_the_bit() {
    let workplace = Workplace::with_picture();
    let requests = [
        json!({"id": "picture", "messages": [{"role": "user", "content": [
            {"type": "image", "image": "picture.png"}, {"type": "text", "text": "What is it?"}]}]}),
        json!({"id": "text", "prompt": "One two three four"}),
        json!({"id": "ids", "token_ids": [1, 2, 3]}),
    ];
    let replies = workplace.batch(tiny(), &requests, &["--max-tokens", "40", "--n", "3", "--seed", "5"]);
    assert_eq!(replies.len(), 9);
    let scored: Vec<Value> = replies
        .iter()
        .enumerate()
        .map(|(number, reply)| {
            let wanted = ["id", "prompt_token_ids", "token_ids", "text", "logprobs", "finish_reason"];
            assert_eq!(keys(reply), wanted);
            assert_eq!(reply["id"], requests[number / 3]["id"]);
            let ids: Vec<Value> = [list(reply, "prompt_token_ids"), list(reply, "token_ids")].concat();
            let images: &[&str] = if number < 3 { &["picture.png"] } else { &[] };
            json!({"id": number, "token_ids": ids, "images": images})
        })
        .collect();
    let mut compared = 0;
    for (reply, score) in replies.iter().zip(workplace.score(tiny(), &scored)) {
        let (sampled, prompt) = (list(reply, "logprobs"), list(reply, "prompt_token_ids").len());
        assert_eq!(sampled.len(), list(reply, "token_ids").len());
        assert_eq!(sampled, list(&score, "logprobs")[prompt..]);
        compared += sampled.len();
    }
    assert!(compared > 50, "only {compared} tokens were compared");
    let texts: BTreeSet<String> = replies.iter().map(|reply| reply["text"].to_string()).collect();
    assert!(texts.len() > 6, "samples differ: {texts:?}");
}

#[test]
fn a_file_longer_than_the_engine_is_wide_is_answered_in_order() {
    let workplace = Workplace::with_picture();
    let request = |id: usize| match id % 3 {
        0 => json!({"id": id, "prompt": "One two ".repeat(id % 7 + 1)}),
        1 => json!({"id": id, "token_ids": vec![5; id % 40 + 1]}),
        _ => json!({"id": id, "prompt": "<|image_pad|>", "images": ["picture.png"]}),
    };
    let requests: Vec<Value> = (0..150).map(request).collect();
    let together = workplace.batch(tiny(), &requests, &["--max-tokens", "4"]);
    let ids: Vec<usize> = together.iter().map(|reply| reply["id"].as_u64().unwrap() as usize).collect();
    assert_eq!(ids, (0..150).collect::<Vec<_>>());
    let first = workplace.batch(tiny(), &requests[..10], &["--max-tokens", "4"]);
    assert_eq!(first, together[..10], "what comes behind does not change an answer");
}

#[test]
fn a_group_fits_whatever_the_length_of_its_prompt() {
    let workplace = Workplace::new();
    for tokens in [15, 16, 17, 32] {
        let requests = [json!({"id": 1, "token_ids": vec![5; tokens]})];
        assert_eq!(workplace.batch(tiny(), &requests, &["--max-tokens", "1", "--n", "3"]).len(), 3);
    }
}

#[test]
fn generation_is_a_function_of_its_seed() {
    let workplace = Workplace::new();
    let requests = [json!({"id": 1, "prompt": "One two"}), json!({"id": 2, "prompt": "One two"})];
    let once = workplace.batch(tiny(), &requests, &["--max-tokens", "16"]);
    assert_eq!(once, workplace.batch(tiny(), &requests, &["--max-tokens", "16"]));
    assert_ne!(once, workplace.batch(tiny(), &requests, &["--max-tokens", "16", "--seed", "1"]));
    assert_ne!(once[0]["token_ids"], once[1]["token_ids"], "two requests sample by different numbers");
}

#[test]
fn sampling_defaults_come_from_the_checkpoint_and_flags_win() {
    let workplace = Workplace::new();
    let model = workplace.path("model");
    copy_folder(tiny(), &model);
    std::fs::write(model.join("generation_config.json"), r#"{"top_k": 1, "max_new_tokens": 5}"#).unwrap();
    let requests = [json!({"id": 1, "prompt": "One two"})];
    let greedy = workplace.batch(tiny(), &requests, &["--max-tokens", "5", "--temperature", "0"]);
    let default = workplace.batch(&model, &requests, &[]);
    assert_eq!(default, greedy);
    let flagged = workplace.batch(&model, &requests, &["--top-k", "-1", "--max-tokens", "9"]);
    assert_eq!(flagged, workplace.batch(tiny(), &requests, &["--max-tokens", "9"]));
    assert_ne!(list(&flagged[0], "token_ids")[..5], list(&greedy[0], "token_ids"));
}

#[test]
fn a_stop_ends_the_text_before_it() {
    let workplace = Workplace::new();
    let requests = [json!({"id": 1, "prompt": "One two three"})];
    let long = workplace.batch(tiny(), &requests, &["--max-tokens", "30", "--seed", "3"]);
    let text = long[0]["text"].as_str().unwrap();
    let stop: String =
        text.chars().skip(text.chars().count() / 2).filter(|c| c.is_ascii_alphabetic()).take(1).collect();
    let cut = workplace.batch(tiny(), &requests, &["--max-tokens", "30", "--seed", "3", "--stop", &stop]);
    assert_eq!(cut[0]["finish_reason"], "stop");
    assert_eq!(cut[0]["text"].as_str().unwrap(), text.split(&stop).next().unwrap());
    assert_eq!(long[0]["finish_reason"], "length");
}

#[test]
fn an_environment_names_how_each_trajectory_ended() {
    let workplace = Workplace::with_picture();
    let requests = [
        json!({"id": 1, "token_ids": [1, 2, 3]}),
        json!({"id": 2, "messages": [{"role": "user", "content": [
        {"type": "image", "image": "picture.png"}, {"type": "text", "text": "?"}]}]}),
    ];
    let replies = workplace.batch(tiny(), &requests, &["--env", "think_with_code", "--max-tokens", "12"]);
    for reply in &replies {
        let end = reply["finish_reason"].as_str().unwrap();
        assert!(["turn_tokens", "total_tokens", "end_of_turn"].contains(&end), "{end}");
        assert_eq!(list(reply, "logprobs").len(), list(reply, "token_ids").len());
    }
    assert_eq!(replies[0]["prompt_token_ids"], json!([1, 2, 3]));
}

#[test]
fn a_question_is_answered_on_the_terminal() {
    let workplace = Workplace::with_picture();
    let picture = workplace.path("picture.png");
    let output = thyme()
        .args(["generate", "--max-tokens", "20", "--env", "none", "--model"])
        .arg(tiny())
        .arg("--image")
        .arg(picture)
        .arg("What is it?")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(output.stdout.len() > 5, "something was said");
}

#[test]
fn tools_run_while_generating_and_their_tokens_have_no_logprob() {
    let workplace = Workplace::new();
    workplace.needle(3);
    let requests: Vec<Value> = (0..3)
        .map(|number| {
            let user = json!([{"type": "image", "image": format!("needle/images/{number:08}_00.png")},
                {"type": "text", "text": QUESTION}]);
            json!({"id": number, "messages": [
                {"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": user}]})
        })
        .collect();
    let replies = workplace.batch(&looker(), &requests, &["--env", "think_with_code", "--n", "4"]);
    assert_eq!(replies.len(), 12);
    let mut looks = 0;
    for reply in &replies {
        let (text, logprobs) = (reply["text"].as_str().unwrap(), list(reply, "logprobs"));
        assert!(logprobs[0].is_f64());
        assert_eq!(text.contains("<sandbox_output>"), logprobs.iter().any(Value::is_null), "{text}");
        looks += usize::from(text.contains("<sandbox_output><image></sandbox_output>"));
    }
    assert!(looks > 0, "some of the answers look at a crop");
}

#[test]
fn the_terminal_is_told_where_each_crop_was_saved() {
    let workplace = Workplace::new();
    workplace.needle(1);
    let answer = |seed: u64| {
        let output = thyme()
            .args(["generate", "--seed", &seed.to_string(), "--system", SYSTEM_PROMPT, "--model"])
            .arg(looker())
            .arg("--image")
            .arg(workplace.path("needle/images/00000000_00.png"))
            .arg("--crops")
            .arg(workplace.path("crops"))
            .arg(QUESTION.trim())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    // Four in ten answers look.
    let said = (0..20).map(answer).find(|said| said.contains("image saved as")).unwrap();
    let path = said.split("image saved as ").nth(1).unwrap().split(']').next().unwrap();
    assert!(image::open(path).is_ok(), "{said}");
}

// ---- what is wrong is said ----

#[test]
fn a_bad_line_is_named_with_its_number_and_the_remedy() {
    let workplace = Workplace::with_picture();
    std::fs::write(workplace.path("damaged.png"), &std::fs::read(workplace.path("picture.png")).unwrap()[..60])
        .unwrap();
    RgbImage::new(201, 1).save(workplace.path("line.png")).unwrap();
    let long: Vec<u32> = vec![5; 4097];
    let image = |file: &str| json!({"id": 1, "prompt": "<|image_pad|>", "images": [file]}).to_string();
    let cases = [
        (r#"{"id": 1, "prompt": "a""#.to_owned(), "one JSON object"),
        (r#"[1]"#.to_owned(), "must be an object, not a list"),
        (r#"{"id": 1, "prompt": "a", "promt": "b"}"#.to_owned(), "the field `promt`, which is not known; known: "),
        (r#"{"prompt": "a"}"#.to_owned(), "it lacks the field `id`"),
        (r#"{"id": [], "prompt": "a"}"#.to_owned(), "give a string or a number"),
        (r#"{"id": 1}"#.to_owned(), "give exactly one"),
        (r#"{"id": 1, "prompt": "a", "token_ids": [1]}"#.to_owned(), "give exactly one"),
        (r#"{"id": 1, "messages": [], "images": ["picture.png"]}"#.to_owned(), "content part"),
        (
            r#"{"id": 1, "messages": [{"role": "user", "content": [{"type": "video"}]}]}"#.to_owned(),
            "known types: text, image",
        ),
        (
            r#"{"id": 1, "messages": [{"role": "user", "content": [{"type": "image", "image": "http://a/b.png"}]}]}"#
                .to_owned(),
            "not fetched",
        ),
        (r#"{"id": "x", "token_ids": []}"#.to_owned(), "request \"x\": there are no tokens; give at least one"),
        (r#"{"id": 7, "prompt": ""}"#.to_owned(), "request 7: there are no tokens; give at least one"),
        (r#"{"id": 1, "token_ids": [-1]}"#.to_owned(), "`token_ids[0]` is -1; it must be a whole number"),
        (r#"{"id": 1, "token_ids": [1, 768]}"#.to_owned(), "token 1 has the id 768, but the model's ids end at 767"),
        (r#"{"id": 1, "token_ids": [766]}"#.to_owned(), "give one image for each group of placeholders"),
        (r#"{"id": 1, "token_ids": [766, 1], "images": ["picture.png"]}"#.to_owned(), "placeholders"),
        (r#"{"id": 1, "prompt": "a", "images": ["picture.png"]}"#.to_owned(), "give one image for each <|image_pad|>"),
        (r#"{"id": 1, "prompt": "<|image_pad|>"}"#.to_owned(), "give one image for each <|image_pad|>"),
        (json!({"id": 1, "token_ids": long}).to_string(), "4097 tokens are more than the model's context of 4096"),
        (image("none.png"), "relative paths start at the folder of the input file"),
        (image("."), "it is a folder"),
        (image("damaged.png"), "copy or download it again"),
        (image("in.jsonl"), "convert it to one of these"),
        (image("line.png"), "an aspect ratio of 201.0"),
        (
            r#"{"id": 1, "prompt": "a", "mm_processor_kwargs": {"do_resize": true}}"#.to_owned(),
            "`mm_processor_kwargs` has the field `do_resize`, which is not known; known: `min_pixels`, `max_pixels`, `size`",
        ),
        (
            r#"{"id": 1, "prompt": "a", "mm_processor_kwargs": {"max_pixels": 0}}"#.to_owned(),
            "mm_processor_kwargs: `max_pixels` is 0",
        ),
        (
            r#"{"id": 1, "messages": [{"role": "user", "content": [{"type": "image", "image": "picture.png", "max_pixel": 1}]}]}"#
                .to_owned(),
            "`max_pixel` is not known beside a picture",
        ),
        (image("data:image/png;base64,AAAA"), "convert it to one of these"),
    ];
    for (line, remedy) in cases {
        workplace.write("in.jsonl", &format!("{{\"id\": 0, \"token_ids\": [1, 2]}}\n\n{line}\n"));
        for command in ["score", "batch"] {
            let output =
                workplace.bulk(command, tiny(), &["--max-tokens", "2"][..if command == "score" { 0 } else { 2 }]);
            let said = stderr(&output);
            assert_eq!(output.status.code(), Some(1), "{command} {line}: {said}");
            assert!(said.contains("in.jsonl:3: ") && said.contains(remedy), "{command} {line}: {said}");
        }
    }
}

#[test]
fn lines_before_a_bad_picture_are_answered() {
    let workplace = Workplace::with_picture();
    workplace.write("damaged.png", "not a picture");
    let mut lines: Vec<Value> = (0..100).map(|id| json!({"id": id, "token_ids": [1, 2]})).collect();
    lines[80] = json!({"id": "bad", "prompt": "<|image_pad|>", "images": ["damaged.png"]});
    workplace.write("in.jsonl", &lines.iter().map(|line| format!("{line}\n")).collect::<String>());
    for (command, flags) in [("score", &[][..]), ("batch", &["--max-tokens", "2"])] {
        let output = workplace.bulk(command, tiny(), flags);
        assert!(!output.status.success());
        assert!(stderr(&output).contains("in.jsonl:81: request \"bad\": image "), "{}", stderr(&output));
        let replies: Vec<Value> =
            workplace.read("out.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let ids: Vec<&Value> = replies.iter().map(|reply| &reply["id"]).collect();
        assert_eq!(ids, lines[..80].iter().map(|line| &line["id"]).collect::<Vec<_>>());
    }
}

#[test]
fn a_full_disk_is_reported_with_the_path() {
    let workplace = Workplace::new();
    workplace.write("in.jsonl", "{\"id\": 0, \"token_ids\": [1, 2]}\n");
    let output = thyme()
        .args(["score", "--output", "/dev/full", "--input"])
        .arg(workplace.path("in.jsonl"))
        // A device is an output only where stdout goes.
        .stdout(std::fs::File::create("/dev/full").unwrap())
        .arg("--model")
        .arg(tiny())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("cannot write /dev/full; free some space"), "{}", stderr(&output));
}

#[test]
fn wrong_flags_and_checkpoints_are_named() {
    let workplace = Workplace::new();
    workplace.write("in.jsonl", "{\"id\": 0, \"prompt\": \"a\"}\n");
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/model").join(GOLDEN[0]);
    let cases: [(&str, &Path, &[&str], &str); 8] = [
        ("score", Path::new("/nowhere"), &[], "give a folder with config.json"),
        ("score", &golden, &[], "only `token_ids` can be used"),
        ("batch", &golden, &[], "tokenizer"),
        ("batch", tiny(), &["--temperature", "-1"], "it must be 0 or more"),
        ("batch", tiny(), &["--top-p", "0"], "above 0 and at most 1"),
        ("batch", tiny(), &["--top-k", "-2"], "it must be -1 or more"),
        ("batch", tiny(), &["--max-tokens", "0"], "it must be 1 or more"),
        ("batch", tiny(), &["--stop", ""], "give the text that ends an answer"),
    ];
    for (command, model, flags, remedy) in cases {
        let output = workplace.bulk(command, model, flags);
        assert_eq!(output.status.code(), Some(1), "{command} {flags:?}");
        assert!(stderr(&output).contains(remedy), "{command} {flags:?}: {}", stderr(&output));
    }
}

#[test]
fn every_help_shows_an_example() {
    for command in ["train", "eval", "generate", "batch", "score", "sandbox", "tools", "data", "init", "doctor"] {
        for command in [vec![command], if command == "data" { vec!["data", "needle"] } else { vec![command] }] {
            let output = thyme().args(&command).arg("--help").output().unwrap();
            let help = String::from_utf8(output.stdout).unwrap();
            assert!(help.contains("Example") && help.contains(&format!("thyme-engine {}", command[0])), "{help}");
        }
    }
}

// ---- the other commands ----

#[test]
fn a_model_is_evaluated_with_tools_and_without() {
    let workplace = Workplace::new();
    let evaluate = |environment: &str, python: Option<&str>| {
        let mut thyme = thyme();
        thyme
            .args(["eval", "--limit", "6", "--max-total-tokens", "160", "--env", environment, "--model"])
            .arg(looker());
        let output = thyme
            .arg("--output")
            .arg(workplace.path(environment))
            .envs(python.map(|path| ("THYME_PYTHON", path)))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        let report: Value = serde_json::from_str(&workplace.read(&format!("{environment}/results.json"))).unwrap();
        assert_eq!(
            (&report["count"], &report["answers_scored"], &report["answers_unscored"]),
            (&6.into(), &6.into(), &0.into())
        );
        assert_eq!(report["accuracy"], report["accuracy_of_all"]);
        let table = String::from_utf8_lossy(&output.stdout).into_owned();
        let row: Vec<&str> =
            table.lines().find(|line| line.starts_with("answer")).unwrap().split_whitespace().collect();
        assert_eq!((row.len(), &row[2..4], row[1] == row[4]), (5, &["6", "0"][..], true), "{table}");
        let samples = workplace.read(&format!("{environment}/samples.jsonl"));
        assert_eq!(samples.lines().count(), 6);
        let sample: Value = serde_json::from_str(samples.lines().next().unwrap()).unwrap();
        assert!(
            sample["scores"]["answer"].is_f64() && sample["calls"].is_array() && sample["tokens"].is_u64(),
            "{sample}"
        );
        (report, samples)
    };
    // Without tools nobody asks for Python.
    let (report, samples) = evaluate("direct", Some("/nowhere/python3"));
    assert_eq!(report["tool_use"], 0.0);
    assert_eq!(
        (&report["calls"]["max"], &report["images"]["mean"], &report["tools"]),
        (&0.0.into(), &0.0.into(), &serde_json::json!([]))
    );
    assert_eq!(report["unscored"], 0);
    assert!(
        report["parts"].as_array().unwrap().iter().any(|part| part["name"] == "answer" && part["mean"].is_f64()),
        "{report}"
    );
    assert!(!samples.contains("<sandbox_output>"));
    let (report, _) = evaluate("think_with_code", None);
    assert!(report["ends"].as_array().unwrap().iter().any(|end| end[0] == "answered"), "{report}");
}

#[test]
fn sandbox_prints_one_json_object() {
    let workplace = Workplace::with_picture();
    let crop = "from PIL import Image\npath = temp_output_dir + '/crop.png'\n\
                Image.open(image_path).crop((0, 0, 70, 80)).save(path)\nprint('cropped')\nprint(path)\n";
    for (code, status, text, images) in [
        (crop, "ok", "cropped", 1),
        ("1 / 0\n", "error", "ZeroDivisionError", 0),
        ("while True: pass\n", "timeout", "timed out", 0),
    ] {
        workplace.write("code.py", code);
        let output = thyme()
            .args(["sandbox", "--timeout", "2", "--image"])
            .arg(workplace.path("picture.png"))
            .arg("--out")
            .arg(workplace.path("crops"))
            .arg(workplace.path("code.py"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        let result: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(keys(&result), ["status", "text", "images", "seconds"]);
        assert_eq!(result["status"], status);
        assert!(result["text"].as_str().unwrap().contains(text), "{result}");
        assert!(result["seconds"].is_f64());
        let found = list(&result, "images");
        assert_eq!(found.len(), images);
        for path in found {
            assert_eq!(image::open(path.as_str().unwrap()).unwrap().into_rgb8().dimensions(), (70, 80));
        }
    }
}

#[test]
fn sandbox_says_what_cannot_be_run() {
    let workplace = Workplace::with_picture();
    workplace.write("code.py", "print(1)\n");
    let cases = [
        ("none.png", "code.py", "5", "none.png"),
        ("picture.png", "none.py", "5", "UTF-8 file of Python"),
        ("picture.png", "code.py", "-1", "above 0"),
    ];
    for (image, code, timeout, remedy) in cases {
        let output = thyme()
            .arg("sandbox")
            .arg(format!("--timeout={timeout}"))
            .arg("--image")
            .arg(workplace.path(image))
            .arg(workplace.path(code))
            .output()
            .unwrap();
        assert!(!output.status.success());
        assert!(stderr(&output).contains(remedy), "{}", stderr(&output));
    }
}

#[test]
fn init_makes_the_same_checkpoint_of_the_same_seed_on_every_device() {
    let workplace = Workplace::new();
    let init = |seed: &str, device: &str, out: &str| {
        let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/tiny/config.json");
        thyme()
            .args(["init", "--seed", seed, "--device", device, "--config"])
            .arg(config)
            .arg("--out")
            .arg(workplace.path(out))
            .output()
            .unwrap()
    };
    for (seed, device, out) in [("3", "cpu", "a"), ("3", "simt", "b"), ("4", "auto", "c")] {
        let output = init(seed, device, out);
        assert!(output.status.success(), "{}", stderr(&output));
    }
    let weights = |folder: &str| std::fs::read(workplace.path(folder).join("model.safetensors")).unwrap();
    assert!(weights("a") == weights("b") && weights("a") != weights("c"));
    assert!(workplace.path("a/tokenizer.json").is_file() && workplace.path("a/config.json").is_file());
    let again = init("3", "cpu", "a");
    assert!(!again.status.success() && stderr(&again).contains("choose another --out"), "{}", stderr(&again));
}

#[test]
fn data_writes_tasks_and_demonstrations() {
    let workplace = Workplace::new();
    for (kind, wanted) in [("task", "solution"), ("look", "response"), ("pretrain", "response")] {
        let output = thyme()
            .args(["data", "needle", "--count", "2", "--seed", "9", "--split", "held_out", "--kind", kind, "--out"])
            .arg(workplace.path(kind))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        let lines = workplace.read(&format!("{kind}/data.jsonl"));
        assert_eq!(lines.lines().count(), 2);
        for line in lines.lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            assert!(line[wanted].is_string(), "{line}");
        }
    }
}

#[test]
fn doctor_reports_every_part() {
    let output = thyme().arg("doctor").output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    for part in ["cpu", "memory", "gpu", "kernels", "python", "sandbox"] {
        assert!(said.lines().any(|line| line.starts_with(part)), "{part} is missing in: {said}");
    }
}

// ---- helpers ----

/// A folder of a test's own.
struct Workplace {
    folder: TempDir,
}

impl Workplace {
    fn new() -> Workplace {
        Workplace { folder: tempfile::tempdir().unwrap() }
    }

    fn with_picture() -> Workplace {
        let workplace = Workplace::new();
        draw(150, 90, 0).save(workplace.path("picture.png")).unwrap();
        workplace
    }

    /// Some pictures of the built-in task in `needle/`.
    fn needle(&self, count: usize) {
        let mut data = thyme();
        data.args(["data", "needle", "--seed", "0", "--count", &count.to_string(), "--out"]).arg(self.path("needle"));
        assert!(data.output().unwrap().status.success());
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    /// Runs `score` or `batch` from in.jsonl to out.jsonl.
    fn bulk(&self, command: &str, model: &Path, flags: &[&str]) -> Output {
        let mut thyme = thyme();
        thyme.arg(command).arg("--model").arg(model).arg("--input").arg(self.path("in.jsonl"));
        thyme.arg("--output").arg(self.path("out.jsonl")).args(flags);
        thyme.args((command == "batch").then_some("--overwrite"));
        let output = thyme.output().unwrap();
        assert!(!stderr(&output).contains("panicked"), "{}", stderr(&output));
        output
    }

    fn answers(&self, command: &str, model: &Path, requests: &[Value], flags: &[&str]) -> Vec<Value> {
        self.write("in.jsonl", &requests.iter().map(|request| format!("{request}\n")).collect::<String>());
        let output = self.bulk(command, model, flags);
        assert!(output.status.success(), "{}", stderr(&output));
        self.read("out.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn score(&self, model: &Path, requests: &[Value]) -> Vec<Value> {
        self.answers("score", model, requests, &[])
    }

    fn batch(&self, model: &Path, requests: &[Value], flags: &[&str]) -> Vec<Value> {
        self.answers("batch", model, requests, flags)
    }
}

fn thyme() -> Command {
    Command::new(env!("CARGO_BIN_EXE_thyme-engine"))
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A checkpoint of the shipped tiny model with random weights.
fn tiny() -> &'static Path {
    static TINY: OnceLock<TempDir> = OnceLock::new();
    let made = TINY.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/tiny/config.json");
        let output = thyme()
            .args(["init", "--seed", "1", "--config"])
            .arg(config)
            .arg("--out")
            .arg(folder.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        folder
    });
    made.path()
}

/// The shipped checkpoint, which sometimes looks before it answers.
fn looker() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/tiny-sft")
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// The picture of `tests/golden/model/README.md`.
fn draw(width: u32, height: u32, image: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        Rgb([0, 1, 2].map(|c| ((7 * x + 13 * y + x * y + 61 * c + 29 * image) % 256) as u8))
    })
}

fn keys(object: &Value) -> Vec<&str> {
    object.as_object().unwrap().keys().map(String::as_str).collect()
}

fn list(object: &Value, key: &str) -> Vec<Value> {
    object[key].as_array().unwrap().clone()
}
