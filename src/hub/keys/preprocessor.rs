//! The keys of `preprocessor_config.json` and `processor_config.json`.

use super::entry::Effect::{Ignored, Only, Unused, Used};
use super::entry::Entry;

/// How pictures are prepared.
pub const PREPROCESSOR: &[Entry] = &[
    Entry {
        names: &["patch_size", "merge_size", "temporal_patch_size"],
        effect: Used,
        note: "must be those of config.json",
    },
    Entry {
        names: &["min_pixels", "max_pixels"],
        effect: Used,
        note: "limits of a picture's area after resizing; before those of `size`; 3136 and 1003520 where both are absent",
    },
    Entry {
        names: &["size"],
        effect: Used,
        note: "`shortest_edge` and `longest_edge`, or `min_pixels` and `max_pixels`; other keys are refused",
    },
    Entry { names: &["image_mean", "image_std"], effect: Used, note: "three numbers each" },
    Entry { names: &["do_resize"], effect: Only(&["true"]), note: "sides must be multiples of a merged patch" },
    Entry {
        names: &["do_rescale"],
        effect: Only(&["true"]),
        note: "levels are brought to 0 to 1 before they are normalised",
    },
    Entry { names: &["rescale_factor"], effect: Only(&["0.00392156862745098"]), note: "levels are divided by 255" },
    Entry {
        names: &["do_normalize"],
        effect: Only(&["true"]),
        note: "give `image_mean` 0 and `image_std` 1 to leave levels as they are",
    },
    Entry { names: &["do_convert_rgb"], effect: Only(&["true"]), note: "pictures are decoded to RGB" },
    Entry { names: &["resample"], effect: Only(&["3", "\"bicubic\""]), note: "pictures are resized bicubically" },
    Entry {
        names: &["image_processor_type"],
        effect: Only(&[
            "\"Qwen2VLImageProcessor\"",
            "\"Qwen2VLImageProcessorFast\"",
            "\"Qwen2VLImageProcessorPil\"",
            "\"Qwen2_5_VLImageProcessor\"",
        ]),
        note: "pictures are prepared as `Qwen2VLImageProcessorPil` does; take the file from a Qwen2-VL or Qwen2.5-VL checkpoint",
    },
    Entry {
        names: &["do_center_crop", "crop_size", "do_pad", "pad_size", "default_to_square", "size_divisor"],
        effect: Unused,
        note: "this image processor does not read them",
    },
    Entry {
        names: &[
            "processor_class",
            "feature_extractor_type",
            "image_processor_class",
            "video_processor_type",
            "_processor_class",
            "_valid_processor_keys",
            "valid_kwargs",
            "data_format",
            "input_data_format",
            "device",
            "return_tensors",
            "disable_grouping",
            "image_seq_length",
            "backend",
            "use_fast",
            "transformers_version",
            "model_input_names",
            "return_metadata",
        ],
        effect: Unused,
        note: "how another program loads the file, or lays out the same numbers",
    },
    Entry {
        names: &[
            "do_sample_frames",
            "fps",
            "num_frames",
            "min_frames",
            "max_frames",
            "max_video_tokens",
            "video_metadata",
        ],
        effect: Unused,
        note: "of videos, which are not read",
    },
    Entry { names: &["auto_map"], effect: Ignored(&[]), note: "Python code beside the checkpoint is not run" },
];

/// Keys of `size`, the limits of a picture's area.
pub const SIZE: &[Entry] = &[
    Entry {
        names: &["shortest_edge", "longest_edge", "min_pixels", "max_pixels"],
        effect: Used,
        note: "limits of the area",
    },
    Entry {
        names: &["height", "width", "max_height", "max_width"],
        effect: Only(&[]),
        note: "a picture keeps its shape; give `shortest_edge` and `longest_edge`, which limit its area",
    },
];

/// A processor as a whole.
pub const PROCESSOR: &[Entry] = &[
    Entry { names: &["image_processor"], effect: Used, note: "before preprocessor_config.json, as in transformers" },
    Entry { names: &["video_processor"], effect: Unused, note: "videos are not read" },
    Entry { names: &["chat_template"], effect: Used, note: "where no other file has one" },
    Entry {
        names: &["processor_class", "image_token", "video_token", "tokenizer", "transformers_version"],
        effect: Unused,
        note: "how another program loads the file; tokens are looked up by name in the tokenizer",
    },
    Entry { names: &["auto_map"], effect: Ignored(&[]), note: "Python code beside the checkpoint is not run" },
];
