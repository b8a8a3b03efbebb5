//! The rungs of `kernels/ladder/`, each on the same work as the others of its ladder. They are no part of the program: the host compiles them
//! with the kernels, and a GPU loads them from the folder that `--ladder=FOLDER` names, a cubin each, as `tools/gpu_check.sh pack` makes them.

use std::path::Path;
use std::sync::Arc;

use thyme_engine::cuda::device::gpu::Gpu;
use thyme_engine::cuda::device::{Argument, Device, DeviceError, Launch, Memory};
use thyme_engine::cuda::kernels::common::attention::{AttentionShape, TILE_ROWS};
use thyme_engine::cuda::kernels::common::attention_forward::{SPLIT_KEYS, forward_bytes};
use thyme_engine::cuda::kernels::{self, SOURCES, ladder_gemm};
use thyme_engine::ops::attention::{Heads, PAGE_TOKENS};
use thyme_engine::ops::sample::philox_uniform;

use crate::cases::Runner;
use crate::rows::{bytes, flop};

/// The work of each ladder.
pub struct Work {
    /// Rows, columns and terms of a product.
    pub product: [usize; 3],
    /// Query heads; there is a key/value head for every 7 of them, 128 wide.
    pub heads: usize,
    /// Sequences of a batch, and tokens of each.
    pub packed: [usize; 2],
    /// Sequences that decode, and keys of each.
    pub decode: [usize; 2],
}

/// That of Qwen2.5-VL-7B.
pub const ON_GPU: Work = Work { product: [4096, 37_888, 3584], heads: 28, packed: [2, 2048], decode: [64, 2048] };
/// What the host plays in time.
pub const REHEARSAL: Work = Work { product: [40, 72, 64], heads: 7, packed: [1, 20], decode: [2, 70] };

/// Sources of rungs, path and text.
pub fn units() -> impl Iterator<Item = (&'static str, &'static str)> {
    SOURCES.iter().copied().filter(|(path, _)| path.starts_with("ladder/") && path.ends_with(".cu"))
}

/// Loads the rungs' images of a folder into a GPU.
pub fn load(gpu: &mut Gpu, folder: &Path) -> Result<(), DeviceError> {
    for (path, text) in units() {
        let name = path.rsplit('/').next().unwrap_or(path).replace(".cu", ".cubin");
        let image = folder.join(name);
        let read = std::fs::read(&image);
        let read = read.map_err(|source| DeviceError::Io { path: image.display().to_string(), source })?;
        gpu.load_image(path, text, &read)?;
    }
    Ok(())
}

/// Runs every rung on its ladder's work.
pub fn all(runner: &mut dyn Runner, device: &Arc<dyn Device>, work: &Work) {
    gemm(runner, device, work.product);
    attention(runner, device, work.heads, work.packed);
    decode(runner, device, work.heads, work.decode);
}

fn rungs(folder: &str) -> Vec<&'static str> {
    let of_folder = units().filter(|(path, _)| path.starts_with(&format!("ladder/{folder}/")));
    of_folder.flat_map(|(_, text)| kernels::names(text)).collect()
}

fn gemm(runner: &mut dyn Runner, device: &Arc<dyn Device>, [rows, columns, inner]: [usize; 3]) {
    use ladder_gemm::{gemm_1_small_tile, gemm_2_vectors, gemm_3_pointers, gemm_4_large_tile, gemm_5_product};
    let tiles = [
        [gemm_1_small_tile::TILE_M, gemm_1_small_tile::TILE_N, gemm_1_small_tile::SHARED_BYTES],
        [gemm_2_vectors::TILE_M, gemm_2_vectors::TILE_N, gemm_2_vectors::SHARED_BYTES],
        [gemm_3_pointers::TILE_M, gemm_3_pointers::TILE_N, gemm_3_pointers::SHARED_BYTES],
        [gemm_4_large_tile::TILE_M, gemm_4_large_tile::TILE_N, gemm_4_large_tile::SHARED_BYTES],
        [gemm_5_product::TILE_M, gemm_5_product::TILE_N, gemm_5_product::SHARED_BYTES],
    ];
    let [x, w, y] = [rows * inner, columns * inner, rows * columns].map(|count| activations(device, count));
    let sizes = [rows, columns, inner].map(|size| Argument::I32(size as i32));
    let arguments = [&pointers(&[("x", &x), ("w", &w), ("y", &y)])[..], &sizes].concat();
    for (rung, [tile_rows, tile_columns, shared_bytes]) in rungs("gemm").into_iter().zip(tiles) {
        let grid = [columns.div_ceil(tile_columns), rows.div_ceil(tile_rows), 1];
        let case = format!("{rows}x{inner} to {columns}");
        runner.run(rung, &case, flop(2 * rows * columns * inner), &mut |_| {
            launch(device, rung, grid, shared_bytes, &arguments);
        });
    }
}

