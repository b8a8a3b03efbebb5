//! Files that people bring from elsewhere: rows of other systems, encodings, addresses of pictures. Generators make many of each kind, the
//! same in every run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use image::RgbImage;
use serde_json::{Map, Value, json};
use thyme_engine::files::local_path;
use thyme_engine::prompt::ImageSource;
use thyme_engine::serve::request::images::ImagePolicy;
use thyme_engine::tasks::jsonl::{self, Record};

use crate::support::command::{Workplace, refuse, succeed};
use crate::support::server::init;
use crate::support::small_policy::Random;

/// What may stand in a row's texts.
const TEXTS: [&str; 9] = [
    "What is it?",
    "",
    "<image>\nRead it.",
    "{\"a\": 1}",
    "图片 é",
    "line\nline",
    "USER: hi",
    "7",
    "a \"quoted\" word",
];
/// Keys that rows have beside those of their form.
const OTHER_KEYS: [&str; 6] = ["id", "source", "dataset", "metadata", "split", "weight"];

fn text(random: &mut Random) -> Value {
    json!(random.pick(&TEXTS))
}

/// Exchanges of two roles, under the keys of a form.
fn exchanges(random: &mut Random, keys: [&str; 2], roles: [&str; 2]) -> Vec<Value> {
    let turns = 2 * (1 + random.below(3));
    (0..turns).map(|turn| json!({keys[0]: roles[turn % 2], keys[1]: text(random)})).collect()
}

fn user(random: &mut Random) -> Value {
    json!([{"role": "user", "content": text(random)}])
}

type MakeRow = fn(&mut Random) -> Value;

/// Forms of other systems: what an error must say of each, and a maker of rows.
const FORMS: [(&[&str], MakeRow); 18] = [
    (
        &["LLaVA", "`question`", "`response`"],
        |random| json!({"image": "a/b.jpg", "conversations": exchanges(random, ["from", "value"], ["human", "gpt"])}),
    ),
    (
        &["ShareGPT", "pictures", "`messages`"],
        |random| json!({"conversations": exchanges(random, ["from", "value"], ["user", "assistant"]), "images": ["b.png"], "system": text(random)}),
    ),
    (
        &["ShareGPT", "`question`"],
        |random| json!({"conversations": exchanges(random, ["from", "value"], ["human", "gpt"])}),
    ),
    (
        &["ShareGPT", "`role`", "`content`"],
        |random| json!({"messages": exchanges(random, ["from", "value"], ["human", "gpt"]), "images": []}),
    ),
    (
        &["ms-swift", "`query`", "`question`"],
        |random| json!({"query": text(random), "response": text(random), "images": ["a.png"], "history": [["a", "b"]]}),
    ),
    (&["ms-swift", "`messages`"], |random| json!({"query": text(random), "solution": "7"})),
    (&["TRL", "`completion`", "`response`"], |random| json!({"prompt": text(random), "completion": text(random)})),
    (
        &["TRL", "`messages`"],
        |random| json!({"prompt": user(random), "completion": [{"role": "assistant", "content": text(random)}], "label": true}),
    ),
    (
        &["TRL", "preferences", "`chosen`"],
        |random| json!({"prompt": text(random), "chosen": text(random), "rejected": text(random)}),
    ),
    (&["TRL", "preferences"], |random| json!({"chosen": user(random), "rejected": user(random)})),
    (&["TRL", "`prompt`", "`messages`", "`solution`"], |random| json!({"prompt": user(random), "solution": "7"})),
    (&["verl", "`reward_model.ground_truth`", "`solution`"], |random| {
        json!({"data_source": "geo3k", "prompt": user(random), "images": ["a.png"], "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": "7"}, "extra_info": {"split": "train", "index": random.below(9)}})
    }),
    (&["OpenAI", "`<image>`", "`images`"], |random| {
        json!({"messages": [{"role": "user", "content": [{"type": "text", "text": text(random)},
            {"type": "image_url", "image_url": {"url": "a.png"}}]}, {"role": "assistant", "content": text(random)}]})
    }),
    (
        &["Alpaca", "`instruction`"],
        |random| json!({"instruction": text(random), "input": text(random), "output": text(random)}),
    ),
    (
        &["EasyR1", "`problem`", "`solution`"],
        |random| json!({"problem": text(random), "answer": "7", "images": ["a.png"]}),
    ),
    (&["Gemini", "`contents`"], |random| json!({"contents": [{"role": "user", "parts": [{"text": text(random)}]}]})),
    (
        &["Cauldron", "`question`"],
        |random| json!({"texts": [{"user": text(random), "assistant": text(random), "source": "vqa"}], "images": ["a.png"]}),
    ),
    (
        &["questions and answers", "`solution`", "`response`"],
        |random| json!({"question": text(random), "answer": text(random), "image": "a.png"}),
    ),
];

