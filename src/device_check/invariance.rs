//! A row of a forward result has the same bits alone and in any company; keys have them packed and in pages; and the sampler's
//! log-probabilities are the trainer's.

use super::attention::{Layout, PagedKeys, Sequences, bounds};
use super::calls::{Calls, place, shown};
use super::check::{Check, Fault, Sizes, Subject};
use super::norms::of_heads;
use super::values::{Values, cos_sin};
use crate::ops::attention::{Heads, Keys, Packed};
use crate::ops::rope::PageWrite;
use crate::ops::sample::SamplingParams;
use crate::ops::{Backend, Dtype, Host, Tensor};

/// Rows of the smaller calls.
const COMPANY: [usize; 3] = [1, 7, 65];

/// Results of an op on rows.
type Forward = fn(&mut Calls<'_>, &Tensor, Row) -> Vec<RowResult>;

/// A result with as many rows as the call has.
struct RowResult {
    name: &'static str,
    kernel: String,
    tensor: Tensor,
}

impl RowResult {
    /// A result of the last call.
    fn new(calls: &Calls<'_>, name: &'static str, tensor: Tensor) -> RowResult {
        RowResult { name, kernel: calls.kernel_of(&tensor), tensor }
    }
}

/// What a row has, and what is made of it.
#[derive(Clone, Copy, Debug)]
struct Row {
    width: usize,
    result: usize,
}

/// The checks of ops on rows, and of attention.
pub fn checks(sizes: Sizes) -> Vec<Check> {
    let is_real = sizes == Sizes::Real;
    let rows = if is_real { 4096 } else { 130 };
    let linear = if is_real { [300, 131, 3584, 512] } else { [37, 5, 300, 131] };
    let mut ops: Vec<(&'static str, Forward, usize, usize)> = vec![
        ("linear_forward", linear_forward as Forward, linear[0], linear[1]),
        ("linear_forward", linear_forward, linear[2], linear[3]),
        ("rms_norm_forward", rms_norm_forward, 131, 131),
        ("layer_norm_forward", layer_norm_forward, 64, 64),
        ("swiglu_forward", swiglu_forward, 26, 13),
        ("token_logprob", token_logprob, 37, 131),
        ("token_logprob", token_logprob, 40, 1032),
    ];
    if is_real {
        ops.push(("rms_norm_forward", rms_norm_forward, 3584, 3584));
    }
    let mut checks = Vec::new();
    for (name, forward, width, result) in ops {
        let row = Row { width, result };
        let shape = format!("a row of {width} to {result} alone, among 7, 65 and {rows}");
        checks.push(Check::new(name, shape, move |subject| rows_agree(subject, row, rows, forward)));
    }
    for head_dim in [16, 80, 128] {
        let heads = Heads { heads: 4, kv_heads: 2, head_dim };
        let count = if is_real { 65 } else { 9 };
        let longest = if is_real { 2100 } else { 70 };
        let shape = format!("{}: a sequence alone, among {count}, packed and in pages", of_heads(longest, heads));
        checks.push(Check::new("attention", shape, move |subject| sequences_agree(subject, heads, count, longest)));
    }
    let heads = Heads { heads: 2, kv_heads: 1, head_dim: 16 };
    let shape = format!("{}: over splits of keys", of_heads(1100, heads));
    checks.push(Check::new("attention", shape, move |subject| sequences_agree(subject, heads, 2, 1100)));
    checks
}

fn linear_forward(calls: &mut Calls<'_>, x: &Tensor, Row { width, result }: Row) -> Vec<RowResult> {
    let (backend, mut random) = (calls.backend, Values::new(31));
    let (w, b) = (random.matrix(backend, [result, width]), random.vector(backend, result));
    let y = calls.call("linear_forward", |backend| backend.linear_forward(x, &w, Some(&b)));
    vec![RowResult::new(calls, "y", y)]
}

fn rms_norm_forward(calls: &mut Calls<'_>, x: &Tensor, Row { width, .. }: Row) -> Vec<RowResult> {
    let w = Values::new(32).vector(calls.backend, width);
    let normed = calls.call("rms_norm_forward", |backend| backend.rms_norm_forward(x, Some(x), &w, 1e-6));
    let sum = normed.sum.map(|sum| ("sum", sum));
    let results = [("y", normed.y), ("rstd", normed.rstd)].into_iter().chain(sum);
    results.map(|(name, tensor)| RowResult::new(calls, name, tensor)).collect()
}

fn layer_norm_forward(calls: &mut Calls<'_>, x: &Tensor, Row { width, .. }: Row) -> Vec<RowResult> {
    let mut random = Values::new(33);
    let [w, b] = [(); 2].map(|()| random.vector(calls.backend, width));
    let normed = calls.call("layer_norm_forward", |backend| backend.layer_norm_forward(x, None, &w, &b, 1e-6));
    let results = [("y", normed.y), ("mean", normed.mean), ("rstd", normed.rstd)];
    results.map(|(name, tensor)| RowResult::new(calls, name, tensor)).into()
}

fn swiglu_forward(calls: &mut Calls<'_>, x: &Tensor, _: Row) -> Vec<RowResult> {
    let y = calls.call("swiglu_forward", |backend| backend.swiglu_forward(x));
    vec![RowResult::new(calls, "y", y)]
}

/// Logits, what is sampled from them, and what the trainer finds for that: each as rows. Sampler and trainer differ by zero.
fn token_logprob(calls: &mut Calls<'_>, h: &Tensor, Row { width, result }: Row) -> Vec<RowResult> {
    let (backend, rows) = (calls.backend, h.rows());
    let w = Values::new(34).matrix(backend, [result, width]);
    let how = SamplingParams {
        temperature: 0.7,
        top_k: 20,
        top_p: 0.9,
        min_p: 0.0,
        repetition_penalty: 1.1,
        seen: &[3, 5],
        bias: &[],
        allowed: None,
        seed: 7,
        sequence: 8,
        position: 9,
    };
    let excluded = [7, result as u32 - 1];
    let z = calls.call("logits", |backend| backend.logits(h, &w));
    let logits_kernel = calls.kernel_of(&z);
    let sampled = calls.call("sample", |backend| backend.sample(&z, &vec![how; rows], &excluded));
    let sample_kernel = calls.kernel_of(&z);
    let targets = backend.indices(&Vec::from_iter(sampled.iter().map(|sampled| sampled.token as i32)));
    let temperatures = backend.upload(Host::F32(&vec![how.temperature; rows]), &[rows], Dtype::F32);
    let found = calls.call("token_logprob_forward", |backend| {
        backend.token_logprob_forward(h, &w, &targets, &temperatures, &excluded)
    });
    let pairs = [
        (backend.to_f32(&found.logprob), Vec::from_iter(sampled.iter().map(|sampled| sampled.logprob))),
        (
            backend.to_f32(&found.logprob_at_temperature),
            Vec::from_iter(sampled.iter().map(|sampled| sampled.logprob_at_temperature)),
        ),
        (backend.to_f32(&found.entropy), Vec::from_iter(sampled.iter().map(|sampled| sampled.entropy))),
    ];
    let differing = |i: usize| pairs.iter().any(|(trainer, sampler)| trainer[i].to_bits() != sampler[i].to_bits());
    let differing: Vec<f32> = (0..rows).map(|i| f32::from(differing(i))).collect();
    let tokens: Vec<f32> = sampled.iter().map(|sampled| sampled.token as f32).collect();
    let [differing, tokens] = [differing, tokens].map(|of| backend.upload(Host::F32(&of), &[rows], Dtype::F32));
    let mut results = vec![
        RowResult { name: "z", kernel: logits_kernel, tensor: z },
        RowResult { name: "token", kernel: sample_kernel.clone(), tensor: tokens },
        RowResult { name: SAMPLER_AND_TRAINER, kernel: sample_kernel, tensor: differing },
    ];
    for (name, tensor) in [
        ("logprob", found.logprob),
        ("logprob_at_temperature", found.logprob_at_temperature),
        ("lse_at_temperature", found.lse_at_temperature),
    ] {
        results.push(RowResult::new(calls, name, tensor));
    }
    results
}

/// A result that has to be zero.
const SAMPLER_AND_TRAINER: &str = "whether sampler and trainer differ";

fn rows_agree(subject: &Subject, row: Row, rows: usize, forward: Forward) -> Result<(), Fault> {
    let (backend, mut random) = (&*subject.backend, Values::new(30));
    let x = random.activation(backend, &[rows, row.width]);
    let mut calls = Calls::new(backend, subject.launches.as_ref());
    let together = forward(&mut calls, &x, row);
    let all: Vec<Vec<f32>> = together.iter().map(|result| backend.to_f32(&result.tensor)).collect();
    for (RowResult { name, kernel, .. }, values) in together.iter().zip(&all) {
        let differs = values.iter().position(|differs| *name == SAMPLER_AND_TRAINER && *differs != 0.0);
        if let Some(at) = differs {
            let (kernel, place) = (kernel.clone(), format!("row {at}, its log-probabilities"));
            let (expected, got) = ("those of token_logprob_forward".to_owned(), "others".to_owned());
            return Err(Fault::Value { kernel, place, expected, got });
        }
    }
    for count in COMPANY {
        let mut chosen = random.permutation(rows);
        chosen.truncate(count);
        let index = backend.indices(&Vec::from_iter(chosen.iter().map(|row| *row as i32)));
        let gathered = backend.gather_rows(&x, &index);
        for (RowResult { name, kernel, tensor }, all) in forward(&mut calls, &gathered, row).iter().zip(&all) {
            let width = tensor.len() / count;
            let expected = |at: usize| all[chosen[at / width] * width + at % width];
            let of_rows = format!("{name} in a call of {count}");
            expect_bits(&of_rows, &backend.to_f32(tensor), [count, width], expected, || kernel.clone())?;
        }
    }
    Ok(())
}

/// Every value is as expected, to the bit.
fn expect_bits(
    what: &str,
    found: &[f32],
    shape: [usize; 2],
    expected: impl Fn(usize) -> f32,
    kernel: impl Fn() -> String,
) -> Result<(), Fault> {
    let differing = (0..found.len()).find(|at| found[*at].to_bits() != expected(*at).to_bits() || found[*at].is_nan());
    differing.map_or(Ok(()), |at| {
        Err(Fault::Value {
            kernel: kernel(),
            place: format!("{what}, element {:?}", place(at, &shape)),
            expected: format!("{} (bits {:08x}) as in company", expected(at), expected(at).to_bits()),
            got: format!("{} (bits {:08x})", shown(found[at].into()), found[at].to_bits()),
        })
    })
}

/// All sequences packed in one call, then each alone, then in pages: its last token in one call with those of the others, and all of them.
fn sequences_agree(subject: &Subject, heads: Heads, count: usize, longest: usize) -> Result<(), Fault> {
    let (backend, mut random) = (&*subject.backend, Values::new(35));
    let mut lengths: Vec<usize> = (1..count).map(|_| 1 + random.below(longest.min(150))).collect();
    lengths.push(longest);
    let ends = bounds(&lengths);
    let tokens = lengths.iter().sum();
    let mut qkv = random.activation(backend, &[tokens, heads.qkv()]);
    let all_fresh = Sequences { lengths: lengths.clone(), fresh: lengths.clone() };
    let layout = Layout::new(&all_fresh, &mut random);
    let mut keys = PagedKeys::new(backend, heads, &all_fresh, &layout, 0);
    let (slots, cos_sin) = (backend.indices(&layout.slots), cos_sin(backend, tokens, heads.head_dim));
    let write = PageWrite { pages: &mut keys.pages, slots: &slots };
    backend.rope_forward(&mut qkv, heads, &cos_sin, Some(write));
    let mut calls = Calls::new(backend, subject.launches.as_ref());
    let together = attend_packed(&mut calls, &qkv, heads, &ends);
    let together: Vec<Vec<f32>> = together.iter().map(|of| backend.to_f32(of)).collect();
    let expect = |calls: &Calls<'_>, what: &str, found: &[Tensor; 2], rows: &[usize]| -> Result<(), Fault> {
        for (name, (found, all)) in ["o", "lse"].iter().zip(found.iter().zip(&together)) {
            let width = found.cols();
            let expected = |at: usize| all[rows[at / width] * width + at % width];
            let what = format!("{name} {what}");
            expect_bits(&what, &backend.to_f32(found), [rows.len(), width], expected, || calls.kernel_of(found))?;
        }
        Ok(())
    };
    for (number, length) in lengths.iter().enumerate() {
        let rows = Vec::from_iter((0..*length).map(|i| ends[number] as usize + i));
        let own = rows_of(backend, &qkv, &rows);
        let alone = attend_packed(&mut calls, &own, heads, &[0, *length as i32]);
        expect(&calls, &format!("of sequence {number} alone"), &alone, &rows)?;
    }
    for most in [1, 40, longest] {
        let fresh: Vec<usize> = lengths.iter().map(|length| most.min(*length)).collect();
        let sequences = Sequences { lengths: lengths.clone(), fresh };
        let rows = last_rows(&sequences);
        let mut again = PagedKeys::new(backend, heads, &sequences, &layout, 0);
        again.pages = backend.duplicate(&keys.pages);
        let queries = rows_of(backend, &qkv, &rows);
        let (o, lse) =
            calls.call("attention_forward", |backend| backend.attention_forward(&queries, heads, again.keys()));
        expect(&calls, &format!("of the last {most} tokens in pages"), &[o, lse], &rows)?;
    }
    Ok(())
}

fn attend_packed(calls: &mut Calls<'_>, qkv: &Tensor, heads: Heads, ends: &[i32]) -> [Tensor; 2] {
    let bounds = calls.backend.attention_bounds(ends, heads);
    let keys = Keys::Packed(Packed { bounds: &bounds, prefixes: None, causal: true });
    let (o, lse) = calls.call("attention_forward", |backend| backend.attention_forward(qkv, heads, keys));
    [o, lse]
}

fn rows_of(backend: &dyn Backend, of: &Tensor, rows: &[usize]) -> Tensor {
    backend.gather_rows(of, &backend.indices(&Vec::from_iter(rows.iter().map(|row| *row as i32))))
}

/// The rows of the tokens that are asked for, among all.
fn last_rows(Sequences { lengths, fresh }: &Sequences) -> Vec<usize> {
    let ends = bounds(lengths);
    ends[1..].iter().zip(fresh).flat_map(|(end, fresh)| *end as usize - fresh..*end as usize).collect()
}
