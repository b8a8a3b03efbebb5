//! The CPU's promise of row invariance: a row's result is the same to the bit, whatever else is in the call.

use thyme_engine::cpu::Cpu;
use thyme_engine::ops::attention::{Attention, Heads, Keys, PAGE_TOKENS, Packed};
use thyme_engine::ops::copy_pages::CopyPages;
use thyme_engine::ops::gelu::{Gelu, GeluForm};
use thyme_engine::ops::layer_norm::LayerNorm;
use thyme_engine::ops::rms_norm::RmsNorm;
use thyme_engine::ops::rope::{PageWrite, Rope};
use thyme_engine::ops::swiglu::Swiglu;
use thyme_engine::ops::{Buffers, Dtype, Host, HostMut, Tensor};

/// A small generator (xorshift), so that every run tests the same.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 33) as usize % bound
    }

    fn floats(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| (self.next() >> 40) as f32 / (1 << 23) as f32 * 2.0 - 2.0).collect()
    }

    fn shuffled(&mut self, len: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..len).collect();
        for i in (1..len).rev() {
            order.swap(i, self.below(i + 1));
        }
        order
    }
}

fn upload(cpu: &Cpu, values: &[f32], cols: usize) -> Tensor {
    cpu.upload(Host::F32(values), &[values.len() / cols, cols], Dtype::Activation)
}

fn indices(cpu: &Cpu, values: &[i32]) -> Tensor {
    cpu.upload(Host::I32(values), &[values.len()], Dtype::I32)
}

fn bits(cpu: &Cpu, tensor: &Tensor) -> Vec<u32> {
    let mut values = vec![0.0f32; tensor.len()];
    cpu.download(tensor, HostMut::F32(&mut values));
    values.into_iter().map(f32::to_bits).collect()
}

const SHAPES: [Heads; 5] = [
    Heads { heads: 2, kv_heads: 1, head_dim: 8 },
    Heads { heads: 4, kv_heads: 2, head_dim: 16 },
    Heads { heads: 3, kv_heads: 3, head_dim: 20 },
    Heads { heads: 14, kv_heads: 2, head_dim: 80 },
    Heads { heads: 6, kv_heads: 2, head_dim: 128 },
];

/// Rotates whole sequences at once and attends packed; then feeds them in random chunks, interleaved, through shuffled pages full of
/// not-a-numbers.
#[test]
fn attention_gives_the_same_bits_packed_and_paged_in_any_chunks() {
    let cpu = Cpu::new();
    let mut random = Random(7);
    for heads in SHAPES {
        let lengths: Vec<usize> = vec![1, 16, 17, 2 + random.below(30), 70 + random.below(60)];
        let tokens: usize = lengths.iter().sum();
        let starts: Vec<usize> =
            lengths.iter().scan(0, |end, &length| Some(std::mem::replace(end, *end + length))).collect();
        let width = heads.qkv();
        let raw = random.floats(tokens * width);
        let angles = random.floats(tokens * heads.head_dim);

        let mut qkv = upload(&cpu, &raw, width);
        cpu.rope_forward(&mut qkv, heads, &upload(&cpu, &angles, heads.head_dim), None);
        let mut bounds: Vec<i32> = starts.iter().map(|&start| start as i32).collect();
        bounds.push(tokens as i32);
        let (o, lse) = cpu.attention_forward(
            &qkv,
            heads,
            Keys::Packed(Packed { bounds: &cpu.attention_bounds(&bounds, heads), prefixes: None, causal: true }),
        );
        let (o, lse) = (bits(&cpu, &o), bits(&cpu, &lse));
        assert!(o.iter().chain(&lse).all(|&bits| f32::from_bits(bits).is_finite()));

        let pages_max = lengths.iter().max().unwrap().div_ceil(PAGE_TOKENS);
        let order = random.shuffled(lengths.len() * pages_max);
        let page_tables: Vec<i32> = order.iter().map(|&page| page as i32).collect();
        let page = cpu.attention_pages(1, heads).cols();
        let mut pages = upload(&cpu, &vec![f32::NAN; order.len() * page], page);
        let mut done = vec![0; lengths.len()];
        while done.iter().zip(&lengths).any(|(done, length)| done < length) {
            let most = if random.below(2) == 0 { 2 } else { 40 };
            let counts: Vec<usize> =
                lengths.iter().zip(&done).map(|(length, done)| random.below(most).min(length - done)).collect();
            let mut bounds = vec![0];
            let (mut rows, mut slots, mut chunk, mut cos_sin) = (vec![], vec![], vec![], vec![]);
            for (i, &count) in counts.iter().enumerate() {
                for position in done[i]..done[i] + count {
                    let row = starts[i] + position;
                    rows.push(row);
                    chunk.extend(&raw[row * width..][..width]);
                    cos_sin.extend(&angles[row * heads.head_dim..][..heads.head_dim]);
                    let page = page_tables[i * pages_max + position / PAGE_TOKENS] as usize;
                    slots.push((page * PAGE_TOKENS + position % PAGE_TOKENS) as i32);
                }
                done[i] += count;
                bounds.push(rows.len() as i32);
            }
            if rows.is_empty() {
                continue;
            }
            let mut chunk = upload(&cpu, &chunk, width);
            let write = PageWrite { pages: &mut pages, slots: &indices(&cpu, &slots) };
            cpu.rope_forward(&mut chunk, heads, &upload(&cpu, &cos_sin, heads.head_dim), Some(write));
            let so_far: Vec<i32> = done.iter().map(|&done| done as i32).collect();
            let keys = Keys::Paged {
                pages: &pages,
                bounds: &cpu.attention_bounds(&bounds, heads),
                page_tables: &cpu.upload(Host::I32(&page_tables), &[lengths.len(), pages_max], Dtype::I32),
                lengths: &indices(&cpu, &so_far),
            };
            let (chunk_o, chunk_lse) = cpu.attention_forward(&chunk, heads, keys);
            let (chunk_o, chunk_lse) = (bits(&cpu, &chunk_o), bits(&cpu, &chunk_lse));
            let wide = heads.heads * heads.head_dim;
            for (i, &row) in rows.iter().enumerate() {
                assert_eq!(chunk_o[i * wide..][..wide], o[row * wide..][..wide], "{heads:?} row {row}");
                assert_eq!(chunk_lse[i * heads.heads..][..heads.heads], lse[row * heads.heads..][..heads.heads]);
            }
        }
    }
}

