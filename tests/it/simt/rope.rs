//! Rotary positions and the page write on simt against the reference.

use thyme_engine::ops::attention::{Heads, PAGE_TOKENS};
use thyme_engine::ops::rope::{PageWrite, Rope};
use thyme_engine::ops::{Buffers, Dtype, Host};
use thyme_engine::reference::Reference;

use super::{Random, checked, exact_in_bf16, expect_close, pair, values};

/// Heads of each width that has its own threads, and of others; more of them than threads load at once.
const SHAPES: [(usize, usize, usize); 7] =
    [(4, 2, 2), (17, 1, 6), (2, 2, 32), (6, 2, 80), (66, 1, 128), (3, 1, 64), (1, 1, 288)];

/// Cosines, then sines, of random angles.
fn cos_sin(random: &mut Random, tokens: usize, head_dim: usize) -> Vec<f64> {
    let row = |_| {
        let angles = random.normals(head_dim / 2);
        let cosines = angles.iter().map(|angle| f64::from((10.0 * angle).cos() as f32));
        let sines = angles.iter().map(|angle| f64::from((10.0 * angle).sin() as f32));
        Vec::from_iter(cosines.chain(sines))
    };
    (0..tokens).flat_map(row).collect()
}

#[test]
fn rope_agrees_with_the_reference_in_both_directions_and_writes_what_it_rotated() {
    let cuda = checked();
    let mut random = Random::new(53);
    for (tokens, (heads, kv_heads, head_dim)) in [0, 1, 33].into_iter().flat_map(|t| SHAPES.map(|shape| (t, shape))) {
        let heads = Heads { heads, kv_heads, head_dim };
        let what = format!("rope {tokens} tokens, {heads:?}");
        let shape = [tokens, heads.qkv()];
        let activation = exact_in_bf16(&mut random, tokens * heads.qkv());
        let (angles, rangles) = pair(&cuda, &cos_sin(&mut random, tokens, head_dim), &[tokens, head_dim], Dtype::F32);
        let (mut qkv, mut rqkv) = pair(&cuda, &activation, &shape, Dtype::Activation);
        let (mut dqkv, mut rdqkv) = pair(&cuda, &activation, &shape, Dtype::Activation);

        let count = tokens.div_ceil(PAGE_TOKENS) + 1;
        let page = 2 * kv_heads * PAGE_TOKENS * head_dim;
        let mut pages = cuda.zeros(&[count, page], Dtype::Activation);
        let slots: Vec<i32> = random.some(count * PAGE_TOKENS, tokens).into_iter().map(|slot| slot as i32).collect();
        let uploaded = cuda.upload(Host::I32(&slots), &[tokens], Dtype::I32);
        let write = PageWrite { pages: &mut pages, slots: &uploaded };
        cuda.rope_forward(&mut qkv, heads, &angles, Some(write));
        Reference.rope_forward(&mut rqkv, heads, &rangles, None);
        expect_close(&what, &cuda, &qkv, &rqkv, 2);

        cuda.rope_backward(&mut dqkv, heads, &angles);
        Reference.rope_backward(&mut rdqkv, heads, &rangles);
        expect_close(&format!("{what}: dqkv"), &cuda, &dqkv, &rdqkv, 2);

        // [pages, keys and values, kv_heads, PAGE_TOKENS, head_dim], each slot the rotated row's own bits.
        let mut expected = vec![0.0; count * page];
        for (row, slot) in values(&cuda, &qkv).chunks_exact(heads.qkv()).zip(slots.iter().map(|slot| *slot as usize)) {
            for (head, from) in row[heads.heads * head_dim..].chunks_exact(head_dim).enumerate() {
                let line = (slot / PAGE_TOKENS * 2 * kv_heads + head) * PAGE_TOKENS + slot % PAGE_TOKENS;
                expected[line * head_dim..][..head_dim].copy_from_slice(from);
            }
        }
        assert_eq!(values(&cuda, &pages), expected, "{what}: pages");
    }
}