/// A row with other keys around its own, in a random order.
fn disguise(random: &mut Random, row: Value) -> Value {
    let mut keys: Vec<(String, Value)> = row.as_object().unwrap().clone().into_iter().collect();
    for key in OTHER_KEYS {
        if random.one_in(3) {
            keys.push((key.to_owned(), text(random)));
        }
    }
    let mut mixed = Map::new();
    while !keys.is_empty() {
        let (key, value) = keys.swap_remove(random.below(keys.len()));
        mixed.insert(key, value);
    }
    Value::Object(mixed)
}

fn assert_says(message: &str, parts: &[&str], row: &Value) {
    for part in parts {
        assert!(message.contains(part), "{part:?} is not said of {row}: {message}");
    }
}

#[test]
fn a_data_row_of_another_system_is_told_its_form_and_the_remedy() {
    let (folder, mut random) = (tempfile::tempdir().unwrap(), Random::new(17));
    let path = folder.path().join("data.jsonl");
    for (parts, make) in (0..5).flat_map(|_| FORMS) {
        let row = make(&mut random);
        let row = disguise(&mut random, row);
        let before = random.below(3);
        let good = "{\"question\": \"a\", \"response\": \"b\"}\n\n".repeat(before);
        std::fs::write(&path, format!("{good}{row}\n")).unwrap();
        let message = jsonl::read(&path).unwrap_err().to_string();
        assert_says(&message, &[&format!("data.jsonl:{}: the row has the form of ", 2 * before + 1)], &row);
        assert_says(&message, parts, &row);
    }
}

#[test]
fn a_request_row_of_another_system_is_told_its_form_and_the_remedy() {
    let (place, mut random) = (Workplace::new(), Random::new(18));
    for (parts, make) in FORMS {
        let row = make(&mut random);
        let row = disguise(&mut random, row);
        if parts[0] == "OpenAI" {
            // Requests are of this form.
            continue;
        }
        place.write("in.jsonl", format!("{{\"id\": 0, \"token_ids\": [1]}}\n{row}\n"));
        assert_says(&refuse(bulk(&place, "score")), &["in.jsonl:2: the line has the form of ", parts[0]], &row);
    }
    for (row, parts) in [
        (
            json!({"messages": [{"role": "user", "content": "a"}], "images": [], "solution": "7"}),
            &["Thyme's tasks", "`id`"][..1],
        ),
        (json!({"image": ["a.png"], "question": "<image>", "response": "b"}), &["Thyme's demonstrations"]),
        (json!({"custom_id": "a", "url": "/v1/chat/completions", "body": {}}), &["OpenAI's batch file", "first line"]),
    ] {
        place.write("in.jsonl", format!("{{\"id\": 0, \"token_ids\": [1]}}\n{row}\n"));
        assert_says(&refuse(bulk(&place, "score")), parts, &row);
    }
}

/// `score` or `batch` on `in.jsonl`, with the model that [`init`] makes.
fn bulk(place: &Workplace, command: &str) -> Command {
    let mut process = Command::new(env!("CARGO_BIN_EXE_thyme-engine"));
    process.arg(command).arg("--model").arg(place.path("tiny")).arg("--input").arg(place.path("in.jsonl"));
    process.arg("--output").arg(place.path("out.jsonl"));
    process
}

fn replies(place: &Workplace) -> String {
    std::fs::read_to_string(place.path("out.jsonl")).unwrap()
}

/// A file in UTF-8 with byte order marks at some of its lines, the first among them, blank lines and line ends of either kind.
fn marked(random: &mut Random, rows: &[String]) -> String {
    let mut file = String::new();
    for (number, row) in rows.iter().enumerate() {
        let blanks = ["", "\n", "\r\n", "  \n"];
        let mark = if number == 0 || random.one_in(3) { "\u{feff}" } else { "" };
        file += &format!("{mark}{}{row}{}", random.pick(&blanks), random.pick(&["\n", "\r\n"]));
    }
    file
}

