//! The models whose shapes are timed on a GPU: 64 rows are a decoding step, 4096 a micro-batch.

use thyme_engine::ops::attention::Heads;

use crate::cases::{Sizes, Vision};

pub const MODELS: [Sizes; 2] = [
    Sizes {
        name: "7b",
        dim: 3584,
        hidden: 18944,
        heads: Heads { heads: 28, kv_heads: 4, head_dim: 128 },
        vocab: 152_064,
        layers: &["gate_up", "down", "qkv", "o"],
        products: &[64, 4096, 1, 256, 7, 1024, 16384],
        products_backward: &[4096],
        rows: &[64, 4096],
        packed: &[(4096, 2048), (4096, 4096), (16384, 16384)],
        decode: &[
            (64, 2048, 1),
            (64, 8192, 1),
            (8, 2048, 1),
            (8, 8192, 1),
            (256, 2048, 1),
            (256, 8192, 1),
            (64, 2048, 8),
        ],
        head: &[4096],
        sampled: 64,
        parameters: 1 << 26,
        vision: Some(Vision {
            patches: 4096,
            dim: 1280,
            hidden: 3420,
            heads: Heads { heads: 16, kv_heads: 16, head_dim: 80 },
            window: 64,
        }),
    },
    Sizes {
        name: "2b",
        dim: 1536,
        hidden: 8960,
        heads: Heads { heads: 12, kv_heads: 2, head_dim: 128 },
        vocab: 151_936,
        layers: &["gate_up", "down", "qkv", "o"],
        products: &[64, 4096],
        products_backward: &[4096],
        rows: &[64, 4096],
        packed: &[(4096, 2048)],
        decode: &[(64, 2048, 1)],
        head: &[1024],
        sampled: 64,
        parameters: 1 << 24,
        vision: None,
    },
];

/// What the host plays in time, where a GPU's run is rehearsed.
pub const TOY: Sizes = Sizes {
    name: "toy",
    dim: 64,
    hidden: 128,
    heads: Heads { heads: 4, kv_heads: 2, head_dim: 16 },
    vocab: 512,
    layers: &["gate_up", "qkv"],
    products: &[8],
    products_backward: &[8],
    rows: &[8],
    packed: &[(32, 16)],
    decode: &[(2, 40, 1)],
    head: &[8],
    sampled: 2,
    parameters: 1 << 10,
    vision: None,
};
