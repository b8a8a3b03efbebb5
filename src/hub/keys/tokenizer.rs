//! The keys of `tokenizer_config.json`.

use super::entry::Effect::{Ignored, Only, Unused, Used};
use super::entry::Entry;

/// Beside `tokenizer.json`, which says how text is cut.
pub const TOKENIZER: &[Entry] = &[
    Entry {
        names: &["chat_template"],
        effect: Used,
        note: "where neither chat_template.jinja nor chat_template.json is there",
    },
    Entry {
        names: &["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"],
        effect: Used,
        note: "variables of the chat template; a token that tokenizer.json lacks is added, as in transformers",
    },
    Entry {
        names: &[
            "added_tokens_decoder",
            "additional_special_tokens",
            "extra_special_tokens",
            "model_specific_special_tokens",
        ],
        effect: Used,
        note: "tokens that tokenizer.json lacks are added, as in transformers; an id that contradicts tokenizer.json is refused",
    },
    Entry {
        names: &[
            "image_token",
            "video_token",
            "audio_token",
            "vision_start_token",
            "vision_end_token",
            "vision_bos_token",
            "vision_eos_token",
            "boi_token",
            "eoi_token",
        ],
        effect: Used,
        note: "added where tokenizer.json lacks them, as in transformers",
    },
    Entry {
        names: &["tokenizer_class"],
        effect: Only(&[
            "\"Qwen2Tokenizer\"",
            "\"Qwen2TokenizerFast\"",
            "\"PreTrainedTokenizerFast\"",
            "\"TokenizersBackend\"",
        ]),
        note: "only byte-level BPE as Qwen's is read; take the tokenizer's files from the model's own checkpoint",
    },
    Entry { names: &["add_prefix_space"], effect: Only(&["false"]), note: "texts are cut as tokenizer.json says" },
    Entry {
        names: &["split_special_tokens"],
        effect: Only(&["false"]),
        note: "special tokens in a text become their ids",
    },
    Entry {
        names: &["clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output", "fix_mistral_regex"],
        effect: Only(&["false"]),
        note: "texts are cut as tokenizer.json says, and read back byte for byte",
    },
    Entry { names: &["auto_map"], effect: Ignored(&[]), note: "Python code beside the checkpoint is not run" },
    Entry {
        names: &["add_bos_token", "add_eos_token", "do_lower_case", "clean_up_tokenization_spaces", "errors"],
        effect: Unused,
        note: "transformers does not read them beside a byte-level tokenizer.json",
    },
    Entry {
        names: &[
            "model_max_length",
            "max_length",
            "padding",
            "padding_side",
            "pad_to_multiple_of",
            "pad_token_type_id",
            "truncation",
            "truncation_side",
            "truncation_strategy",
            "stride",
            "max_pixels",
            "min_pixels",
        ],
        effect: Unused,
        note: "nothing is padded, and a text that is too long is an error",
    },
    Entry {
        names: &[
            "processor_class",
            "name_or_path",
            "tokenizer_file",
            "vocab_file",
            "merges_file",
            "added_tokens_file",
            "special_tokens_map_file",
            "tokenizer_type",
            "init_inputs",
            "backend",
            "is_local",
            "local_files_only",
            "use_fast",
            "from_slow",
            "legacy",
            "verbose",
            "return_token_type_ids",
            "trust_remote_code",
            "model_input_names",
            "response_schema",
            "transformers_version",
            "device_map",
        ],
        effect: Unused,
        note: "how another program loads the file, and what it returns beside",
    },
];
