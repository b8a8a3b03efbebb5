//! What a checkpoint's files say is not believed: headers that lie, files that change while they are read, configs of impossible numbers,
//! optimizer state that no optimizer keeps.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::{Value, json};
use thyme_engine::checkpoint::files::TensorFiles;
use thyme_engine::checkpoint::weights::{self, ReloadError};
use thyme_engine::checkpoint::{Checkpoint, CheckpointError, folder, init};
use thyme_engine::cpu::Cpu;
use thyme_engine::model::Model;
use thyme_engine::model::config::Config;
use thyme_engine::ops::HostMut;

use crate::support::command::{Workplace, refuse, succeed, train};

/// A file of safetensors with this header.
fn with_header(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; data]].concat()
}

#[test]
fn a_header_that_lies_is_refused_with_the_tensor_that_it_lies_about() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let tensor = |shape: &str, from: &str, to: &str| {
        format!("{{\"dtype\":\"F32\",\"shape\":{shape},\"data_offsets\":[{from},{to}]}}")
    };
    let two = |a: String, b: String| format!("{{\"a\":{a},\"b\":{b}}}");
    let max = u64::MAX.to_string();
    let many: Vec<String> = (0..200_000).map(|i| format!("\"t{i}\":{}", tensor("[0]", "0", "0"))).collect();
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (Vec::new(), "has 0 bytes"),
        (vec![1; 7], "has 7 bytes"),
        (u64::MAX.to_le_bytes().to_vec(), "would take 18446744073709551615 bytes"),
        ([&(1u64 << 40).to_le_bytes()[..], b"{}"].concat(), "would take 1099511627776 bytes"),
        ([&3u64.to_le_bytes()[..], b"{}"].concat(), "would take 3 bytes"),
        (with_header("[]", 0), "its header is wrong"),
        (with_header(&"[".repeat(100_000), 0), "its header is wrong"),
        (with_header("{\"a\":\u{0}}", 0), "its header is wrong"),
        (with_header(&format!("{{\"a\":{}}}", tensor("[1]", "0", "5")), 5), "tensor `a`"),
        (with_header(&format!("{{\"a\":{}}}", tensor("[1]", "4", "0")), 4), "tensor `a`"),
        (with_header(&format!("{{\"a\":{}}}", tensor("[1]", "4", "8")), 8), "tensor `a` begins at byte 4"),
        (with_header(&format!("{{\"a\":{}}}", tensor("[1]", "-4", "0")), 4), "its header is wrong"),
        (with_header(&format!("{{\"a\":{}}}", tensor("[1]", "0", &max)), 4), "tensor `a`"),
        (with_header(&format!("{{\"a\":{}}}", tensor("[4294967296,4294967296,2]", "0", "0")), 0), "tensor `a`"),
        (
            with_header(&format!("{{\"a\":{}}}", tensor("[2305843009213693952]", "0", "9223372036854775808")), 0),
            "tensor `a`",
        ),
        (with_header(&two(tensor("[2]", "0", "8"), tensor("[2]", "4", "12")), 12), "tensor `b` begins at byte 4"),
        (with_header(&two(tensor("[1]", "0", "4"), tensor("[1]", "8", "12")), 12), "tensor `b` begins at byte 8"),
        (with_header(&two(tensor("[1]", "0", "4"), tensor("[1]", "4", "8")), 4), "its header says"),
        (with_header(&two(tensor("[1]", "0", "4"), tensor("[1]", "4", "8")), 9), "its header says"),
        (
            with_header(&format!("{{\"a\":{},\"a\":{}}}", tensor("[1]", "0", "4"), tensor("[1]", "0", "4")), 4),
            "two tensors `a`",
        ),
        (
            with_header(&format!("{{{},\"x\":{}}}", many.join(","), tensor("[1]", "1", "5")), 5),
            "tensor `x` begins at byte 1",
        ),
    ];
    for (bytes, reason) in cases {
        std::fs::write(&path, &bytes).unwrap();
        let error = TensorFiles::open(folder.path()).unwrap_err().to_string();
        let shown: String = error.chars().take(400).collect();
        assert!(error.contains("model.safetensors is damaged") && error.contains(reason), "{reason}: {shown}");
        assert!(error.len() < 1000, "{reason}: {} bytes", error.len());
    }
    std::fs::remove_file(&path).unwrap();
    for (map, reason) in [
        (json!({"a": "../other.safetensors"}), "points outside the folder"),
        (json!({"a": "/etc/passwd"}), "points outside the folder"),
        (json!({"a": ".."}), "points outside the folder"),
        (json!({"a": ""}), "points outside the folder"),
        (json!({"a": 5}), "no file's name"),
        (json!({"a": "missing.safetensors"}), "which is not in the folder"),
        (
            json!(
                (0..1001)
                    .map(|i| (i.to_string(), json!(format!("{i}.safetensors"))))
                    .collect::<serde_json::Map<_, _>>()
            ),
            "names 1001 files",
        ),
        (json!([]), "no `weight_map`"),
    ] {
        let index = json!({"weight_map": map});
        std::fs::write(folder.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
        let error = TensorFiles::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("index.json") && error.contains(reason), "{reason}: {error}");
    }
}