fn attention(runner: &mut dyn Runner, device: &Arc<dyn Device>, query_heads: usize, [sequences, tokens]: [usize; 2]) {
    let heads = heads(query_heads);
    let bounds: Vec<i32> = (0..=sequences).map(|i| (i * tokens) as i32).collect();
    let tiles = tiles(&bounds, heads);
    let all = sequences * tokens;
    let [qkv, o] = [heads.qkv(), heads.heads * heads.head_dim].map(|width| activations(device, all * width));
    let [bounds, prefixes] = [bounds, vec![-1; sequences]].map(|values| uploaded(device, &values));
    let (tile_table, lse) = (uploaded(device, &tiles), uploaded(device, &vec![0f32; all * heads.heads]));
    let of =
        [("qkv", &qkv), ("bounds", &bounds), ("prefixes", &prefixes), ("tiles", &tile_table), ("o", &o), ("lse", &lse)];
    let arguments = [&pointers(&of)[..], &[Argument::by_value(&shape(heads, sequences, 0))]].concat();
    // Half the pairs of a causal softmax.
    let cost = flop(2 * all * tokens * heads.heads * heads.head_dim);
    let shared_bytes = forward_bytes(heads.head_dim, tokens > SPLIT_KEYS);
    for rung in rungs("attention") {
        runner.run(rung, &format!("{sequences}x{tokens} causal"), cost, &mut |_| {
            launch(device, rung, [tiles.len() / 2, heads.kv_heads, 1], shared_bytes, &arguments);
        });
    }
}

fn decode(runner: &mut dyn Runner, device: &Arc<dyn Device>, query_heads: usize, [sequences, keys]: [usize; 2]) {
    let heads = heads(query_heads);
    let bounds: Vec<i32> = (0..=sequences as i32).collect();
    let tiles = tiles(&bounds, heads);
    let (splits, pages_max, part_rows) =
        (keys.div_ceil(SPLIT_KEYS), keys.div_ceil(PAGE_TOKENS), heads.heads / heads.kv_heads);
    let page_tables: Vec<i32> = (0..sequences * pages_max).map(|page| page as i32).collect();
    let page = 2 * heads.kv_heads * PAGE_TOKENS * heads.head_dim;
    let [qkv, pages] = [sequences * heads.qkv(), sequences * pages_max * page].map(|count| activations(device, count));
    let lengths = vec![keys as i32; sequences];
    let [bounds, tile_table, page_tables, lengths] =
        [bounds, tiles.clone(), page_tables, lengths].map(|values| uploaded(device, &values));
    let rows = splits * tiles.len() / 2 * heads.kv_heads * part_rows;
    let parts = uploaded(device, &vec![0f32; rows * (heads.head_dim + 2)]);
    let of = [
        ("qkv", &qkv),
        ("bounds", &bounds),
        ("tiles", &tile_table),
        ("pages", &pages),
        ("page_tables", &page_tables),
        ("lengths", &lengths),
        ("parts", &parts),
    ];
    let rest = [Argument::I32(part_rows as i32), Argument::by_value(&shape(heads, sequences, pages_max))];
    let arguments = [&pointers(&of)[..], &rest].concat();
    let moved = bytes(sequences * keys * 2 * heads.kv_heads * heads.head_dim * 2);
    for rung in rungs("decode") {
        runner.run(rung, &format!("{sequences} of {keys}"), moved, &mut |_| {
            let grid = [tiles.len() / 2, heads.kv_heads, splits];
            launch(device, rung, grid, forward_bytes(heads.head_dim, false), &arguments);
        });
    }
}

fn heads(heads: usize) -> Heads {
    Heads { heads, kv_heads: heads / 7, head_dim: 128 }
}

fn shape(heads: Heads, segments: usize, pages_max: usize) -> AttentionShape {
    let group = heads.heads / heads.kv_heads;
    AttentionShape {
        heads: heads.heads as i32,
        kv_heads: heads.kv_heads as i32,
        group: group as i32,
        group_inverse: (1u64 << 32).div_ceil(group as u64) as u32,
        segments: segments as i32,
        pages_max: pages_max as i32,
        is_causal: 1,
        scale: heads.scale(),
    }
}

/// Segment and first row of each tile, in the order in which a search finds them.
fn tiles(bounds: &[i32], heads: Heads) -> Vec<i32> {
    let group = heads.heads / heads.kv_heads;
    let of_segment = |(segment, bound): (usize, &[i32])| {
        let rows = (bound[1] - bound[0]) as usize * group;
        Vec::from_iter((0..rows).step_by(TILE_ROWS).flat_map(|first| [segment as i32, first as i32]))
    };
    bounds.windows(2).enumerate().flat_map(of_segment).collect()
}

/// Random bf16 between -1/2 and 1/2.
fn activations(device: &Arc<dyn Device>, count: usize) -> Memory {
    let some = (0..65_521u64.min(count as u64)).map(|i| half::bf16::from_f64(philox_uniform(0, 1, i) - 0.5).to_bits());
    let some: Vec<u16> = some.collect();
    uploaded(device, &Vec::from_iter(some.iter().copied().cycle().take(count)))
}

fn uploaded<T: bytemuck::NoUninit>(device: &Arc<dyn Device>, values: &[T]) -> Memory {
    let memory = Memory::new(device, size_of_val(values)).expect("memory for a rung");
    device.copy_in(memory.span(), bytemuck::cast_slice(values)).expect("a copy");
    memory
}

fn pointers<'a>(of: &[(&'static str, &'a Memory)]) -> Vec<Argument<'a>> {
    of.iter().map(|(role, memory)| Argument::Pointer(role, memory.span())).collect()
}

fn launch(device: &Arc<dyn Device>, kernel: &str, grid: [usize; 3], shared_bytes: usize, arguments: &[Argument<'_>]) {
    let (grid, block) = (grid.map(|blocks| blocks as u32), [kernels::threads(kernel) as u32, 1, 1]);
    device.launch(&Launch { kernel, grid, block, shared_bytes, arguments }).expect("a rung that runs");
}