fn contents(records: Vec<Record>) -> Vec<(Vec<thyme_engine::tasks::Message>, Vec<PathBuf>)> {
    records.into_iter().map(|record| (record.messages, record.images)).collect()
}

#[test]
fn a_byte_order_mark_changes_nothing_in_any_reader() {
    let (place, mut random) = (Workplace::new(), Random::new(19));
    init(&place, "tiny", 0);
    for _ in 0..20 {
        let rows: Vec<String> = (0..1 + random.below(4))
            .map(|_| {
                json!({"image": [], "question": random.pick(&TEXTS).replace("<image>", ""), "response": "b"})
                    .to_string()
            })
            .collect();
        let plain = place.write("plain.jsonl", rows.join("\n"));
        let file = place.write("marked.jsonl", marked(&mut random, &rows));
        assert_eq!(contents(jsonl::read(&file).unwrap()), contents(jsonl::read(&plain).unwrap()));
    }
    let requests =
        [json!({"id": "a", "prompt": "One"}).to_string(), json!({"id": "b", "token_ids": [1, 2]}).to_string()];
    place.write("in.jsonl", requests.join("\n"));
    succeed(bulk(&place, "score"));
    let expected = replies(&place);
    place.write("in.jsonl", marked(&mut random, &requests));
    succeed(bulk(&place, "score"));
    assert_eq!(replies(&place), expected);
    let call = json!({"custom_id": "a", "url": "/v1/completions", "body": {"prompt": "One", "max_tokens": 2, "temperature": 0}});
    for lines in [requests, [call.to_string(), call.to_string().replace("\"a\"", "\"b\"")]] {
        place.write("in.jsonl", marked(&mut random, &lines));
        let mut command = bulk(&place, "batch");
        succeed(command_with(&mut command, &["--overwrite", "--max-tokens", "2"]));
        assert_eq!(replies(&place).lines().count(), 2);
        // A mark that an editor put before the replies is no reason to begin anew.
        place.write("out.jsonl", format!("\u{feff}{}", replies(&place)));
        let mut command = bulk(&place, "batch");
        assert!(succeed(command_with(&mut command, &["--resume", "--max-tokens", "2"])).contains("2 of 2"));
    }
}

fn command_with(command: &mut Command, flags: &[&str]) -> Command {
    command.args(flags);
    std::mem::replace(command, Command::new("true"))
}

#[test]
fn other_encodings_and_packed_files_are_named_with_the_remedy() {
    let place = Workplace::new();
    let row = "{\"id\": 1, \"question\": \"é\", \"response\": \"b\"}\n";
    let units = |big: bool| -> Vec<u8> {
        row.encode_utf16().flat_map(|unit| if big { unit.to_be_bytes() } else { unit.to_le_bytes() }).collect()
    };
    let with = |start: &[u8], rest: &[u8]| [start, rest].concat();
    let utf32: Vec<u8> = row.chars().flat_map(|letter| u32::from(letter).to_le_bytes()).collect();
    for (bytes, parts) in [
        (with(b"\xFF\xFE", &units(false)), &["UTF-16", "iconv -f UTF-16"][..]),
        (with(b"\xFE\xFF", &units(true)), &["UTF-16", "iconv -f UTF-16"]),
        (units(false), &["UTF-16", "UTF-16LE"]),
        (units(true), &["UTF-16", "UTF-16BE"]),
        (with(b"\xFF\xFE\0\0", &utf32), &["UTF-32"]),
        (utf32.clone(), &["UTF-32LE"]),
        (with(b"\x1F\x8B\x08", row.as_bytes()), &["gzip", "gunzip"]),
        (with(b"\x28\xB5\x2F\xFD", b"x"), &["zstd"]),
        (with(b"PAR1", b"x"), &["Parquet", "JSON lines"]),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n".to_vec(), &["git-lfs", "git lfs pull"]),
        (
            row.replace('é', "e").into_bytes().iter().map(|&b| if b == b'b' { 0xE9 } else { b }).collect(),
            &["UTF-8", "LATIN1"],
        ),
        (format!("[{}]", row.trim()).into_bytes(), &["one object", "jq -c '.[]'"]),
        (b"{\n  \"id\": 1\n}\n".to_vec(), &["one line", "jq -c ."]),
        (b"{'id': 1, 'question': 'a'}\n".to_vec(), &["double quotes", "json.dumps"]),
    ] {
        let file = place.write("in.jsonl", &bytes);
        let shown = json!(String::from_utf8_lossy(&bytes));
        let message = jsonl::read(&file).unwrap_err().to_string();
        assert_says(&message, &["in.jsonl"], &shown);
        assert_says(&message, parts, &shown);
        for command in ["score", "batch"] {
            assert_says(&refuse(bulk(&place, command)), parts, &shown);
        }
    }
}