/// A model with random weights, and two folders with weights of its form.
fn model() -> (Workplace, Model, [PathBuf; 2]) {
    let place = Workplace::new();
    let model = Checkpoint::open(place.path("model")).unwrap().model(Arc::new(Cpu::new()));
    let folders = [1, 2].map(|seed| {
        let dir = place.path(&format!("saved-{seed}"));
        folder::save(&model, &init::random_weights(&model, seed), &place.path("model"), &dir, |_| Ok(())).unwrap();
        dir
    });
    (place, model, folders)
}

fn bits(model: &Model, weights: &thyme_engine::model::parameters::Weights) -> Vec<u16> {
    let of_tensor = |tensor: &thyme_engine::ops::Tensor| {
        let mut values = vec![half::bf16::ZERO; tensor.len()];
        model.backend.download(tensor, HostMut::Bf16(&mut values));
        values.into_iter().map(half::bf16::to_bits).collect::<Vec<_>>()
    };
    weights.values.iter().flat_map(of_tensor).collect()
}

#[test]
fn weights_that_change_between_the_passes_are_incomplete_and_a_whole_folder_heals_them() {
    let (_place, model, [first, second]) = model();
    let file = second.join("model.safetensors");
    let whole = std::fs::read(&file).unwrap();
    let changes: [(&str, &dyn Fn()); 3] = [
        ("shorter", &|| {
            std::fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(whole.len() as u64 - 100).unwrap()
        }),
        ("rewritten", &|| {
            std::thread::sleep(std::time::Duration::from_millis(20));
            std::fs::write(&file, &whole).unwrap();
        }),
        ("not finite", &|| {
            let mut bytes = whole.clone();
            let end = bytes.len();
            bytes[end - 2..].copy_from_slice(&half::bf16::NAN.to_le_bytes());
            std::fs::write(&file, bytes).unwrap();
        }),
    ];
    for (name, change) in changes {
        std::fs::write(&file, &whole).unwrap();
        let mut weights = Checkpoint::open(&first).unwrap().weights(&model).unwrap();
        let before = bits(&model, &weights);
        let checked = weights::check(&model, &second).unwrap();
        assert_eq!(bits(&model, &weights), before, "looking changes nothing");
        change();
        let error = checked.copy(&model, &mut weights).unwrap_err();
        assert!(
            error.to_string().contains("model.safetensors") || matches!(error, CheckpointError::NotFinite { .. }),
            "{error}"
        );
        assert_ne!(bits(&model, &weights), before, "{name}: it ended half-way");
        assert_eq!(weights.version, 1, "{name}: what was computed with the old weights is void");
        weights::reload(&model, &mut weights, &first).unwrap();
        assert_eq!((bits(&model, &weights), weights.version), (before, 2), "{name}");
    }
    // What the first pass refuses changes nothing.
    std::fs::write(&file, &whole[..whole.len() - 2]).unwrap();
    let mut weights = Checkpoint::open(&first).unwrap().weights(&model).unwrap();
    let before = bits(&model, &weights);
    let refused = weights::reload(&model, &mut weights, &second);
    assert!(matches!(refused, Err(ReloadError::Refused(CheckpointError::Damaged { .. }))), "{refused:?}");
    assert_eq!((bits(&model, &weights), weights.version), (before, 0));
}