#[test]
fn a_copied_page_holds_what_its_original_held() {
    let cpu = Cpu::new();
    let heads = SHAPES[0];
    let page = cpu.attention_pages(1, heads).cols();
    let values = Random(3).floats(4 * page);
    let mut pages = upload(&cpu, &values, page);
    cpu.copy_pages(&mut pages, &[(0, 2), (2, 1)]);
    let expected: Vec<u32> =
        [0, 0, 0, 3].iter().flat_map(|&i| &values[i * page..][..page]).map(|x| x.to_bits()).collect();
    assert_eq!(bits(&cpu, &pages), expected);
}

#[test]
fn norms_and_activations_of_a_row_do_not_depend_on_the_other_rows() {
    let cpu = Cpu::new();
    let mut random = Random(5);
    for dim in [4, 16, 36, 1280] {
        let rows = 300;
        let (x, add) = (random.floats(rows * dim), random.floats(rows * dim));
        let w = cpu.upload(Host::F32(&random.floats(dim)), &[dim], Dtype::Bf16);
        let b = cpu.upload(Host::F32(&random.floats(dim)), &[dim], Dtype::Bf16);
        let all = |x: &Tensor, add: &Tensor| {
            let rms = cpu.rms_norm_forward(x, Some(add), &w, 1e-6);
            let layer = cpu.layer_norm_forward(x, Some(add), &w, &b, 1e-6);
            let outputs = [
                rms.y,
                rms.rstd,
                layer.y,
                layer.mean,
                layer.rstd,
                cpu.swiglu_forward(x),
                cpu.gelu_forward(x, GeluForm::Erf),
                cpu.gelu_forward(x, GeluForm::Quick),
            ];
            outputs.map(|output| bits(&cpu, &output))
        };
        let together = all(&upload(&cpu, &x, dim), &upload(&cpu, &add, dim));
        for row in [0, 1, 63, 64, 299] {
            let alone = all(&upload(&cpu, &x[row * dim..][..dim], dim), &upload(&cpu, &add[row * dim..][..dim], dim));
            for (alone, together) in alone.iter().zip(&together) {
                assert_eq!(alone[..], together[row * alone.len()..][..alone.len()], "row {row} of width {dim}");
            }
        }
    }
}