/// Names of files, with what URLs must escape and what they need not.
fn names(random: &mut Random, count: usize) -> Vec<String> {
    let letters = [
        "a",
        "B",
        "7",
        " ",
        "%",
        "#",
        "?",
        "&",
        "+",
        "é",
        "图",
        "'",
        "(",
        "=",
        ";",
        "@",
        "%20",
        "~",
        "[",
        "\\",
        "👍",
        "localhost",
    ];
    let name = |random: &mut Random, number| -> String {
        let middle: String = (0..1 + random.below(8)).map(|_| random.pick(&letters)).collect();
        format!("{number}{middle}.png")
    };
    (0..count).map(|number| name(random, number)).collect()
}

/// A `file:` URL of a path: what must be escaped is, and by chance more.
fn url(random: &mut Random, path: &Path) -> String {
    let scheme = random.pick(&["file://", "FILE://", "file://localhost", "File://LOCALHOST", "file:"]);
    let mut escaped = String::from(scheme);
    for byte in path.to_str().unwrap().bytes() {
        let may_stand = byte.is_ascii_alphanumeric() || b"/._-~#?&+'(=;@[\\".contains(&byte);
        match () {
            () if may_stand && (byte == b'/' || !random.one_in(4)) => escaped.push(char::from(byte)),
            () if random.one_in(2) => escaped += &format!("%{byte:02x}"),
            () => escaped += &format!("%{byte:02X}"),
        }
    }
    escaped
}

#[test]
fn file_urls_mean_the_paths_that_python_reads_in_them() {
    let golden = include_str!("../golden/prompt/file_urls.json");
    let golden: Value = serde_json::from_str(golden).unwrap();
    for case in golden["cases"].as_array().unwrap() {
        let (url, path) = (case[0].as_str().unwrap(), case[1].as_str().unwrap());
        assert_eq!(local_path(url).to_string_lossy(), path, "{url}");
    }
    for (address, path) in [
        ("a%20b.png", "a%20b.png"),
        ("/a%20b.png", "/a%20b.png"),
        ("file://a%20b/c.png", "a b/c.png"),
        ("file:a.png", "file:a.png"),
        ("file:////a", "//a"),
        ("file://localhostess/a", "localhostess/a"),
        ("filed:///a", "filed:///a"),
    ] {
        assert_eq!(local_path(address), Path::new(path), "{address}");
    }
}

#[test]
fn every_reader_finds_the_picture_of_a_file_url() {
    let (place, mut random) = (Workplace::new(), Random::new(20));
    init(&place, "tiny", 0);
    let folder = place.path("some pictures%20é");
    std::fs::create_dir(&folder).unwrap();
    let policy = ImagePolicy::new(Some(&folder), &[], false).unwrap();
    let mut by_url = BTreeMap::new();
    for (side, name) in (28..).zip(names(&mut random, 60)) {
        let path = folder.join(&name);
        RgbImage::new(side, 30).save(&path).unwrap();
        by_url.insert(url(&mut random, &path), side);
    }
    let width = |source: &ImageSource| source.load(Path::new("/")).unwrap().width();
    let mut lines = String::new();
    for (number, (url, &side)) in by_url.iter().enumerate() {
        assert_eq!(width(&ImageSource::parse(url).unwrap()), side, "{url}");
        assert_eq!(width(&policy.source(url.clone(), "messages").unwrap()), side, "{url}");
        let row = json!({"image": url, "question": "<image>", "response": "b"});
        let file = place.write("data.jsonl", row.to_string());
        let record = jsonl::read(&file).unwrap().remove(0);
        assert_eq!(image::open(&record.images[0]).unwrap().width(), side, "{url}");
        let part = json!({"type": "image_url", "image_url": {"url": url}});
        let part = if number % 2 == 0 { json!({"type": "image", "image": url}) } else { part };
        lines += &format!("{}\n", json!({"id": number, "messages": [{"role": "user", "content": [part]}]}));
    }
    place.write("in.jsonl", lines);
    succeed(bulk(&place, "score"));
    assert_eq!(replies(&place).lines().count(), 60);
}