#[test]
fn numbers_of_a_config_that_cannot_be_are_refused_by_name() {
    let place = Workplace::new();
    let path = place.path("model/config.json");
    let config: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let huge = json!(1e300);
    let mut cases: Vec<(&str, Value)> = Vec::new();
    for key in ["rms_norm_eps", "rope_theta", "initializer_range"] {
        cases.extend(
            [json!("x"), json!(-1), json!([1]), json!({}), json!(true), huge.clone()].map(|value| (key, value)),
        );
    }
    cases.extend([
        ("rms_norm_eps", json!(0)),
        ("rms_norm_eps", json!(1e-60)),
        ("rope_theta", json!(0)),
        ("rope_theta", json!(1)),
    ]);
    let sizes = [
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "vocab_size",
        "max_position_embeddings",
    ];
    let no_sizes =
        || [json!("x"), json!(-1), json!(0), json!(1.5), json!(1u64 << 40), json!(u64::MAX), huge.clone(), json!([])];
    for key in sizes {
        cases.extend(no_sizes().map(|value| (key, value)));
    }
    let vision =
        ["patch_size", "spatial_merge_size", "temporal_patch_size", "num_heads", "depth", "hidden_size", "window_size"];
    let mut faults = Vec::new();
    let mut refuse_key = |key: &str, config: Value| match Config::from_json(&config) {
        Err(error) if error.to_string().contains(key) && error.to_string().contains("must be") => {}
        other => faults.push(format!("{key}: {:?}", other.map_err(|error| error.to_string()))),
    };
    for (key, value) in cases {
        let mut changed = config.clone();
        changed[key] = value;
        refuse_key(key, changed);
    }
    for key in vision {
        for value in no_sizes() {
            let mut changed = config.clone();
            changed["vision_config"][key] = value;
            refuse_key(key, changed);
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    for (key, value, said) in [
        ("num_hidden_layers", json!(100_000), "at most"),
        ("num_attention_heads", json!(3), "not a multiple of 3"),
        ("num_attention_heads", json!(64 * 64), "attention heads"),
        ("num_key_value_heads", json!(3), "not a multiple of 3"),
    ] {
        let mut changed = config.clone();
        changed[key] = value;
        let error = Config::from_json(&changed).unwrap_err().to_string();
        assert!(error.contains(said), "{key}: {error}");
    }
    // Numbers that are possible each for itself, of more than any machine holds.
    let mut large = config.clone();
    for (key, value) in [("hidden_size", 1 << 19), ("intermediate_size", 1 << 20), ("num_hidden_layers", 1000)] {
        large[key] = value.into();
    }
    large["num_attention_heads"] = (1 << 14).into();
    large["num_key_value_heads"] = (1 << 14).into();
    large["vision_config"]["out_hidden_size"] = (1 << 19).into();
    std::fs::write(&path, large.to_string()).unwrap();
    let mut init = std::process::Command::new(env!("CARGO_BIN_EXE_thyme-engine"));
    init.args(["init", "--seed", "0", "--config"]).arg(&path).arg("--out").arg(place.path("out"));
    let said = refuse(init);
    assert!(said.contains("config.json describes weights of") && said.contains("of memory are available"), "{said}");
}

#[test]
fn numbers_of_pictures_that_cannot_be_are_refused_by_name() {
    let place = Workplace::new();
    let path = place.path("model/preprocessor_config.json");
    let settings: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    for (key, value) in [
        ("patch_size", json!(0)),
        ("patch_size", json!(-1)),
        ("merge_size", json!("x")),
        ("temporal_patch_size", json!(0.5)),
        ("min_pixels", json!(0)),
        ("max_pixels", json!(1e300)),
        ("min_pixels", json!(1u64 << 40)),
        ("image_std", json!([0, 1, 1])),
        ("image_std", json!([-1, 1, 1])),
        ("image_std", json!([1e300, 1, 1])),
        ("image_mean", json!([1e300, 1, 1])),
        ("image_mean", json!([1, 1])),
    ] {
        let mut changed = settings.clone();
        changed[key] = value.clone();
        std::fs::write(&path, changed.to_string()).unwrap();
        let error = thyme_engine::prompt::read_image_settings(&place.path("model")).unwrap_err().to_string();
        assert!(error.contains("preprocessor_config.json") && error.contains(key), "{key} {value}: {error}");
    }
}

/// Type, shape and bytes.
type RawTensor = (Dtype, Vec<usize>, Vec<u8>);

/// Writes a file of tensors again as `edit` leaves them.
fn edit(path: &Path, edit: &dyn Fn(&str, &mut RawTensor)) {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensors: Vec<_> = file
        .iter()
        .map(|(name, view)| {
            let mut tensor = (view.dtype(), view.shape().to_vec(), view.data().to_vec());
            edit(name, &mut tensor);
            (name.to_owned(), tensor)
        })
        .collect();
    let views = tensors
        .iter()
        .map(|(name, (dtype, shape, bytes))| (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

#[test]
fn state_that_no_run_has_is_not_gone_on_with() {
    let place = Workplace::new();
    let resume = |recipe: &Path| train(recipe, &["--resume", "--set", "training.max_steps=3"]);
    for optim in ["adamw", "adamw_8bit"] {
        let recipe = place.sft("logging_steps = 5\n[data]\nneedle = {}\n");
        let optim = format!("optimizer.optim={optim}");
        succeed(train(&recipe, &["--overwrite", "--set", "training.max_steps=2", "--set", &optim]));
        let checkpoint = place.path("runs/run/checkpoint-2");
        let path = checkpoint.join("optimizer.safetensors");
        let whole = std::fs::read(&path).unwrap();
        let first_float = |value: f32| move |bytes: &mut Vec<u8>| bytes[..4].copy_from_slice(&value.to_le_bytes());
        let norm = "model.norm.weight";
        let embedding = "model.embed_tokens.weight";
        let mut cases = vec![
            (format!("{norm}.m"), first_float(f32::NAN)),
            (format!("{norm}.m"), first_float(f32::INFINITY)),
            (format!("{norm}.v"), first_float(f32::NAN)),
            (format!("{norm}.v"), first_float(f32::NEG_INFINITY)),
            (format!("{norm}.v"), first_float(-1e-30)),
        ];
        if optim.ends_with("8bit") {
            cases.push((format!("{embedding}.m_scales"), first_float(f32::NAN)));
            cases.push((format!("{embedding}.v_scales"), first_float(-1.0)));
        }
        let refused = |name: &str| {
            let mut command = resume(&recipe);
            command.args(["--set", &optim]);
            let said = refuse(command);
            assert!(said.contains("optimizer.safetensors") && said.contains(name), "{name}: {said}");
        };
        for (name, change) in cases {
            edit(&path, &|tensor, (_, _, bytes)| {
                if tensor == name {
                    change(bytes);
                }
            });
            refused(&name);
            std::fs::write(&path, &whole).unwrap();
        }
        for (suffix, dtype) in
            [("m", Dtype::I32), ("v", Dtype::U32), ("remainder", Dtype::F16), ("remainder", Dtype::BF16)]
        {
            let name = format!("{norm}.{suffix}");
            edit(&path, &|tensor, stored| {
                if tensor == name {
                    stored.0 = dtype;
                }
            });
            refused(&name);
            std::fs::write(&path, &whole).unwrap();
        }
        if optim.ends_with("8bit") {
            continue;
        }
        let state: Value =
            serde_json::from_slice(&std::fs::read(checkpoint.join("trainer_state.json")).unwrap()).unwrap();
        let changed = |edit: &dyn Fn(&mut Value)| {
            let mut changed = state.clone();
            edit(&mut changed);
            std::fs::write(checkpoint.join("trainer_state.json"), changed.to_string()).unwrap();
            let said = refuse(resume(&recipe));
            assert!(said.contains("trainer_state.json"), "{changed}: {said}");
            said
        };
        for step in
            [json!(1u64 << 63), json!(u64::MAX), json!(1), json!(-1), json!(1.5), json!("2"), json!(null), json!(1e30)]
        {
            changed(&|state| state["global_step"] = step.clone());
        }
        for count in [json!(u64::MAX), json!(1u64 << 60), json!(-1), json!("x")] {
            changed(&|state| state["updates"] = count.clone());
            changed(&|state| state["skipped"]["total"] = count.clone());
            changed(&|state| state["left_out"] = json!({"drawn": count, "left_out": 0}));
        }
        assert!(changed(&|state| state["skipped"]["in_a_row"] = json!(7)).contains("skipped.in_a_row"));
        assert!(changed(&|state| state["left_out"] = json!({"drawn": 1, "left_out": 2})).contains("left_out"));
        std::fs::write(checkpoint.join("trainer_state.json"), state.to_string()).unwrap();
        // The folder's name is a number too.
        for step in ["18446744073709551615", "9223372036854775808", "1000"] {
            let other = place.path(&format!("runs/run/checkpoint-{step}"));
            std::fs::rename(&checkpoint, &other).unwrap();
            let step: u64 = step.parse().unwrap();
            std::fs::write(other.join("trainer_state.json"), {
                let mut state = state.clone();
                state["global_step"] = step.into();
                state.to_string()
            })
            .unwrap();
            let said = refuse(resume(&recipe));
            assert!(said.contains("`global_step` is") && said.contains("the recipe has 3 steps"), "{said}");
            std::fs::rename(&other, &checkpoint).unwrap();
        }
        std::fs::write(checkpoint.join("trainer_state.json"), state.to_string()).unwrap();
        let window = std::fs::read_to_string(checkpoint.join("logging_window.json")).unwrap();
        let mut changed: Value = serde_json::from_str(&window).unwrap();
        changed["steps"] = json!(u64::MAX);
        std::fs::write(checkpoint.join("logging_window.json"), changed.to_string()).unwrap();
        assert!(refuse(resume(&recipe)).contains("logging_window.json"));
        std::fs::write(checkpoint.join("logging_window.json"), window).unwrap();
        succeed(resume(&recipe));
    }
}
