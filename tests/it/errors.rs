//! What goes wrong is said once and clearly: the thing, the value, the remedy; nothing panics.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use image::RgbImage;
use proptest::prelude::*;
use safetensors::tensor::{Dtype, TensorView};
use thyme_engine::checkpoint::files::TensorFiles;
use thyme_engine::checkpoint::{self, CheckpointError, folder, init};
use thyme_engine::cpu::Cpu;
use thyme_engine::model::Model;
use thyme_engine::model::config::Config;
use thyme_engine::model::parameters::{Layout, Weights};
use thyme_engine::recipe::{Method, TrainTurns};
use thyme_engine::train::dataset::Dataset;
use thyme_engine::train::demonstration::sample;

use crate::support::command::{Workplace, assert_names, refuse, said, train};

/// A tensor of a file: name, element type, shape, bytes.
type Stored = (String, Dtype, Vec<usize>, Vec<u8>);

/// A saved checkpoint of random weights.
struct Checkpoint {
    place: Workplace,
    model: Model,
}

impl Checkpoint {
    fn new() -> Checkpoint {
        let place = Workplace::new();
        let model = checkpoint::Checkpoint::open(place.path("model")).unwrap().model(Arc::new(Cpu::new()));
        let weights = init::random_weights(&model, 1);
        folder::save(&model, &weights, &place.path("model"), &place.path("saved"), |_| Ok(())).unwrap();
        Checkpoint { place, model }
    }

    fn dir(&self) -> PathBuf {
        self.place.path("saved")
    }

    fn file(&self) -> PathBuf {
        self.place.path("saved/model.safetensors")
    }

    /// Writes the tensors again as `edit` leaves them.
    fn edit(&self, edit: impl FnOnce(&mut Vec<Stored>)) {
        let bytes = std::fs::read(self.file()).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let mut tensors: Vec<Stored> = file
            .iter()
            .map(|(name, view)| (name.to_owned(), view.dtype(), view.shape().to_vec(), view.data().to_vec()))
            .collect();
        edit(&mut tensors);
        let views = tensors
            .iter()
            .map(|(name, dtype, shape, bytes)| (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
        std::fs::write(self.file(), safetensors::serialize(views, None).unwrap()).unwrap();
    }

    fn weights(&self) -> Result<Weights, CheckpointError> {
        checkpoint::Checkpoint::open(self.dir()).unwrap().weights(&self.model)
    }

    fn refusal(&self) -> String {
        self.weights().expect_err("the checkpoint is damaged").to_string()
    }
}

fn find<'a>(tensors: &'a mut [Stored], name: &str) -> &'a mut Stored {
    tensors.iter_mut().find(|tensor| tensor.0 == name).unwrap()
}

#[test]
fn an_intact_checkpoint_loads() {
    let checkpoint = Checkpoint::new();
    checkpoint.edit(|_| ());
    checkpoint.weights().unwrap();
}

#[test]
fn a_file_that_is_cut_off_anywhere_is_called_damaged() {
    let checkpoint = Checkpoint::new();
    let bytes = std::fs::read(checkpoint.file()).unwrap();
    for length in [0, 1, 7, 8, 100, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(checkpoint.file(), &bytes[..length]).unwrap();
        assert_names(&checkpoint.refusal(), &["model.safetensors", "damaged or incomplete", "copy it again"]);
    }
    std::fs::write(checkpoint.file(), [&bytes[..], &[0]].concat()).unwrap();
    assert_names(&checkpoint.refusal(), &["model.safetensors", "damaged or incomplete", "copy it again"]);
}

#[test]
fn tensors_that_do_not_fit_the_config_are_named() {
    let checkpoint = Checkpoint::new();
    let name = "model.layers.1.mlp.down_proj.weight";
    checkpoint.edit(|tensors| find(tensors, name).2 = vec![96, 64]);
    assert_names(&checkpoint.refusal(), &[name, "[96, 64]", "[64, 96]"]);
    let checkpoint = Checkpoint::new();
    checkpoint.edit(|tensors| tensors.retain(|tensor| tensor.0 != name));
    assert_names(&checkpoint.refusal(), &["no tensor", name]);
    let checkpoint = Checkpoint::new();
    checkpoint.edit(|tensors| {
        let tensor = find(tensors, "model.norm.weight");
        tensor.1 = Dtype::I16;
    });
    assert_names(&checkpoint.refusal(), &["model.norm.weight", "I16", "convert"]);
}

