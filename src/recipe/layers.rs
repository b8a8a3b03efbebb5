//! From files and `--set` to one recipe: a file may extend another, later layers win key by key. Each layer is checked by itself, so
//! that an error shows the line it stands on.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::{Table, Value};

use super::Recipe;
use crate::files::open::{SETTINGS_BYTES_MAX, read_text};

/// Longest chain of `extends`.
const EXTENDS_MAX: usize = 8;

/// Why a recipe cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// The file cannot be read.
    #[error("cannot read recipe {path}: {source}")]
    Read {
        /// The recipe, or one that it extends.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Something in a file is wrong; the text shows the line with a caret.
    #[error("in recipe {path}: {message}")]
    Toml {
        /// The recipe, or one that it extends.
        path: PathBuf,
        /// Where and what, with the remedy.
        message: String,
    },
    /// Something in a `--set` is wrong.
    #[error("in --set {setting}: {message}")]
    Setting {
        /// As given after `--set`.
        setting: String,
        /// What is wrong.
        message: String,
    },
    /// Recipes that extend each other without end.
    #[error("recipe {0} is extended more than {EXTENDS_MAX} times over; look for a circle of `extends`")]
    Circle(PathBuf),
}

/// What a recipe file may hold: a recipe, and the file that it changes.
#[derive(Deserialize)]
struct Layer {
    extends: Option<PathBuf>,
}

/// Reads a recipe with what it extends, then applies settings of the form `a.b=value`. Input paths in files become relative to the
/// file that names them.
pub fn load(path: &Path, settings: &[String]) -> Result<Recipe, RecipeError> {
    let mut table = read_layers(path, 0)?;
    for setting in settings {
        merge(&mut table, parse_setting(setting)?);
    }
    let whole = |e: toml::de::Error| RecipeError::Toml { path: path.to_owned(), message: explain(&e) };
    Recipe::deserialize(Value::Table(table)).map_err(whole)
}

fn read_layers(path: &Path, depth: usize) -> Result<Table, RecipeError> {
    if depth > EXTENDS_MAX {
        return Err(RecipeError::Circle(path.to_owned()));
    }
    let text =
        read_text(path, SETTINGS_BYTES_MAX).map_err(|source| RecipeError::Read { path: path.to_owned(), source })?;
    let wrong = |e: toml::de::Error| RecipeError::Toml { path: path.to_owned(), message: explain(&e) };
    let mut table: Table = text.parse().map_err(wrong)?;
    let layer: Layer = toml::from_str(&text).map_err(wrong)?;
    // Spans must fit the file as written, so its `extends` line is blanked rather than removed.
    let own = blank_line(&text, "extends");
    toml::from_str::<Recipe>(&own).map_err(wrong)?;
    table.remove("extends");
    let folder = path.parent().unwrap_or(Path::new(""));
    resolve_paths(&mut table, folder);
    let Some(base) = layer.extends else { return Ok(table) };
    let mut merged = read_layers(&folder.join(base), depth + 1)?;
    merge(&mut merged, table);
    Ok(merged)
}

/// The text with the top-level line of `key` turned into spaces.
fn blank_line(text: &str, key: &str) -> String {
    let mut is_top = true;
    let blank = |line: &str| {
        is_top &= !line.trim_start().starts_with('[');
        let is_key = line.trim_start().strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with('='));
        if is_key && is_top { " ".repeat(line.len()) } else { line.to_owned() }
    };
    text.split('\n').map(blank).collect::<Vec<_>>().join("\n")
}

/// Makes the input paths of a layer relative to its folder, where something is found there.
fn resolve_paths(table: &mut Table, folder: &Path) {
    let resolve = |value: &mut Value| {
        if let Value::String(path) = value
            && folder.join(&*path).exists()
        {
            *path = folder.join(&*path).to_string_lossy().into_owned();
        }
    };
    let resolve_all = |value: Option<&mut Value>| match value {
        Some(Value::Array(paths)) => paths.iter_mut().for_each(resolve),
        Some(path) => resolve(path),
        None => {}
    };
    for (section, key) in [("model", "path"), ("grpo", "ref_model"), ("data", "files"), ("evaluation", "files")] {
        resolve_all(table.get_mut(section).and_then(|section| section.get_mut(key)));
    }
    let sources = table.get_mut("data").and_then(|data| data.get_mut("sources")).and_then(Value::as_array_mut);
    sources.into_iter().flatten().for_each(|source| resolve_all(source.get_mut("files")));
    let judge = table.get_mut("reward").and_then(|reward| reward.get_mut("judge"));
    resolve_all(judge.and_then(|judge| judge.get_mut("model_path")));
    for plug_in in plug_ins(table) {
        for key in ["file", "read"] {
            resolve_all(plug_in.get_mut(key));
        }
    }
}

/// The tables of tools and rewards, which may name files of a user's own.
fn plug_ins(table: &mut Table) -> Vec<&mut Table> {
    let mut found = Vec::new();
    for (section, value) in table {
        match (section.as_str(), value) {
            ("tool", Value::Array(tools)) => found.extend(tools.iter_mut().filter_map(Value::as_table_mut)),
            ("tool", tool) => found.extend(tool.as_table_mut()),
            ("reward", reward) => {
                let settings = reward.get_mut("settings").and_then(Value::as_table_mut);
                found.extend(settings.into_iter().flatten().filter_map(|(_, value)| value.as_table_mut()));
            }
            _ => {}
        }
    }
    found
}

fn parse_setting(setting: &str) -> Result<Table, RecipeError> {
    let wrong = |message: String| RecipeError::Setting { setting: setting.to_owned(), message };
    let (key, value) = setting.split_once('=').ok_or_else(|| wrong("expected key=value".to_owned()))?;
    // A bare word is a string, so that `--set method=grpo` needs no quotes inside quotes.
    let text = [format!("{key} = {value}"), format!("{key} = {value:?}")];
    let text = text.iter().find(|t| t.parse::<Table>().is_ok()).ok_or_else(|| wrong("not a TOML key".to_owned()))?;
    toml::from_str::<Recipe>(text).map_err(|e| wrong(explain(&e)))?;
    text.parse().map_err(|e: toml::de::Error| wrong(explain(&e)))
}

/// Later values win; tables are merged key by key.
fn merge(base: &mut Table, layer: Table) {
    for (key, value) in layer {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(base)), Value::Table(layer)) => merge(base, layer),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

/// The parser's message, with the nearest known key where a key is unknown.
pub(super) fn explain(error: &toml::de::Error) -> String {
    let message = error.to_string();
    let message = message.trim_end();
    match nearest_known(error.message()) {
        Some(known) => format!("{message}\ndid you mean `{known}`?"),
        None => message.to_owned(),
    }
}

/// From "unknown field `x`, expected one of `a`, `b`": the name most like `x`.
fn nearest_known(message: &str) -> Option<String> {
    if !message.starts_with("unknown ") {
        return None;
    }
    let mut names = message.split('`').skip(1).step_by(2);
    let unknown = names.next()?;
    names.map(|name| (edits(unknown, name), name)).min().map(|(_, name)| name.to_owned())
}

/// Insertions, deletions and substitutions between two words (Levenshtein 1966).
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.chars().enumerate() {
            let substituted = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[row.len() - 1]
}
