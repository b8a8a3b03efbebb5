//! Attention's tiles and splits: how segments are cut into tiles, and what is done with keys of several splits.

use std::sync::Arc;

use thyme_engine::cuda::Cuda;
use thyme_engine::cuda::device::simt::{Simt, SimtOptions};
use thyme_engine::cuda::device::{Argument, Device, Launch, StructBytes};
use thyme_engine::cuda::kernels::common::attention::{AttentionShape, THREADS};
use thyme_engine::cuda::kernels::common::attention_forward::{SPLIT_KEYS, forward_bytes};
use thyme_engine::ops::attention::{Bounds, Heads, Keys, PAGE_TOKENS, Packed};
use thyme_engine::ops::{Backend, Buffers, Dtype, Host, Tensor};
use thyme_engine::reference::Reference;

use super::{Random, checked, downloaded, exact_in_bf16, expect_close, fast, pair, uploaded, values};

/// Sequences of these lengths in pages of random order, `width` columns of the table a sequence. The order of elements in a page is the
/// reference's and CUDA's alike.
struct InPages {
    heads: Heads,
    lengths: Vec<usize>,
    queries: Vec<usize>,
    width: usize,
    pages: Vec<f64>,
    page_tables: Vec<i32>,
    qkv: Vec<f64>,
}

impl InPages {
    fn new(heads: Heads, lengths: &[usize], queries: &[usize], width: usize) -> InPages {
        let mut random = Random::new(31);
        let counts: Vec<usize> = lengths.iter().map(|length| length.div_ceil(PAGE_TOKENS)).collect();
        let count: usize = counts.iter().sum();
        let mut order = random.permutation(count).into_iter();
        // Behind a sequence's last page is what must not be read.
        let row = |pages: &usize| -> Vec<i32> {
            let mut row: Vec<i32> = order.by_ref().take(*pages).map(|page| page as i32).collect();
            row.resize(width, i32::MAX);
            row
        };
        let page_tables = counts.iter().flat_map(row).collect();
        let page = 2 * heads.kv_heads * PAGE_TOKENS * heads.head_dim;
        let pages = exact_in_bf16(&mut random, count * page);
        let qkv = exact_in_bf16(&mut random, queries.iter().sum::<usize>() * heads.qkv());
        InPages { heads, lengths: lengths.to_vec(), queries: queries.to_vec(), width, pages, page_tables, qkv }
    }

    fn upload(&self, backend: &dyn Backend) -> Uploaded {
        let (heads, sequences) = (self.heads, self.lengths.len());
        let up = |values: &[f64], rows: usize| {
            backend.upload(Host::F64(values), &[rows, values.len() / rows], Dtype::Activation)
        };
        let page = 2 * heads.kv_heads * PAGE_TOKENS * heads.head_dim;
        Uploaded {
            heads,
            qkv: up(&self.qkv, self.qkv.len() / heads.qkv()),
            pages: up(&self.pages, self.pages.len() / page),
            page_tables: backend.indices(&self.page_tables).reshape(&[sequences, self.width]),
            lengths: backend.indices(&Vec::from_iter(self.lengths.iter().map(|length| *length as i32))),
            bounds: backend.attention_bounds(&bounds(&self.queries), heads),
        }
    }

    fn attend(&self, backend: &dyn Backend) -> (Tensor, Tensor) {
        self.upload(backend).attend(backend)
    }
}

/// The same on a backend.
struct Uploaded {
    heads: Heads,
    qkv: Tensor,
    pages: Tensor,
    page_tables: Tensor,
    lengths: Tensor,
    bounds: Bounds,
}

impl Uploaded {
    fn attend(&self, backend: &dyn Backend) -> (Tensor, Tensor) {
        let Uploaded { pages, page_tables, lengths, bounds, .. } = self;
        backend.attention_forward(&self.qkv, self.heads, Keys::Paged { pages, bounds, page_tables, lengths })
    }
}

/// Cumulative sums from 0.
fn bounds(lengths: &[usize]) -> Vec<i32> {
    let ends = lengths.iter().scan(0, |end, length| {
        *end += *length as i32;
        Some(*end)
    });
    std::iter::once(0).chain(ends).collect()
}

