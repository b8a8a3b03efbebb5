//! Every key of a checkpoint's config files, and what becomes of it: used, without effect, refused, or warned of. What is in no table is
//! warned of by name. Entries that are a family's own stand with it. `src/hub/README.md` shows all tables.

mod config;
mod entry;
mod generation;
mod preprocessor;
mod tokenizer;

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Map, Value};

pub use config::{ANY_LEVEL, ROPE, TEXT, TOP, VISION, VISION_ROPE};
pub use entry::{Effect, Entry};
pub use generation::GENERATION;
pub use preprocessor::{PREPROCESSOR, PROCESSOR, SIZE};
pub use tokenizer::TOKENIZER;

/// The keys of one place in a file.
#[derive(Debug)]
pub struct Section {
    /// The place, as a heading.
    pub title: &'static str,
    /// Its keys, with what becomes of each.
    pub entries: &'static [Entry],
}

/// All tables, in the order of the page.
pub const SECTIONS: [Section; 10] = [
    Section { title: "config.json, top level", entries: TOP },
    Section { title: "config.json, `text_config` (or the top level where there is none)", entries: TEXT },
    Section { title: "config.json, `rope_scaling` or `rope_parameters` of the language model", entries: ROPE },
    Section { title: "config.json, `vision_config`", entries: VISION },
    Section { title: "config.json, `rope_parameters` of `vision_config`", entries: VISION_ROPE },
    Section { title: "config.json, any level", entries: ANY_LEVEL },
    Section { title: "preprocessor_config.json, or `image_processor` of processor_config.json", entries: PREPROCESSOR },
    Section { title: "processor_config.json", entries: PROCESSOR },
    Section { title: "generation_config.json, which `generate`, `batch` and `serve` read", entries: GENERATION },
    Section { title: "tokenizer_config.json", entries: TOKENIZER },
];

/// Switches that are off in transformers where they are null, and on where they are absent.
const NULL_IS_FALSE: [&str; 3] = ["do_resize", "do_rescale", "do_normalize"];

/// Something to say about a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Finding {
    /// The file cannot be used: the key, its value, and why.
    Refused(String),
    /// The file can be used, but the key has no effect: the key, its value, and why.
    Warned(String),
}

/// The findings about the keys of `object` by `tables`, of which the last that has a key counts. A key that is in no table is warned of.
/// `place`, such as `vision_config.`, stands before each key in messages.
pub fn look(tables: &[&[Entry]], object: &Map<String, Value>, place: &str) -> Vec<Finding> {
    let known: BTreeMap<&str, &Entry> =
        tables.iter().copied().flatten().flat_map(|entry| entry.names.iter().map(move |name| (*name, entry))).collect();
    let present = object.iter().filter(|(key, value)| !value.is_null() || NULL_IS_FALSE.contains(&key.as_str()));
    let finding = |(key, value): (&String, &Value)| match known.get(key.as_str()) {
        Some(entry) => finding(entry, &format!("{place}{key}"), value),
        None => Some(Finding::Warned(format!("the key `{place}{key}` is not known and has no effect"))),
    };
    present.filter_map(finding).collect()
}

/// The first refusal of [`look`], if there is one.
///
/// # Errors
/// When a key is refused: the message names it, its value and the remedy.
pub fn accept(tables: &[&[Entry]], object: &Map<String, Value>, place: &str) -> Result<(), String> {
    let refused = |finding| match finding {
        Finding::Refused(message) => Some(message),
        Finding::Warned(_) => None,
    };
    look(tables, object, place).into_iter().find_map(refused).map_or(Ok(()), Err)
}

/// The warnings of [`look`].
pub fn warnings(tables: &[&[Entry]], object: &Map<String, Value>, place: &str) -> Vec<String> {
    let warned = |finding| match finding {
        Finding::Warned(message) => Some(message),
        Finding::Refused(_) => None,
    };
    look(tables, object, place).into_iter().filter_map(warned).collect()
}

/// What an entry says of a key with this value.
fn finding(entry: &Entry, key: &str, value: &Value) -> Option<Finding> {
    match entry.effect {
        Effect::Used | Effect::Unused => None,
        Effect::Only(values) => (!is_one_of(value, values)).then(|| {
            let allowed = match values {
                [] => "which is not supported".to_owned(),
                values => format!("only {} is supported", values.join(" or ")),
            };
            Finding::Refused(format!("`{key}` is {}; {allowed}: {}", shown(value), entry.note))
        }),
        Effect::Ignored(values) => (!is_one_of(value, values))
            .then(|| Finding::Warned(format!("`{key}` is {} and has no effect: {}", shown(value), entry.note))),
    }
}

/// Whether a value is one of `values`; numbers are compared by value, to the precision that files are written with.
fn is_one_of(value: &Value, values: &[&str]) -> bool {
    values.iter().any(|allowed| match (value.as_f64(), allowed.parse::<f64>()) {
        (Some(number), Ok(allowed)) => (number - allowed).abs() <= 1e-9 * allowed.abs(),
        _ => serde_json::from_str(allowed).is_ok_and(|allowed: Value| *value == allowed),
    })
}

/// A value for a message, cut where it is long.
pub fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// The page of all tables, in Markdown: those here, and behind them each family's own.
pub fn page(families: &[(String, &'static [Entry])]) -> String {
    let mut page = String::from(PREFACE);
    let common = SECTIONS.iter().map(|Section { title, entries }| (*title, *entries));
    for (title, entries) in common.chain(families.iter().map(|(title, entries)| (title.as_str(), *entries))) {
        write!(page, "\n## {title}\n\n| key | effect | |\n|---|---|---|\n").expect("a string takes what is written");
        for Entry { names, effect, note } in entries {
            let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
            let values = |values: &[&str]| values.iter().map(|v| format!("`{v}`")).collect::<Vec<_>>().join(", ");
            let effect = match effect {
                Effect::Used => "used".to_owned(),
                Effect::Unused => "without effect".to_owned(),
                Effect::Only([]) => "refused".to_owned(),
                Effect::Only(allowed) => format!("refused unless {}", values(allowed)),
                Effect::Ignored([]) => "warned of, without effect".to_owned(),
                Effect::Ignored(usual) => format!("warned of unless {}, without effect", values(usual)),
            };
            let row = [names.join(", "), effect, (*note).to_owned()].map(|cell| cell.replace('|', "\\|"));
            writeln!(page, "| {} |", row.join(" | ")).expect("a string takes what is written");
        }
    }
    page
}

/// What stands above the tables.
const PREFACE: &str = "\
# Every key of a checkpoint's config files

This page shows the tables of `src/hub/keys/`, and at its end those of `src/model/families/`, which count where both have a key. The code checks
each file against them; `tests/it/keys.rs` keeps page and tables alike. A key is

- **used**: it is read, and a value that cannot be used is an error that names it;
- **without effect**: it changes nothing that is computed here, as it changes nothing in transformers 5.17 for these models;
- **refused** where its value would change the results in a way that is not built: the error names the key, the value and the remedy;
- **warned of** where its value would change something elsewhere, but changes nothing here.

A key that is in no table is warned of by name. A key that is null counts as absent. `video_preprocessor_config.json`,
`special_tokens_map.json`, and `vocab.json` and `merges.txt` beside a `tokenizer.json` are not read.
";
