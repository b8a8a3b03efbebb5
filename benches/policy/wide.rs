//! A model that is large enough for its products to be what takes time, and small enough to be measured on a few cores: 8 layers of 768.

use serde_json::{Value, json};
use thyme_engine::model::config::Config;

/// Words that it knows.
pub const VOCAB: usize = 8192;

/// The shipped model's config, but wider and deeper.
pub fn config() -> Config {
    let path = "recipes/tiny/config.json";
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(path).expect(path)).expect(path);
    for (key, value) in [
        ("hidden_size", 768),
        ("intermediate_size", 2048),
        ("num_hidden_layers", 8),
        ("num_attention_heads", 12),
        ("num_key_value_heads", 4),
        ("vocab_size", VOCAB),
    ] {
        config[key] = json!(value);
    }
    config["rope_scaling"]["mrope_section"] = json!([8, 12, 12]);
    config["vision_config"]["out_hidden_size"] = json!(768);
    Config::from_json(&config).expect("a config")
}
