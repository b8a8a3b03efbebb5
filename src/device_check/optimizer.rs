//! AdamW in both forms, and the size of a gradient.

use half::bf16;

use super::calls::{Against, Calls, Within, real, small, values};
use super::check::{Check, Fault, Sizes};
use super::values::Values;
use crate::ops::adamw::{AdamwParameter, AdamwStep, CodeMap, MOMENT_BLOCK, Moment, SIGNED, UNSIGNED, join_master};
use crate::ops::{Backend, Dtype, Host, HostMut, Tensor};

/// A few f32 roundings.
const ROUNDINGS: f64 = 8.0 / (1 << 24) as f64;
/// Numbers of a code map are at most so far apart.
const CODE_STEP: f64 = 0.9 / 64.0;

const STEP: AdamwStep =
    AdamwStep { learning_rate: 1e-3, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, step: 3, gradient_scale: 0.5 };

/// The checks of these ops.
pub fn checks(sizes: Sizes) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut lengths = vec![1, 101, 257, 16_384 + 300];
    if sizes == Sizes::Real {
        lengths.push((1 << 22) + 5);
    }
    for count in lengths {
        let against: Against = if count > 1 << 20 { real } else { small };
        checks.push(against("adamw", format!("[{count}]"), Box::new(move |calls| adamw(calls, count))));
        let shape = format!("[{count}], moments in 8 bits");
        checks.push(against("adamw", shape, Box::new(move |calls| adamw_8bit(calls, count))));
        checks.push(Check::new("grad_norm", format!("[{count}]"), move |subject| {
            let values = Values::new(18).normals(count);
            let x = subject.backend.upload(Host::Bf16(&values), &[count], Dtype::F32);
            expect_squares(&*subject.backend, &x, &values)
        }));
    }
    checks
}

/// A parameter with what the optimizer keeps.
struct State {
    w: Tensor,
    remainder: Tensor,
    m: Moment,
    v: Moment,
}

impl State {
    fn new(backend: &dyn Backend, count: usize, random: &mut Values, m: Moment, v: Moment) -> State {
        let remainder: Vec<i16> = (0..count).map(|_| random.bits() as i16).collect();
        State {
            w: random.tensor(backend, &[count], Dtype::Bf16),
            remainder: backend.upload(Host::I16(&remainder), &[count], Dtype::I16),
            m,
            v,
        }
    }

    fn update(&mut self, calls: &mut Calls<'_>, dw: &Tensor) {
        let State { w, remainder, m, v } = self;
        calls.call("adamw", |backend| {
            backend.adamw(&mut [AdamwParameter { w, remainder, m, v, dw, weight_decay: 0.1 }], &STEP);
        });
        let count = w.len();
        let (mut high, mut low) = (vec![bf16::ZERO; count], vec![0i16; count]);
        calls.backend.download(w, HostMut::Bf16(&mut high));
        calls.backend.download(remainder, HostMut::I16(&mut low));
        let masters: Vec<f64> =
            high.iter().zip(low).map(|(high, low)| f64::from(join_master(high.to_bits(), low))).collect();
        let largest = masters.iter().fold(1.0f64, |largest, w| largest.max(w.abs()));
        calls.push("masters", w, masters, Within::Absolute(ROUNDINGS * largest));
    }
}

fn gradient(backend: &dyn Backend, count: usize, random: &mut Values) -> Tensor {
    let mut values: Vec<f32> = random.normals(count).iter().map(|g| g.to_f32()).collect();
    // Blocks of one outlier, of zeros, and of tiny ones.
    for (block, values) in values.chunks_mut(MOMENT_BLOCK).enumerate() {
        match block % 4 {
            1 => values[values.len() / 2] = 1e5,
            2 => values.fill(0.0),
            3 => values.iter_mut().step_by(3).for_each(|g| *g *= 1e-9),
            _ => {}
        }
    }
    backend.upload(Host::F32(&values), &[count], Dtype::F32)
}

fn adamw(calls: &mut Calls<'_>, count: usize) {
    let (backend, mut random) = (calls.backend, Values::new(16));
    let m = random.tensor(backend, &[count], Dtype::F32);
    let v: Vec<f32> = random.normals(count).iter().map(|v| v.to_f32().abs() + 0.1).collect();
    let v = backend.upload(Host::F32(&v), &[count], Dtype::F32);
    let [m, v] = [m, v].map(|values| Moment { values, scales: None });
    let mut state = State::new(backend, count, &mut random, m, v);
    let dw = gradient(backend, count, &mut random);
    state.update(calls, &dw);
    for (name, moment) in [("m", &state.m), ("v", &state.v)] {
        let found = values(backend, &moment.values);
        let largest = found.iter().fold(1.0f64, |largest, x| largest.max(x.abs()));
        calls.push(name, &moment.values, found, Within::Absolute(ROUNDINGS * largest));
    }
}

fn adamw_8bit(calls: &mut Calls<'_>, count: usize) {
    let (backend, mut random) = (calls.backend, Values::new(17));
    let mut moment = |least: u64| {
        // Codes of numbers that are not tiny: a division by nearly nothing would show every rounding.
        let codes: Vec<u8> = (0..count).map(|_| (least + random.bits() % (127 - least)) as u8).collect();
        let scales: Vec<f32> = (0..count.div_ceil(MOMENT_BLOCK)).map(|_| 0.5 + random.uniform() as f32).collect();
        Moment {
            values: backend.upload(Host::U8(&codes), &[count], Dtype::U8),
            scales: Some(backend.upload(Host::F32(&scales), &[scales.len()], Dtype::F32)),
        }
    };
    let (m, v) = (moment(0), moment(100));
    let mut state = State::new(backend, count, &mut random, m, v);
    let dw = gradient(backend, count, &mut random);
    state.update(calls, &dw);
    for (name, moment, map) in [("m", &state.m, &SIGNED), ("v", &state.v, &UNSIGNED)] {
        let scales = moment.scales.as_ref().map_or_else(Vec::new, |scales| values(backend, scales));
        let mut codes = vec![0u8; count];
        backend.download(&moment.values, HostMut::U8(&mut codes));
        // What lies midway between two numbers may be stored as either.
        calls.push(name, &moment.values, shares(&codes, map), Within::Absolute(CODE_STEP));
        let largest = scales.iter().fold(1.0f64, |largest, x| largest.max(x.abs()));
        let of = moment.scales.as_ref().unwrap_or(&moment.values);
        calls.push("scales", of, scales, Within::Absolute(ROUNDINGS * largest));
    }
}

/// The numbers that codes stand for.
fn shares(codes: &[u8], map: &CodeMap) -> Vec<f64> {
    codes.iter().map(|code| f64::from(map.value(*code))).collect()
}

fn expect_squares(backend: &dyn Backend, x: &Tensor, values: &[bf16]) -> Result<(), Fault> {
    let expected: f64 = values.iter().map(|x| x.to_f64() * x.to_f64()).sum();
    let got = backend.sum_of_squares(&[x]);
    // f64 sums in another order.
    if (got - expected).abs() <= 1e-12 * expected {
        return Ok(());
    }
    let (kernel, place) = ("grad_norm".to_owned(), "Σ x²".to_owned());
    Err(Fault::Value { kernel, place, expected: expected.to_string(), got: got.to_string() })
}
