//! Checkpoint folders: one file or a few changed, or replaced by others' files, or by what is no file.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use super::mutate::{self, Corpus};
use super::target::{Command, Entry, Folder, Input};
use crate::support::small_policy::Random;

/// Files whose JSON is changed, with the end of the names of their relatives in the corpus.
const JSON_FILES: [(&str, &str); 5] = [
    ("config.json", ".config.json"),
    ("tokenizer.json", ".tokenizer.json"),
    ("tokenizer_config.json", ".tokenizer_config.json"),
    ("preprocessor_config.json", ".preprocessor_config.json"),
    ("generation_config.json", ".generation_config.json"),
];

/// Whole checkpoints to begin from.
pub struct Bases {
    /// With a tokenizer.
    tiny: Folder,
    /// Those of `tests/golden/model`, without a tokenizer.
    golden: Vec<Folder>,
}

impl Bases {
    /// The golden ones, and `tiny`, which is in this folder.
    pub fn open(tiny: &Path) -> Bases {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/model");
        let mut folders: Vec<_> = std::fs::read_dir(golden)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.is_dir())
            .collect();
        folders.sort();
        Bases { tiny: files(tiny), golden: folders.iter().map(|folder| files(folder)).collect() }
    }
}

fn files(folder: &Path) -> Folder {
    let file = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.unwrap().path();
        (path.file_name().unwrap().to_str().unwrap().to_owned(), Entry::File(Arc::new(std::fs::read(path).unwrap())))
    };
    let mut files: Folder = std::fs::read_dir(folder).unwrap().map(file).collect();
    files.sort_by(|(a, _), (b, _)| a.cmp(b));
    files
}

/// A checkpoint for a command, or for a running server that reads its weights.
pub fn make(random: &mut Random, corpus: &Corpus, bases: &Bases) -> Input {
    let has_tokenizer = !random.one_in(4);
    let mut folder = if has_tokenizer { bases.tiny.clone() } else { random.pick(&bases.golden) };
    for _ in 0..1 + random.below(2) {
        match random.below(10) {
            0..5 => change_json(random, corpus, &mut folder),
            5..9 => change_weights(random, corpus, &mut folder),
            _ => replace(random, &mut folder),
        }
    }
    // The server's model is the tiny one.
    if has_tokenizer && random.one_in(4) {
        return Input::Update(folder);
    }
    let mut files: Folder = folder.into_iter().map(|(name, entry)| (format!("model/{name}"), entry)).collect();
    let request = match has_tokenizer {
        true => json!({"id": 1, "messages": [{"role": "user", "content": "What digit is on the red plate?"}]}),
        false => json!({"id": 1, "token_ids": [5, 6, 7]}),
    };
    files.push(("a.jsonl".to_owned(), Entry::file(request.to_string())));
    let mut arguments = vec![if has_tokenizer && random.one_in(2) { "batch" } else { "score" }];
    arguments.extend(["--model", "model", "--input", "a.jsonl", "--output", "b.jsonl", "--device", "cpu"]);
    if arguments[0] == "batch" {
        arguments.extend(["--max-tokens", "2"]);
    }
    Input::Command(Command { files, arguments: arguments.into_iter().map(str::to_owned).collect() })
}

fn entry<'a>(folder: &'a mut Folder, name: &str) -> Option<&'a mut Entry> {
    folder.iter_mut().find(|(own, _)| own == name).map(|(_, entry)| entry)
}

fn change_json(random: &mut Random, corpus: &Corpus, folder: &mut Folder) {
    let (name, end) = random.pick(&JSON_FILES);
    let other = corpus.json(random, end);
    let own = match entry(folder, name) {
        Some(Entry::File(bytes)) => serde_json::from_slice(bytes).unwrap_or(Value::Null),
        _ => other.clone(),
    };
    let text = match random.below(6) {
        0 => other.to_string(),
        1 => mutate::text(
            random,
            &own.to_string(),
            &other.to_string(),
            &["null", "-1", "1e999", "\"x\"", ",", "{", "NaN"],
            2,
        ),
        // A key or two of another file.
        2 | 3 => {
            let mut own = own;
            if let (Value::Object(own), Value::Object(other)) = (&mut own, &other)
                && !other.is_empty()
            {
                let key = other.keys().nth(random.below(other.len())).unwrap();
                own.insert(key.clone(), other[key].clone());
            }
            own.to_string()
        }
        _ => {
            let mut own = own;
            mutate::json(random, &mut own, &other, 2);
            own.to_string()
        }
    };
    match entry(folder, name) {
        Some(entry) => *entry = Entry::file(text),
        None => folder.push((name.to_owned(), Entry::file(text))),
    }
}

fn change_weights(random: &mut Random, corpus: &Corpus, folder: &mut Folder) {
    let is_weights = |name: &str| name.ends_with(".safetensors") || name.ends_with(".index.json");
    let names: Vec<String> = folder.iter().map(|(name, _)| name.clone()).filter(|name| is_weights(name)).collect();
    let Some(Entry::File(bytes)) = names.get(random.below(names.len().max(1))).and_then(|name| entry(folder, name))
    else {
        return;
    };
    let file = Arc::make_mut(bytes);
    let Some(header) = header(file) else {
        if let Ok(mut index) = serde_json::from_slice(file) {
            let other = corpus.json(random, ".index.json");
            mutate::json(random, &mut index, &other, 2);
            *file = index.to_string().into_bytes();
        }
        return;
    };
    let data = 8 + header.len();
    match random.below(8) {
        // Low bytes of numbers: they stay finite.
        0..4 => {
            for _ in 0..1 + random.below(50) {
                let at = data + 2 * random.below((file.len() - data) / 2);
                file[at] = random.next() as u8;
            }
        }
        4 => {
            let at = data + random.below(file.len() - data);
            file[at] = random.next() as u8;
        }
        5 => {
            let length = random.pick(&[0, 7, 8, 20, data, data + 1, file.len() - 1, file.len() - 4096]);
            file.truncate(length.min(file.len()));
        }
        6 => {
            let length =
                random.pick(&[0, 1, header.len() as u64 - 1, header.len() as u64 + 1, 1 << 26, 1 << 40, u64::MAX]);
            file[..8].copy_from_slice(&length.to_le_bytes());
        }
        _ => {
            let mut json: Value = serde_json::from_slice(header).unwrap_or(Value::Null);
            let other = corpus.json(random, ".header.json");
            mutate::json(random, &mut json, &other, 2);
            let (header, tensors) = (json.to_string(), file[data..].to_vec());
            *file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &tensors].concat();
        }
    }
}

/// The header of a safetensors file.
fn header(file: &[u8]) -> Option<&[u8]> {
    let length = u64::from_le_bytes(file.get(..8)?.try_into().ok()?);
    file.get(8..)?
        .get(..usize::try_from(length).ok()?)
        .filter(|header| header.starts_with(b"{") && file.len() > header.len() + 4200)
}

/// Puts something else in place of a file.
fn replace(random: &mut Random, folder: &mut Folder) {
    let at = random.below(folder.len());
    if random.one_in(4) {
        folder.remove(at);
        return;
    }
    let link = random.pick(&["/dev/zero", "/dev/full", "model", "nowhere", "/proc/self/mem", "config.json"]);
    folder[at].1 = random.pick(&[
        Entry::file(""),
        Entry::file("{}"),
        Entry::file("[".repeat(100_000)),
        Entry::file("version https://git-lfs.github.com/spec/v1\n"),
        Entry::file("\u{FEFF}{}"),
        Entry::Folder,
        Entry::Fifo,
        Entry::Link(link.into()),
    ]);
}
