//! The keys of `config.json`.

use super::entry::Effect::{Ignored, Only, Unused, Used};
use super::entry::Entry;

const TOKENS_BY_NAME: &str = "these tokens are looked up by name in the tokenizer";
const ELSEWHERE: &str =
    "how tokens are sampled is said by flags, requests, recipes and generation_config.json; move it there";

/// The top level, besides what is said of the language model there.
pub const TOP: &[Entry] = &[
    Entry {
        names: &["model_type"],
        effect: Used,
        note: "the family, one of those that have tables below; others are refused",
    },
    Entry {
        names: &["text_config"],
        effect: Used,
        note: "the language model; where it is absent its keys stand at the top level",
    },
    Entry { names: &["vision_config"], effect: Used, note: "the vision tower" },
    Entry {
        names: &["image_token_id", "video_token_id"],
        effect: Used,
        note: "the placeholders of an image's and a video's rows, which are never sampled",
    },
    Entry {
        names: &["vision_start_token_id", "vision_end_token_id", "vision_token_id"],
        effect: Unused,
        note: TOKENS_BY_NAME,
    },
    Entry {
        names: &["tie_word_embeddings"],
        effect: Used,
        note: "the head is the embedding table, unless the checkpoint holds another head",
    },
    Entry {
        names: &["quantization_config", "compression_config"],
        effect: Only(&[]),
        note: "weights are read as bf16, f16 or f32; use the checkpoint that was quantised, or write an unquantised copy with \
               `model.dequantize().save_pretrained(folder)` in transformers",
    },
    Entry {
        names: &["transformers_weights"],
        effect: Only(&["\"model.safetensors\"", "\"model.safetensors.index.json\""]),
        note: "weights are read from model.safetensors or its index; rename the file, and remove the key",
    },
    Entry {
        names: &["auto_map", "custom_pipelines"],
        effect: Ignored(&[]),
        note: "Python code beside the checkpoint is not run; what it would change is not computed",
    },
    Entry {
        names: &["unsloth_fixed", "unsloth_version", "model_name"],
        effect: Unused,
        note: "notes of the tool that wrote the file",
    },
];

/// The language model.
pub const TEXT: &[Entry] = &[
    Entry {
        names: &[
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "vocab_size",
        ],
        effect: Used,
        note: "sizes; `num_key_value_heads` null means one for each head",
    },
    Entry {
        names: &["head_dim"],
        effect: Used,
        note: "`hidden_size / num_attention_heads` where it is absent; the tensors must have it",
    },
    Entry {
        names: &["max_position_embeddings"],
        effect: Used,
        note: "the longest sequence; 32768 where it is absent; raise it too where `rope_scaling` lengthens the context",
    },
    Entry { names: &["rms_norm_eps"], effect: Used, note: "1e-5 where it is absent, as in transformers" },
    Entry { names: &["initializer_range"], effect: Used, note: "of random weights only" },
    Entry { names: &["rope_theta"], effect: Used, note: "where `rope_parameters` has none; 1e6 where it is absent" },
    Entry {
        names: &["rope_scaling", "rope_parameters"],
        effect: Used,
        note: "see below; where both are there, `rope_scaling` is used, as in transformers",
    },
    Entry { names: &["tie_word_embeddings"], effect: Used, note: "as at the top level; one of the two is enough" },
    Entry { names: &["layer_types"], effect: Used, note: "every layer must be `full_attention`; others are refused" },
    Entry {
        names: &["hidden_act"],
        effect: Only(&["\"silu\"", "\"swish\""]),
        note: "the MLP is SwiGLU; use a checkpoint that was trained with it",
    },
    Entry {
        names: &["use_sliding_window"],
        effect: Only(&["false"]),
        note: "every layer attends to all tokens before; set it to false only if the weights were trained so",
    },
    Entry {
        names: &["sliding_window", "max_window_layers"],
        effect: Unused,
        note: "only `use_sliding_window`, which is refused, would turn them on",
    },
    Entry { names: &["attention_dropout"], effect: Ignored(&["0"]), note: "nothing is dropped in training" },
    Entry {
        names: &["original_max_position_embeddings"],
        effect: Only(&[]),
        note: "it is read inside `rope_scaling`; move it there",
    },
    Entry { names: &["partial_rotary_factor"], effect: Only(&["1"]), note: "all of a head is rotated" },
    Entry {
        names: &["attention_bias", "qkv_bias", "mlp_bias"],
        effect: Unused,
        note: "queries, keys and values have a bias, nothing else has; transformers does not read them for these models",
    },
    Entry {
        names: &["eos_token_id"],
        effect: Used,
        note: "ends an answer where generation_config.json does not say what does",
    },
    Entry {
        names: &[
            "bos_token_id",
            "pad_token_id",
            "image_token_id",
            "video_token_id",
            "vision_start_token_id",
            "vision_end_token_id",
            "vision_token_id",
        ],
        effect: Unused,
        note: "nothing is padded or begun by a token; the others are looked up by name in the tokenizer",
    },
    Entry {
        names: &["use_cache"],
        effect: Unused,
        note: "keys and values are always kept in a rollout, never in an update",
    },
];

