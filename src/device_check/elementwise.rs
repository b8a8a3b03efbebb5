//! What is computed element by element, and what moves rows.

use super::calls::{Calls, Within, real, small, values};
use super::check::{Check, Sizes};
use super::norms::of_heads;
use super::values::{Values, cos_sin, start};
use crate::ops::Dtype;
use crate::ops::attention::Heads;
use crate::ops::embedding::ImageRows;
use crate::ops::gelu::GeluForm;

/// The checks of these ops.
pub fn checks(sizes: Sizes) -> Vec<Check> {
    let mut checks = Vec::new();
    for size in [[1, 1], [7, 13], [33, 64], [9, 1030]] {
        checks.push(small("swiglu", format!("{size:?}"), move |calls| swiglu(calls, size)));
        checks.push(small("gelu", format!("{size:?}"), move |calls| gelu(calls, size)));
        checks.push(small("rows", format!("{size:?}"), move |calls| rows(calls, size)));
        checks.push(small("embedding", format!("{size:?}"), move |calls| embedding(calls, size, 11)));
    }
    for (tokens, heads, kv_heads, head_dim) in [(1, 2, 1, 16), (7, 3, 1, 80), (33, 4, 2, 128)] {
        let heads = Heads { heads, kv_heads, head_dim };
        checks.push(small("rope", of_heads(tokens, heads), move |calls| rope(calls, tokens, heads)));
    }
    let draws = |calls: &mut Calls<'_>| random_normal(calls, 7 * 331);
    checks.push(small("random_normal", "[2317]".to_owned(), draws));
    if sizes == Sizes::Real {
        checks.push(real("swiglu", "[512, 18944]".to_owned(), |calls| swiglu(calls, [512, 18_944])));
        checks.push(real("gelu", "[1024, 5120]".to_owned(), |calls| gelu(calls, [1024, 5120])));
        checks.push(real("rows", "[2048, 3584]".to_owned(), |calls| rows(calls, [2048, 3584])));
        checks.push(real("embedding", "[2048, 1536]".to_owned(), |calls| embedding(calls, [2048, 1536], 16_384)));
        let heads = Heads { heads: 28, kv_heads: 4, head_dim: 128 };
        checks.push(real("rope", of_heads(2048, heads), move |calls| rope(calls, 2048, heads)));
    }
    checks
}

fn swiglu(calls: &mut Calls<'_>, [rows, width]: [usize; 2]) {
    let (backend, mut random) = (calls.backend, Values::new(6));
    let gate_up = random.activation(backend, &[rows, 2 * width]);
    let dy = random.activation(backend, &[rows, width]);
    let y = calls.call("swiglu_forward", |backend| backend.swiglu_forward(&gate_up));
    calls.out("y", &y, 1);
    let dgate_up = calls.call("swiglu_backward", |backend| backend.swiglu_backward(&dy, &gate_up));
    calls.out("dgate_up", &dgate_up, 1);
}

fn gelu(calls: &mut Calls<'_>, size: [usize; 2]) {
    let (backend, mut random) = (calls.backend, Values::new(7));
    let [x, dy] = [(); 2].map(|()| random.activation(backend, &size));
    for form in [GeluForm::Erf, GeluForm::Quick] {
        let y = calls.call("gelu_forward", |backend| backend.gelu_forward(&x, form));
        calls.out("y", &y, 1);
        let dx = calls.call("gelu_backward", |backend| backend.gelu_backward(&dy, &x, form));
        calls.out("dx", &dx, 1);
    }
}

fn rope(calls: &mut Calls<'_>, tokens: usize, heads: Heads) {
    let (backend, mut random) = (calls.backend, Values::new(8));
    let [mut qkv, mut dqkv] = [(); 2].map(|()| random.activation(backend, &[tokens, heads.qkv()]));
    let cos_sin = cos_sin(backend, tokens, heads.head_dim);
    calls.call("rope_forward", |backend| backend.rope_forward(&mut qkv, heads, &cos_sin, None));
    calls.out("qkv", &qkv, 2);
    calls.call("rope_backward", |backend| backend.rope_backward(&mut dqkv, heads, &cos_sin));
    calls.out("dqkv", &dqkv, 2);
}

/// Rows are read several times, out of order; some are not read at all.
fn rows(calls: &mut Calls<'_>, [count, dim]: [usize; 2]) {
    let (backend, mut random) = (calls.backend, Values::new(10));
    let mut x = random.activation(backend, &[count, dim]);
    let y = random.activation(backend, &[count, dim]);
    let index = random.indices(count + 3, count);
    let times = index.iter().map(|row| index.iter().filter(|other| *other == row).count()).max().unwrap_or(1);
    let index = backend.indices(&index);
    let dy = random.activation(backend, &[count + 3, dim]);
    let gathered = calls.call("gather_rows", |backend| backend.gather_rows(&x, &index));
    let copied = values(backend, &gathered);
    calls.push("gathered", &gathered, copied, Within::Exact);
    let dx = calls.call("gather_rows_backward", |backend| backend.gather_rows_backward(&dy, &index, count));
    calls.out("dx", &dx, times);
    let joined = calls.call("concat_rows", |backend| backend.concat_rows(&[&x, &dy, &y]));
    let copied = values(backend, &joined);
    calls.push("joined", &joined, copied, Within::Exact);
    calls.call("add", |backend| backend.add(&mut x, &y));
    calls.out("sum", &x, 1);
}

/// Every third token is an image's.
fn embedding(calls: &mut Calls<'_>, [tokens, dim]: [usize; 2], vocab: usize) {
    let (backend, mut random) = (calls.backend, Values::new(11));
    let table = random.tensor(backend, &[vocab, dim], Dtype::Bf16);
    let images = random.activation(backend, &[4, dim]);
    let ids = backend.indices(&random.indices(tokens, vocab));
    let index: Vec<i32> = (0..tokens).map(|t| if t % 3 == 1 { random.below(4) as i32 } else { -1 }).collect();
    let index = backend.indices(&index);
    let dy = random.activation(backend, &[tokens, dim]);
    for images in [Some(ImageRows { rows: &images, index: &index }), None] {
        let x = calls.call("embedding_forward", |backend| backend.embedding_forward(&table, &ids, images));
        let copied = values(backend, &x);
        calls.push("x", &x, copied, Within::Exact);
    }
    let mut dtable = start(backend, &[vocab, dim], Dtype::F32);
    let mut dimages = start(backend, &[4, dim], Dtype::Activation);
    calls.call("embedding_backward", |backend| {
        backend.embedding_backward(&dy, &ids, Some(&index), Some(&mut dtable), Some(&mut dimages));
    });
    calls.out("dtable", &dtable, tokens);
    calls.out("dimages", &dimages, tokens);
}

fn random_normal(calls: &mut Calls<'_>, count: usize) {
    let drawn = calls.call("random_normal", |backend| backend.random_normal(&[count], 0.3, 0x0123_4567, 1 << 40));
    let bits = values(calls.backend, &drawn);
    calls.push("drawn", &drawn, bits, Within::Exact);
}