/// Decoded tokens, one and several of a sequence, and a chunk of a prompt, over keys that end in a split, with it and just behind it.
#[test]
fn splits_are_joined_to_the_softmax_of_all_keys() {
    for head_dim in [128, 80] {
        let heads = Heads { heads: 7, kv_heads: 1, head_dim };
        let call = InPages::new(heads, &[1300, 512, 1025, 600, 3], &[1, 3, 16, 20, 1], 128);
        let simt = fast();
        let ((o, lse), (expected_o, expected_lse)) = (call.attend(&simt), call.attend(&Reference));
        expect_close("o", &simt, &o, &expected_o, 1300 + head_dim);
        expect_close("lse", &simt, &lse, &expected_lse, 1300 + head_dim);
    }
}

/// Tables so wide that the parts of a few tiles are all that may be held: the tiles come one group after the other, and most blocks have a
/// split that no row reaches.
#[test]
fn the_width_of_tables_changes_no_bit() {
    let heads = Heads { heads: 7, kv_heads: 1, head_dim: 128 };
    let call = |width| InPages::new(heads, &[600, 30, 1024, 513, 1, 700], &[1; 6], width);
    let simt = fast();
    let bits = |(o, lse): (Tensor, Tensor)| [values(&simt, &o), values(&simt, &lse)];
    assert_eq!(bits(call(1 << 16).attend(&simt)), bits(call(64).attend(&simt)));
    assert_eq!(simt.memory().unwrap().held, 0);
}

/// A graph of a decoding step is captured once, and its sequences grow into other splits.
#[test]
fn a_captured_step_goes_by_the_lengths_that_it_is_replayed_with() {
    let heads = Heads { heads: 4, kv_heads: 2, head_dim: 32 };
    let simt = fast();
    let call = InPages::new(heads, &[1100, 700, 520], &[1; 3], 128);
    let mut captured = call.upload(&simt);
    let graph = simt.capture(&mut || captured.attend(&simt).0).unwrap();
    for lengths in [[1100, 700, 520], [512, 513, 1], [1025, 3, 516]] {
        simt.overwrite(&mut captured.lengths, Host::I32(&lengths));
        let expected = captured.attend(&simt).0;
        assert_eq!(values(&simt, &graph.replay()), values(&simt, &expected), "{lengths:?}");
    }
}

/// A block whose split lies behind its tile's keys writes no part.
#[test]
fn a_split_behind_all_keys_is_left_alone() {
    let heads = Heads { heads: 1, kv_heads: 1, head_dim: 16 };
    let (splits, length) = (4, SPLIT_KEYS + 1);
    let device: Arc<dyn Device> = Arc::new(Simt::new(SimtOptions::checked()).unwrap());
    let pages_max = splits * SPLIT_KEYS / PAGE_TOKENS;
    let pages_count = length.div_ceil(PAGE_TOKENS);
    let mut page_tables: Vec<i32> = (0..pages_count as i32).collect();
    page_tables.resize(pages_max, i32::MAX);
    let inputs = [
        ("qkv", uploaded(&device, &[0u16; 48])),
        ("bounds", uploaded(&device, &[0i32, 1])),
        ("tiles", uploaded(&device, &[0i32, 0])),
        ("pages", uploaded(&device, &vec![0u16; pages_count * 2 * PAGE_TOKENS * 16])),
        ("page_tables", uploaded(&device, &page_tables)),
        ("lengths", uploaded(&device, &[length as i32])),
    ];
    let parts = uploaded(&device, &vec![f32::NAN; splits * 18]);
    let shape = AttentionShape {
        heads: 1,
        kv_heads: 1,
        group: 1,
        group_inverse: 0,
        segments: 1,
        pages_max: pages_max as i32,
        is_causal: 1,
        scale: heads.scale(),
    };
    let mut arguments: Vec<Argument<'_>> =
        inputs.iter().map(|(role, memory)| Argument::Pointer(role, memory.span())).collect();
    arguments.extend([Argument::Null, Argument::Null, Argument::Pointer("parts", parts.span()), Argument::I32(1)]);
    arguments.push(Argument::Struct(StructBytes::new(bytemuck::bytes_of(&shape))));
    let (grid, block, shared_bytes) = ([1, 1, splits as u32], [THREADS as u32, 1, 1], forward_bytes(16, false));
    let kernel = "attention_forward_paged_16";
    device.launch(&Launch { kernel, grid, block, shared_bytes, arguments: &arguments }).unwrap();
    let written: Vec<bool> = downloaded::<f32>(&device, &parts).chunks(18).map(|part| !part[17].is_nan()).collect();
    assert_eq!(written, [true, true, false, false]);
}

