//! Linear maps that an adapter names, in the parameters that they are stacked in.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use thyme_engine::checkpoint::Checkpoint;
use thyme_engine::cpu::Cpu;
use thyme_engine::model::config::Config;
use thyme_engine::model::parameters::{Layout, Projection, Role};
use thyme_engine::ops::{Dtype, Host};

use crate::support::small_policy::CHECKPOINTS;

fn config(name: &str) -> Config {
    Checkpoint::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/model").join(name)).unwrap().config
}

/// PEFT adapts modules by these names.
#[test]
fn stacked_projections_are_addressed_apart() {
    for name in CHECKPOINTS {
        let config = config(name);
        let layout = Layout::new(&config);
        let of_module: BTreeMap<&str, Projection<'_>> =
            layout.projections().map(|projection| (projection.module, projection)).collect();
        let (q, kv) = (config.heads.heads * config.heads.head_dim, config.heads.kv_heads * config.heads.head_dim);
        for (layer, ids) in layout.layers.iter().enumerate() {
            let at = |module: &str| &of_module[format!("model.layers.{layer}.{module}").as_str()];
            for (module, weight, rows) in [
                ("self_attn.q_proj", ids.qkv.weight, 0..q),
                ("self_attn.k_proj", ids.qkv.weight, q..q + kv),
                ("self_attn.v_proj", ids.qkv.weight, q + kv..q + 2 * kv),
                ("self_attn.o_proj", ids.output.weight, 0..config.dim),
                ("mlp.gate_proj", ids.up.weight, 0..config.hidden),
                ("mlp.up_proj", ids.up.weight, config.hidden..2 * config.hidden),
                ("mlp.down_proj", ids.down.weight, 0..config.dim),
            ] {
                assert_eq!((at(module).weight, at(module).rows.clone()), (weight, rows), "{name} {module}");
            }
        }
        assert!(of_module.contains_key("visual.blocks.0.attn.qkv") && of_module.contains_key("visual.merger.mlp.2"));
    }
}

#[test]
fn every_matrix_is_made_of_projections_but_embeddings_and_head() {
    for name in CHECKPOINTS {
        let layout = Layout::new(&config(name));
        let mut rows = BTreeMap::new();
        for projection in layout.projections() {
            let next = rows.entry(projection.weight).or_insert(0);
            assert_eq!(projection.rows.start, *next, "{name}: {}", projection.module);
            // Odd widths of the tower's MLP are held as multiples of 8.
            let spec = layout.spec(projection.weight);
            let is_padded = spec.shape[0] > spec.stored_shape()[0];
            *next = if is_padded { projection.rows.end.next_multiple_of(8) } else { projection.rows.end };
        }
        assert!(rows.iter().all(|(id, rows)| layout.spec(*id).shape[0] == *rows), "{name}");
        let matrices = layout.specs.iter().filter(|spec| spec.role == Role::Matrix);
        let others: Vec<&str> = matrices
            .filter(|spec| !rows.keys().any(|id| std::ptr::eq(layout.spec(*id), *spec)))
            .map(|spec| spec.name())
            .collect();
        let wanted = ["model.embed_tokens.weight", "lm_head.weight", "visual.patch_embed.proj.weight"];
        assert!(others.iter().all(|name| wanted.contains(name)), "{name}: {others:?}");
    }
}

/// What a projection's rows give is its part of the stacked product, to the bit.
#[test]
fn a_projection_of_the_stack_is_the_projection_alone() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/model/qwen2_vl_untied_nested");
    let checkpoint = Checkpoint::open(&folder).unwrap();
    let model = checkpoint.model(Arc::new(Cpu::new()));
    let weights = checkpoint.weights(&model).unwrap();
    let (backend, layout) = (&*model.backend, &model.layout);
    for projection in layout.projections().filter(|projection| projection.module.starts_with("model.layers.0.")) {
        let (stacked, spec) = (&weights.values[projection.weight], layout.spec(projection.weight));
        let (out, width) = (spec.shape[0], spec.shape[1]);
        let x: Vec<f32> = (0..3 * width).map(|i| (i % 7) as f32 - 3.0).collect();
        let x = backend.upload(Host::F32(&x), &[3, width], Dtype::Activation);
        let own = &backend.to_f32(stacked)[projection.rows.start * width..projection.rows.end * width];
        let own = backend.upload(Host::F32(own), &[projection.rows.len(), width], Dtype::Bf16);
        let alone = backend.to_f32(&backend.linear_forward(&x, &own, None));
        let whole = backend.to_f32(&backend.linear_forward(&x, stacked, None));
        let part: Vec<f32> = whole.chunks(out).flat_map(|row| row[projection.rows.clone()].to_vec()).collect();
        assert_eq!(alone, part, "{}", projection.module);
    }
}
