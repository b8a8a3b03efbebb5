//! A model that is large enough for its products to be what takes time, and small enough to be measured on a few cores: 6 layers of 640.

use serde_json::{Value, json};
use thyme_engine::model::config::Config;

/// Words that it knows.
pub const VOCAB: usize = 4096;

/// The shipped model's config, but wider and deeper.
pub fn config() -> Config {
    let path = "recipes/tiny/config.json";
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(path).expect(path)).expect(path);
    for (key, value) in [
        ("hidden_size", 640),
        ("intermediate_size", 1728),
        ("num_hidden_layers", 6),
        ("num_attention_heads", 10),
        ("num_key_value_heads", 2),
        ("vocab_size", VOCAB),
    ] {
        config[key] = json!(value);
    }
    config["rope_scaling"]["mrope_section"] = json!([8, 12, 12]);
    config["vision_config"]["out_hidden_size"] = json!(640);
    Config::from_json(&config).expect("a config")
}