/// As many segments as a large picture has windows, some of them empty, forward and backward.
#[test]
fn many_segments_and_empty_ones_have_their_tiles() {
    let heads = Heads { heads: 2, kv_heads: 2, head_dim: 16 };
    let mut random = Random::new(32);
    let mut lengths: Vec<usize> = (0..660).map(|_| random.below(4)).collect();
    lengths[300] = 70;
    let tokens = lengths.iter().sum();
    let (simt, width) = (fast(), heads.heads * heads.head_dim);
    let qkv = exact_in_bf16(&mut random, tokens * heads.qkv());
    let d_o = exact_in_bf16(&mut random, tokens * width);
    let (qkv, expected_qkv) = pair(&simt, &qkv, &[tokens, heads.qkv()], Dtype::Activation);
    let (d_o, expected_d_o) = pair(&simt, &d_o, &[tokens, width], Dtype::Activation);
    let attend = |backend: &dyn Backend, qkv: &Tensor, d_o: &Tensor| {
        let bounds = backend.attention_bounds(&bounds(&lengths), heads);
        let packed = Packed { bounds: &bounds, prefixes: None, causal: false };
        let (o, lse) = backend.attention_forward(qkv, heads, Keys::Packed(packed));
        let dqkv = backend.attention_backward(d_o, qkv, &o, &lse, heads, packed);
        [o, lse, dqkv]
    };
    let expected = attend(&Reference, &expected_qkv, &expected_d_o);
    for (found, expected) in attend(&simt, &qkv, &d_o).iter().zip(&expected) {
        expect_close("a segment of many", &simt, found, expected, 70 + heads.head_dim);
    }
}

/// Segments that attend to each other's tails in one launch: a group whose rows are no power of two, over several tiles of rows and of keys,
/// with a prefix that ends inside a tile, watched.
#[test]
fn a_prefix_that_ends_inside_a_tile_is_the_sequence_itself() {
    let heads = Heads { heads: 6, kv_heads: 2, head_dim: 48 };
    let simt: Cuda = checked();
    let mut random = Random::new(33);
    let (prefix, own) = (85, 20);
    let rows = exact_in_bf16(&mut random, (prefix + 2 * own) * heads.qkv());
    let attend = |rows: &[f64], bounds: &[i32], prefixes: Option<&[i32]>| {
        let backend: &dyn Backend = &simt;
        let qkv = backend.upload(Host::F64(rows), &[rows.len() / heads.qkv(), heads.qkv()], Dtype::Activation);
        let bounds = backend.attention_bounds(bounds, heads);
        let prefixes = prefixes.map(|prefixes| backend.indices(prefixes));
        let packed = Packed { bounds: &bounds, prefixes: prefixes.as_ref(), causal: true };
        values(backend, &backend.attention_forward(&qkv, heads, Keys::Packed(packed)).0)
    };
    let shared = attend(&rows, &[0, 85, 105, 125], Some(&[-1, 0, 0]));
    let width = heads.heads * heads.head_dim;
    for member in [1, 2] {
        let first = prefix + (member - 1) * own;
        let own_rows = &rows[first * heads.qkv()..][..own * heads.qkv()];
        let alone = attend(&[&rows[..prefix * heads.qkv()], own_rows].concat(), &[0, 105], None);
        assert_eq!(alone[prefix * width..], shared[first * width..][..own * width]);
    }
}
