//! The rungs of `kernels/ladder/attention/` and `kernels/ladder/decode/`: each gives the bits of the kernels in use, as all form the softmax
//! of 512 keys at a time in tiles of 64.

use std::sync::Arc;

use thyme_engine::cuda::device::simt::{Simt, SimtOptions};
use thyme_engine::cuda::device::{Argument, Device, Launch, Memory, StructBytes};
use thyme_engine::cuda::kernels::common::attention::{AttentionShape, TILE_ROWS};
use thyme_engine::cuda::kernels::common::attention_forward::{SPLIT_KEYS, forward_bytes};
use thyme_engine::cuda::kernels::{self, SOURCES};
use thyme_engine::ops::attention::{Heads, PAGE_TOKENS};

use super::{Random, downloaded, exact_in_bf16, uploaded};

const HEADS: Heads = Heads { heads: 3, kv_heads: 1, head_dim: 128 };

/// The rungs of a ladder in order, and a device that has them and the kernels in use.
fn ladder(folder: &str) -> (Vec<String>, Arc<dyn Device>) {
    let is_rung = |path: &str| path.starts_with(&format!("ladder/{folder}/")) && path.ends_with(".cu");
    let rungs =
        SOURCES.iter().filter(|(path, _)| is_rung(path)).map(|(path, text)| (path.to_string(), text.to_string()));
    let rungs: Vec<(String, String)> = rungs.collect();
    let names = rungs.iter().flat_map(|(_, text)| kernels::names(text)).map(str::to_owned).collect();
    let in_use = kernels::units().filter(|(path, _)| *path == "attention.cu");
    let units = in_use.map(|(path, text)| (path.to_owned(), text.to_owned())).chain(rungs).collect();
    (names, Arc::new(Simt::new(SimtOptions { units, ..SimtOptions::checked() }).unwrap()))
}

/// Random activations on the device.
fn activations(device: &Arc<dyn Device>, random: &mut Random, count: usize) -> Memory {
    let values = exact_in_bf16(random, count).into_iter().map(|x| half::bf16::from_f64(x).to_bits());
    uploaded(device, &Vec::from_iter(values))
}

fn shape(segments: usize, pages_max: usize) -> AttentionShape {
    AttentionShape {
        heads: HEADS.heads as i32,
        kv_heads: HEADS.kv_heads as i32,
        group: 3,
        group_inverse: u32::MAX / 3 + 1,
        segments: segments as i32,
        pages_max: pages_max as i32,
        is_causal: 1,
        scale: HEADS.scale(),
    }
}

/// Segment and first row of each tile, in the order in which a search finds them.
fn tiles(bounds: &[i32]) -> Vec<i32> {
    let of_segment = |(segment, bound): (usize, &[i32])| {
        let rows = (bound[1] - bound[0]) as usize * HEADS.heads;
        Vec::from_iter((0..rows).step_by(TILE_ROWS).flat_map(|first| [segment as i32, first as i32]))
    };
    bounds.windows(2).enumerate().flat_map(of_segment).collect()
}