#[test]
fn an_escaped_path_leads_no_server_out_of_its_folder() {
    let place = Workplace::new();
    place.write("secret.png", "x");
    std::fs::create_dir(place.path("open")).unwrap();
    let policy = ImagePolicy::new(Some(&place.path("open")), &[], false).unwrap();
    for up in ["..", "%2e%2e", "%2E.", ".%2e"] {
        let url = format!("file://localhost{}/{up}/secret.png", place.path("open").display());
        assert!(policy.source(url.clone(), "messages").is_err(), "{url}");
        assert!(policy.source(url.replace("/secret", "%2Fsecret"), "messages").is_err(), "{url}");
    }
    assert!(policy.source("file:///a%00b.png".to_owned(), "messages").is_err());
}

#[test]
fn pictures_elsewhere_and_embedded_ones_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data.jsonl");
    for (picture, part) in [
        (json!("https://a/b.png"), "on the network"),
        (json!("HTTP://a/b.png"), "on the network"),
        (json!("s3://bucket/b.png"), "on the network"),
        (json!("gs://bucket/b.png"), "on the network"),
        (json!("oss://bucket/b.png"), "on the network"),
        (json!("data:image/png;base64,AAAA"), "embedded"),
        (json!({"bytes": "AAAA", "path": null}), "Hugging Face"),
        (json!({"url": "a.png"}), "found an object"),
    ] {
        let row = json!({"image": [picture], "question": "<image>", "response": "b"});
        std::fs::write(&path, row.to_string()).unwrap();
        let message = jsonl::read(&path).unwrap_err().to_string();
        assert_says(&message, &["data.jsonl:1: key `image`", part], &row);
    }
}

#[test]
fn a_key_whose_contents_would_be_lost_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data.jsonl");
    let read = |row: &Value| {
        std::fs::write(&path, row.to_string()).unwrap();
        jsonl::read(&path)
    };
    let chat = json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "id": 3});
    let pair = json!({"question": "a", "response": "b", "source": "x"});
    let mut keys = vec!["video", "videos", "audios", "objects", "history", "rejected_response", "rejected"];
    for row in [&chat, &pair] {
        assert!(read(row).is_ok(), "{row}");
        for key in &keys {
            let mut row = row.clone();
            row[*key] = json!([]);
            assert!(read(&row).is_ok(), "an empty {key} loses nothing");
            row[*key] = json!(["x"]);
            let message = read(&row).unwrap_err().to_string();
            assert_says(&message, &[&format!("data.jsonl:1: key `{key}`: it would be left unread; ")], &row);
        }
        keys.push("chosen");
        let mut row = row.clone();
        row["tools"] = json!([{"type": "function", "function": {"name": "crop"}}]);
        assert_eq!(read(&row).unwrap()[0].tools, Some(row["tools"].clone()), "the chat template describes them");
    }
    let task = json!({"messages": [{"role": "user", "content": "a"}], "solution": "b", "tools": ["x"]});
    assert_says(&read(&task).unwrap_err().to_string(), &["key `tools`: it would be left unread; "], &task);
    for (mark, value) in
        [("label", json!(false)), ("weight", json!(0)), ("loss", json!(false)), ("reasoning_content", json!("x"))]
    {
        let (mut row, mut of_turn) = (chat.clone(), chat.clone());
        row[mark] = value.clone();
        of_turn["messages"][1][mark] = value;
        for row in [row, of_turn] {
            assert_says(
                &read(&row).unwrap_err().to_string(),
                &[&format!("key `{mark}`: it would be left unread; ")],
                &row,
            );
        }
    }
    let mut learned = chat.clone();
    learned["messages"][1]["weight"] = json!(1);
    assert!(read(&learned).is_ok(), "a turn that is learned anyway");
    let mut row = chat.clone();
    row["system"] = json!("Be brief.");
    assert_says(&read(&row).unwrap_err().to_string(), &["key `system`", "the first of them"], &row);
    for (mut row, key, other) in [(chat, "image", "`images`"), (pair, "images", "`image`")] {
        row[key] = json!(["a.png"]);
        assert_says(
            &read(&row).unwrap_err().to_string(),
            &[&format!("key `{key}`: this row's form calls it {other}")],
            &row,
        );
    }
    let row = json!({"foo": 1, "bar": 2});
    assert_says(
        &read(&row).unwrap_err().to_string(),
        &["key `question`: it is missing; the row has `foo`, `bar`; "],
        &row,
    );
}