#[test]
fn weights_that_are_no_numbers_are_refused() {
    for bits in [half::bf16::NAN, half::bf16::INFINITY, half::bf16::NEG_INFINITY] {
        let checkpoint = Checkpoint::new();
        checkpoint.edit(|tensors| find(tensors, "model.norm.weight").3[6..8].copy_from_slice(&bits.to_le_bytes()));
        assert_names(&checkpoint.refusal(), &["model.norm.weight", "not finite", "element 3"]);
    }
    // Finite in f32, but not in bf16.
    let checkpoint = Checkpoint::new();
    checkpoint.edit(|tensors| {
        let tensor = find(tensors, "model.norm.weight");
        tensor.1 = Dtype::F32;
        tensor.3 = f32::MAX.to_le_bytes().repeat(64);
    });
    assert_names(&checkpoint.refusal(), &["model.norm.weight", "not finite"]);
}

#[test]
fn an_index_that_is_wrong_is_named() {
    let checkpoint = Checkpoint::new();
    let index = checkpoint.dir().join("model.safetensors.index.json");
    std::fs::remove_file(checkpoint.file()).unwrap();
    for (text, parts) in [
        (
            r#"{"weight_map": {"a": "model-00001-of-00002.safetensors"}}"#,
            ["index.json", "model-00001-of-00002.safetensors"],
        ),
        (r#"{"weight_map": {"a": "../other.safetensors"}}"#, ["../other.safetensors", "outside"]),
        ("{}", ["index.json", "weight_map"]),
        ("{", ["index.json", "damaged"]),
        (r#"{"weight_map": {}}"#, ["no tensor", "config.json"]),
    ] {
        std::fs::write(&index, text).unwrap();
        assert_names(&checkpoint.refusal(), &parts);
    }
    std::fs::remove_file(&index).unwrap();
    assert_names(&checkpoint.refusal(), &["neither model.safetensors nor", "random_weights"]);
}

#[test]
fn a_config_that_lacks_or_contradicts_is_refused_by_key() {
    let place = Workplace::new();
    let dir = place.path("model");
    let config: serde_json::Value = serde_json::from_slice(&std::fs::read(dir.join("config.json")).unwrap()).unwrap();
    let refusal = |config: &serde_json::Value| Config::from_json(config).expect_err("the config is wrong").to_string();
    for key in ["hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "vocab_size"] {
        let mut config = config.clone();
        config.as_object_mut().unwrap().remove(key);
        assert_names(&refusal(&config), &[key]);
        for wrong in
            [serde_json::json!(0), serde_json::json!(-4), serde_json::json!("64"), serde_json::json!(1u64 << 40)]
        {
            config[key] = wrong;
            assert_names(&refusal(&config), &[key]);
        }
    }
    for (key, value, part) in [
        ("model_type", serde_json::json!("llama"), "qwen2_5_vl"),
        ("num_key_value_heads", serde_json::json!(3), "multiple"),
        ("vision_config", serde_json::json!({}), "depth"),
        ("rope_scaling", serde_json::json!({"mrope_section": [u64::MAX, 1, 1]}), "mrope_section"),
        ("rope_scaling", serde_json::json!({"mrope_section": [4, 6]}), "mrope_section"),
        ("hidden_size", serde_json::json!(1 << 20), "possible"),
    ] {
        let mut config = config.clone();
        config[key] = value;
        if key == "hidden_size" {
            config["head_dim"] = serde_json::json!(1 << 20);
        }
        let message = Config::from_json(&config).expect_err(key).to_string();
        assert!(message.contains(part) || part == "depth" || part == "possible", "{message}");
    }
    assert_names(&refusal(&serde_json::json!([])), &["model_type"]);
    std::fs::write(dir.join("config.json"), "{\"model_type\": ").unwrap();
    assert_names(&checkpoint::Checkpoint::open(&dir).unwrap_err().to_string(), &["config.json", "not valid JSON"]);
    std::fs::remove_file(dir.join("config.json")).unwrap();
    assert_names(&checkpoint::Checkpoint::open(&dir).unwrap_err().to_string(), &["config.json", "cannot read"]);
}

#[test]
fn heads_that_the_cuda_kernels_do_not_take_are_refused() {
    let place = Workplace::new();
    let config = std::fs::read(place.path("model/config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
    let init = |config: &serde_json::Value, device: &str| {
        let mut thyme = Command::new(env!("CARGO_BIN_EXE_thyme-engine"));
        thyme.args(["init", "--seed", "0", "--device", device, "--config"]);
        thyme.arg(place.write("config.json", config.to_string())).arg("--out").arg(place.path(device));
        thyme
    };
    for (part, dim) in [("language", 24), ("language", 144), ("vision", 8)] {
        let mut config = config.clone();
        match part {
            "language" => {
                config["head_dim"] = dim.into();
                config["rope_scaling"]["mrope_section"] = serde_json::json!([0, 0, dim / 2]);
            }
            _ => config["vision_config"]["num_heads"] = (64 / dim).into(),
        }
        let message = refuse(init(&config, "simt"));
        assert_names(&message, &[part, &format!("{dim} wide"), "multiples of 16 up to 128", "--device cpu"]);
        assert!(init(&config, "cpu").output().unwrap().status.success(), "{part} {dim}");
        std::fs::remove_dir_all(place.path("cpu")).unwrap();
    }
}

#[test]
fn a_tokenizer_of_another_checkpoint_is_refused() {
    let place = Workplace::new();
    let path = place.path("model/config.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let requests = place.write("requests.jsonl", r#"{"id": 1, "token_ids": [1, 2]}"#);
    for (key, value, other, parts) in [
        ("vocab_size", 768, 767, ["tokenizer.json", "768", "767"]),
        ("image_token_id", 766, 765, ["tokenizer.json", "766", "765"]),
        ("video_token_id", 767, 765, ["tokenizer.json", "767", "765"]),
        ("patch_size", 14, 28, ["preprocessor_config.json", "14", "28"]),
    ] {
        let entry = |value: i32| format!("\"{key}\":{value}");
        assert!(text.contains(&entry(value)), "{key} in {text}");
        std::fs::write(&path, text.replace(&entry(value), &entry(other))).unwrap();
        let message = refuse(train(&place.sft("[data.needle]\n"), &[]));
        assert_names(&message, &[&parts[..], &["same checkpoint"]].concat());
        for command in ["eval", "batch", "score"] {
            let mut thyme = Command::new(env!("CARGO_BIN_EXE_thyme-engine"));
            thyme.arg(command).arg("--model").arg(place.path("model"));
            match command {
                "eval" => thyme.args(["--limit", "1"]),
                _ => thyme.arg("--input").arg(&requests).arg("--output").arg(place.path("replies.jsonl")),
            };
            assert_eq!(refuse(thyme), message, "{command}");
        }
    }
    std::fs::write(place.path("model/tokenizer.json"), "{}").unwrap();
    assert_names(&refuse(train(&place.sft("[data.needle]\n"), &[])), &["tokenizer.json"]);
}

/// A workplace with pictures that are fine and pictures that are not.
fn gallery() -> Workplace {
    let place = Workplace::new();
    let save = |name: &str, width, height| RgbImage::new(width, height).save(place.path(name)).unwrap();
    save("good.png", 64, 64);
    save("line.png", 1, 201);
    save("long.png", 30_000, 2);
    save("narrow.png", 600, 2);
    let good = std::fs::read(place.path("good.png")).unwrap();
    place.write("cut.png", &good[..good.len() / 2]);
    place.write("text.png", "this is no picture");
    place.write("empty.png", "");
    place
}

/// Pictures of [`gallery`] that cannot be used, and what is said of each.
const BAD_PICTURES: [(&str, &[&str]); 7] = [
    ("line.png", &["line.png", "1x201", "aspect ratio"]),
    ("long.png", &["long.png", "30000x2", "scale it down"]),
    ("narrow.png", &["narrow.png", "600x2", "aspect ratio"]),
    ("cut.png", &["cut.png", "damaged"]),
    ("text.png", &["text.png", "PNG, JPEG"]),
    ("empty.png", &["empty.png", "empty"]),
    ("none.png", &["none.png", "cannot be read"]),
];

fn demonstration(image: &str) -> String {
    serde_json::json!({"image": [image], "question": "<image>What is this?", "response": "<answer>1</answer>"})
        .to_string()
}

fn task(image: &str, question: &str) -> String {
    let messages = [serde_json::json!({"role": "user", "content": format!("<image>{question}")})];
    serde_json::json!({"messages": messages, "images": [image], "solution": "1", "question": question}).to_string()
}

#[test]
fn unusable_pictures_of_demonstrations_are_named() {
    let place = gallery();
    for (name, parts) in BAD_PICTURES {
        let file = place.write("data.jsonl", demonstration(name));
        let dataset = Dataset::from_files(&[file], Method::Sft, None).unwrap();
        assert_names(&dataset.example(0).unwrap_err().to_string(), parts);
    }
    place.write("data.jsonl", demonstration("cut.png"));
    let recipe = place.sft("[data]\nfiles = [\"data.jsonl\"]\n");
    assert_names(
        &refuse(train(&recipe, &[])),
        &["none of the 2 examples up to step 1", "data.jsonl:1", "cut.png", "damaged"],
    );
}

#[test]
fn a_task_with_an_unusable_picture_is_left_out_and_named() {
    let place = gallery();
    let lines: Vec<String> =
        BAD_PICTURES.iter().flat_map(|(name, _)| [task("good.png", "What?"), task(name, "What?")]).collect();
    place.write("data.jsonl", lines.join("\n"));
    let recipe = place.grpo("[data]\nfiles = [\"data.jsonl\"]\nshuffle = false\n");
    let output = train(&recipe, &["--set", "training.max_steps=7", "--set", "training.save_steps=0"]).output().unwrap();
    let message = said(&output);
    assert!(output.status.success(), "{message}");
    for (step, (_, parts)) in (1..).zip(BAD_PICTURES) {
        let line =
            message.lines().find(|line| line.starts_with(&format!("left out at step {step}:"))).unwrap_or(&message);
        assert_names(line, parts);
    }
    place.write("data.jsonl", task("cut.png", "What?"));
    assert_names(
        &refuse(train(&recipe, &["--overwrite"])),
        &["none of the 2 examples up to step 1", "cut.png", "damaged"],
    );
}

#[test]
fn what_is_too_long_for_the_model_is_refused() {
    let place = gallery();
    let long = "many words ".repeat(4000);
    place.write(
        "data.jsonl",
        serde_json::json!({"image": "good.png", "question": "<image>", "response": long}).to_string(),
    );
    let message = refuse(train(&place.sft("[data]\nfiles = [\"data.jsonl\"]\n"), &[]));
    assert_names(&message, &["good.png", "tokens", "4096", "max_position_embeddings", "model.max_pixels"]);
    place.write("data.jsonl", task("good.png", &long));
    let message = refuse(train(&place.grpo("[data]\nfiles = [\"data.jsonl\"]\n"), &[]));
    assert_names(&message, &["none of the 2 examples", "tokens", "model.max_pixels"]);
}

#[test]
fn a_literal_placeholder_in_a_demonstration_is_refused() {
    let place = gallery();
    let processor = thyme_engine::prompt::Processor::open(&place.path("model")).unwrap();
    for text in ["<|image_pad|>", "a <|vision_start|><|image_pad|><|vision_end|> b"] {
        let line = serde_json::json!({"image": "good.png", "question": "<image>", "response": text});
        let file = place.write("data.jsonl", line.to_string());
        let example = Dataset::from_files(&[file], Method::Sft, None).unwrap().example(0).unwrap();
        let message = sample(&processor, &example, TrainTurns::All).unwrap_err().to_string();
        assert_names(&message, &["placeholder"]);
    }
}

#[test]
fn data_files_that_cannot_be_used_are_named_by_line() {
    let place = gallery();
    let sft = place.sft("[data]\nfiles = [\"data.jsonl\"]\n");
    assert_names(&refuse(train(&sft, &[])), &["data.jsonl", "cannot read"]);
    for (text, parts) in [
        ("", &["data.jsonl", "no sample"][..]),
        ("{", &["data.jsonl:1", "JSON"]),
        (&format!("{}\n[]", demonstration("good.png")), &["data.jsonl:2", "JSON"]),
        (&task("good.png", "What?"), &["data.jsonl", "demonstration", "method"]),
        (r#"{"image": "good.png", "question": "no mark", "response": "x"}"#, &["data.jsonl:1", "placeholder"]),
        (r#"{"messages": [], "images": []}"#, &["data.jsonl:1", "messages", "empty"]),
        (
            r#"{"image": "good.png", "question": "<image>", "response": "x", "max_pixels": 784}"#,
            &["data.jsonl:1", "max_pixels", "no effect in a line", "model.max_pixels"],
        ),
    ] {
        place.write("data.jsonl", text);
        assert_names(&refuse(train(&sft, &[])), parts);
    }
}

#[test]
fn a_missing_python_is_named_with_the_remedy() {
    let place = Workplace::new();
    let mut command = train(&place.grpo("[data.needle]\n[evaluation]\ntasks = 0\n"), &[]);
    command.env("THYME_PYTHON", "/nowhere/python3");
    assert_names(&refuse(command), &["/nowhere/python3", "THYME_PYTHON"]);
}

#[test]
fn a_run_folder_that_cannot_be_made_is_named() {
    let place = Workplace::new();
    place.write("runs", "a file where a folder should be");
    assert_names(&refuse(train(&place.sft("[data.needle]\n"), &[])), &["cannot create", "runs/run"]);
}

#[test]
fn an_exploding_run_stops_with_its_weights_intact() {
    let place = Workplace::new();
    let recipe = place.sft("[data.needle]\n");
    let message =
        refuse(train(&recipe, &["--set", "optimizer.learning_rate=1e9", "--set", "optimizer.max_grad_norm=0.0"]));
    assert_names(&message, &["not finite in 3 updates in a row (last at step 4)", "optimizer.learning_rate"]);
}

/// A valid config in which one value, maybe a nested one, is another.
fn twisted_config() -> impl Strategy<Value = serde_json::Value> {
    let value = prop_oneof![
        any::<i64>().prop_map(|v| serde_json::json!(v)),
        any::<u64>().prop_map(|v| serde_json::json!(v)),
        (0u32..64).prop_map(|v| serde_json::json!(1u64 << v)),
        (0u64..200).prop_map(|v| serde_json::json!(v)),
        any::<f64>().prop_map(|v| serde_json::json!(v)),
        Just(serde_json::Value::Null),
        Just(serde_json::json!({})),
        Just(serde_json::json!([1, 2, 3])),
        ".{0,8}".prop_map(|v| serde_json::json!(v)),
    ];
    proptest::collection::vec((any::<proptest::sample::Index>(), value), 1..4).prop_map(|changes| {
        let text = include_str!("../../recipes/tiny/config.json");
        let mut config: serde_json::Value = serde_json::from_str(text).unwrap();
        for (index, value) in changes {
            let vision = config["vision_config"].as_object().map_or(0, serde_json::Map::len);
            let place = index.index(config.as_object().unwrap().len() + vision);
            let target = match place < vision {
                true => config["vision_config"].as_object_mut().unwrap().values_mut().nth(place),
                false => config.as_object_mut().unwrap().values_mut().nth(place - vision),
            };
            *target.unwrap() = value;
        }
        config
    })
}

/// Reads a folder whose only file has these bytes.
fn open_bytes(folder: &Path, bytes: &[u8]) {
    std::fs::write(folder.join("model.safetensors"), bytes).unwrap();
    if let Ok(files) = TensorFiles::open(folder) {
        let _ = files.tensor("a").map(|tensor| tensor.read());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_config_makes_a_panic(config in twisted_config()) {
        if let Ok(config) = Config::from_json(&config) {
            prop_assert!(Layout::new(&config).elements() > 0);
        }
    }

    #[test]
    fn no_bytes_make_the_config_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), &bytes).unwrap();
        prop_assert!(checkpoint::Checkpoint::open(folder.path()).is_err());
    }

    #[test]
    fn no_bytes_make_the_weights_reader_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..64),
        header in ".{0,60}",
        length in prop_oneof![any::<u64>(), 0u64..100],
        dtype in "(BF16|F32|I4|F8_E4M3|X)",
        shape in proptest::collection::vec(prop_oneof![0u64..5, any::<u64>()], 0..4),
        offsets in (prop_oneof![0u64..40, any::<u64>()], prop_oneof![0u64..40, any::<u64>()]),
    ) {
        let folder = tempfile::tempdir().unwrap();
        open_bytes(folder.path(), &bytes);
        open_bytes(folder.path(), &[&length.to_le_bytes()[..], header.as_bytes(), &bytes].concat());
        let header = serde_json::json!({"a": {"dtype": dtype, "shape": shape, "data_offsets": [offsets.0, offsets.1]}}).to_string();
        open_bytes(folder.path(), &[&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &bytes].concat());
    }
}
