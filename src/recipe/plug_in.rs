//! The tables of environments and tools, which only the plug-in itself can read.

use serde::{Deserialize, Serialize};

use crate::rollout::registry::Named;

/// A plug-in's table: `name` says which, the rest is its own and is checked by it. Without a name it is the default one.
#[derive(Clone, PartialEq, Debug, Default, Deserialize, Serialize)]
#[serde(transparent)]
pub struct PlugIn(pub toml::Table);

impl PlugIn {
    /// The name, `default` where there is none, and the plug-in's own keys.
    pub fn named(&self, default: &str) -> Named {
        let mut own = self.0.clone();
        match own.remove("name") {
            Some(toml::Value::String(name)) => (name, own),
            Some(other) => (other.to_string(), own),
            None => (default.to_owned(), own),
        }
    }
}

/// One plug-in's table, or a list of tables.
#[derive(Clone, PartialEq, Debug, Deserialize, Serialize)]
#[serde(untagged)]
pub enum PlugIns {
    /// `[tool]`.
    One(PlugIn),
    /// `[[tool]]`, once or more.
    Several(Vec<PlugIn>),
}

impl Default for PlugIns {
    fn default() -> PlugIns {
        PlugIns::One(PlugIn::default())
    }
}

impl PlugIns {
    /// Each as [`PlugIn::named`]; none where the recipe says nothing.
    pub fn named(&self, default: &str) -> Vec<Named> {
        match self {
            PlugIns::One(PlugIn(table)) if table.is_empty() => Vec::new(),
            PlugIns::One(one) => vec![one.named(default)],
            PlugIns::Several(list) => list.iter().map(|one| one.named(default)).collect(),
        }
    }
}