fn pointers<'a>(of: &'a [(&'static str, Memory)]) -> Vec<Argument<'a>> {
    of.iter().map(|(role, memory)| Argument::Pointer(role, memory.span())).collect()
}

fn run(device: &Arc<dyn Device>, kernel: &str, grid: [usize; 3], joins: bool, arguments: &[Argument<'_>]) {
    let block = [kernels::threads(kernel) as u32, 1, 1];
    let (grid, shared_bytes) = (grid.map(|blocks| blocks as u32), forward_bytes(HEADS.head_dim, joins));
    device.launch(&Launch { kernel, grid, block, shared_bytes, arguments }).unwrap();
}

/// Over a segment of more than one split, with a prefix and without, and short ones.
#[test]
fn every_rung_of_attention_gives_the_bits_of_the_kernel_in_use() {
    let (rungs, device) = ladder("attention");
    assert_eq!(rungs.len(), 4);
    let mut random = Random::new(41);
    let bounds = [0, 530, 571, 571, 574, 600];
    let tokens = 600;
    let tiles = tiles(&bounds);
    let inputs = [
        ("qkv", activations(&device, &mut random, tokens * HEADS.qkv())),
        ("bounds", uploaded(&device, &bounds)),
        ("prefixes", uploaded(&device, &[-1i32, 0, -1, -1, 3])),
        ("tiles", uploaded(&device, &tiles)),
    ];
    let shape = shape(bounds.len() - 1, 0);
    let attend = |kernel: &str| {
        let outputs = [
            ("o", uploaded(&device, &vec![0u16; tokens * HEADS.heads * HEADS.head_dim])),
            ("lse", uploaded(&device, &vec![0f32; tokens * HEADS.heads])),
        ];
        let shape = Argument::Struct(StructBytes::new(bytemuck::bytes_of(&shape)));
        let arguments = [pointers(&inputs), pointers(&outputs), vec![shape]].concat();
        run(&device, kernel, [tiles.len() / 2, HEADS.kv_heads, 1], true, &arguments);
        (downloaded::<u16>(&device, &outputs[0].1), downloaded::<u32>(&device, &outputs[1].1))
    };
    let expected = attend("attention_forward_128");
    assert!(expected.1.iter().all(|bits| f32::from_bits(*bits).is_finite()));
    for rung in &rungs {
        assert!(attend(rung) == expected, "{rung}");
    }
}

/// The parts of splits that keys reach; what is left behind them nobody reads.
#[test]
fn every_rung_of_decoding_gives_the_bits_of_the_kernel_in_use() {
    let (rungs, device) = ladder("decode");
    assert_eq!(rungs.len(), 3);
    let mut random = Random::new(42);
    let (bounds, lengths): ([i32; 4], [usize; 3]) = ([0, 1, 3, 4], [530, 70, 1025]);
    let (splits, pages_max, part_rows) = (3, 3 * SPLIT_KEYS / PAGE_TOKENS, 6);
    let (mut page_tables, mut pages) = (vec![], 0);
    for length in lengths {
        let own = length.div_ceil(PAGE_TOKENS);
        page_tables.extend(pages as i32..(pages + own) as i32);
        page_tables.resize(page_tables.len().next_multiple_of(pages_max), i32::MAX);
        pages += own;
    }
    let tiles = tiles(&bounds);
    let inputs = [
        ("qkv", activations(&device, &mut random, 4 * HEADS.qkv())),
        ("bounds", uploaded(&device, &bounds)),
        ("tiles", uploaded(&device, &tiles)),
        ("pages", activations(&device, &mut random, pages * 2 * PAGE_TOKENS * HEADS.head_dim)),
        ("page_tables", uploaded(&device, &page_tables)),
        ("lengths", uploaded(&device, &lengths.map(|length| length as i32))),
    ];
    let part = HEADS.head_dim + 2;
    let shape = shape(3, pages_max);
    let attend = |kernel: &str, has_results: bool| {
        let parts = uploaded(&device, &vec![0u32; splits * tiles.len() / 2 * part_rows * part]);
        let shape = Argument::Struct(StructBytes::new(bytemuck::bytes_of(&shape)));
        let results = if has_results { vec![Argument::Null; 2] } else { vec![] };
        let rest = vec![Argument::Pointer("parts", parts.span()), Argument::I32(part_rows as i32), shape];
        let arguments = [pointers(&inputs), results, rest].concat();
        run(&device, kernel, [tiles.len() / 2, HEADS.kv_heads, splits], false, &arguments);
        let parts = downloaded::<u32>(&device, &parts);
        let of_tile = parts.chunks(part_rows * part).enumerate();
        let reached = of_tile.filter(|(i, _)| i / lengths.len() * SPLIT_KEYS < lengths[i % lengths.len()]);
        reached.flat_map(|(_, parts)| parts.to_vec()).collect::<Vec<u32>>()
    };
    let expected = attend("attention_forward_paged_128", true);
    assert!(expected.iter().filter(|bits| **bits != 0).count() > 6 * HEADS.heads * HEADS.head_dim);
    for rung in &rungs {
        assert!(attend(rung, false) == expected, "{rung}");
    }
}