/// The rotary positions of the language model.
pub const ROPE: &[Entry] = &[
    Entry {
        names: &["rope_type", "type"],
        effect: Used,
        note: "`default`, `mrope` (the same), `linear` or `yarn`; others are refused; `rope_type` is used where both are there",
    },
    Entry { names: &["rope_theta"], effect: Used, note: "before that outside" },
    Entry {
        names: &["mrope_section"],
        effect: Used,
        note: "three numbers that sum to half the head size; 16, 24, 24 where it is absent",
    },
    Entry { names: &["factor"], effect: Used, note: "of `linear` and `yarn`; warned of elsewhere" },
    Entry {
        names: &["original_max_position_embeddings"],
        effect: Used,
        note: "of `yarn`, `max_position_embeddings` where it is absent; warned of elsewhere",
    },
    Entry {
        names: &["attention_factor", "mscale", "mscale_all_dim", "beta_fast", "beta_slow", "truncate"],
        effect: Used,
        note: "of `yarn`, as in transformers; warned of elsewhere",
    },
    Entry { names: &["partial_rotary_factor"], effect: Only(&["1"]), note: "all of a head is rotated" },
    Entry {
        names: &["mrope_interleaved"],
        effect: Only(&["false"]),
        note: "the angles of time, height and width stand one behind the other in these models",
    },
    Entry {
        names: &["short_factor", "long_factor", "low_freq_factor", "high_freq_factor"],
        effect: Ignored(&[]),
        note: "it belongs to a `rope_type` that is refused",
    },
];

/// The vision tower.
pub const VISION: &[Entry] = &[
    Entry {
        names: &["depth", "num_heads", "patch_size", "spatial_merge_size", "temporal_patch_size"],
        effect: Used,
        note: "sizes",
    },
    Entry { names: &["in_channels", "in_chans"], effect: Only(&["3"]), note: "pictures have three channels" },
    Entry { names: &["rope_theta"], effect: Used, note: "where `rope_parameters` has none; 10000 where it is absent" },
    Entry { names: &["rope_parameters"], effect: Used, note: "see below" },
    Entry { names: &["rope_scaling"], effect: Only(&[]), note: "the tower's angles are never scaled" },
    Entry { names: &["initializer_range"], effect: Unused, note: "random weights take that of the language model" },
    Entry {
        names: &["spatial_patch_size", "tokens_per_second"],
        effect: Unused,
        note: "the first is `patch_size` again, the second is of videos, which are not read",
    },
    Entry {
        names: &["in_token_limit", "min_pixels", "max_pixels"],
        effect: Unused,
        note: "a picture's size is said by preprocessor_config.json",
    },
];

/// The rotary positions of the vision tower.
pub const VISION_ROPE: &[Entry] = &[
    Entry {
        names: &["rope_type", "type"],
        effect: Only(&["\"axial\"", "\"default\""]),
        note: "a patch has a row and a column",
    },
    Entry { names: &["rope_theta"], effect: Used, note: "before that outside" },
    Entry { names: &["partial_rotary_factor"], effect: Only(&["1"]), note: "all of a head is rotated" },
];

/// What transformers writes of any config.
pub const ANY_LEVEL: &[Entry] = &[
    Entry { names: &["architectures"], effect: Unused, note: "`model_type` says it, as in transformers" },
    Entry { names: &["model_type"], effect: Unused, note: "below the top level" },
    Entry {
        names: &["torch_dtype", "dtype"],
        effect: Unused,
        note: "weights are kept in bf16; a checkpoint of another type is converted, which is said",
    },
    Entry {
        names: &[
            "transformers_version",
            "_name_or_path",
            "name_or_path",
            "_commit_hash",
            "attn_implementation",
            "_attn_implementation",
            "_attn_implementation_autoset",
            "_attn_implementation_internal",
            "_experts_implementation",
            "experts_implementation",
            "_output_attentions",
            "gradient_checkpointing",
        ],
        effect: Unused,
        note: "who wrote the file, and how another program computes the same",
    },
    Entry {
        names: &[
            "return_dict",
            "use_return_dict",
            "output_attentions",
            "output_hidden_states",
            "output_scores",
            "output_router_logits",
            "return_dict_in_generate",
            "torchscript",
            "use_bfloat16",
            "tf_legacy_loss",
            "chunk_size_feed_forward",
            "pruned_heads",
            "is_encoder_decoder",
            "is_decoder",
            "add_cross_attention",
            "cross_attention_hidden_size",
            "tie_encoder_decoder",
            "finetuning_task",
            "task_specific_params",
            "problem_type",
            "id2label",
            "label2id",
            "num_labels",
            "tokenizer_class",
            "prefix",
            "sep_token_id",
            "decoder_start_token_id",
            "base_model_tp_plan",
            "base_model_pp_plan",
            "is_composition",
        ],
        effect: Unused,
        note: "keys of every transformers config that mean nothing to these models",
    },
    Entry {
        names: &["temperature", "top_p", "typical_p", "repetition_penalty", "length_penalty"],
        effect: Ignored(&["1"]),
        note: ELSEWHERE,
    },
    Entry { names: &["top_k"], effect: Ignored(&["50"]), note: ELSEWHERE },
    Entry { names: &["max_length"], effect: Ignored(&["20"]), note: ELSEWHERE },
    Entry {
        names: &["num_beams", "num_beam_groups", "num_return_sequences"],
        effect: Ignored(&["1"]),
        note: ELSEWHERE,
    },
    Entry {
        names: &["min_length", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "diversity_penalty"],
        effect: Ignored(&["0"]),
        note: ELSEWHERE,
    },
    Entry {
        names: &["do_sample", "early_stopping", "remove_invalid_values"],
        effect: Ignored(&["false"]),
        note: ELSEWHERE,
    },
    Entry {
        names: &[
            "bad_words_ids",
            "forced_bos_token_id",
            "forced_eos_token_id",
            "suppress_tokens",
            "begin_suppress_tokens",
            "exponential_decay_length_penalty",
        ],
        effect: Ignored(&[]),
        note: ELSEWHERE,
    },
];
