//! Sum of squares on simt.

use thyme_engine::ops::grad_norm::GradNorm;
use thyme_engine::ops::{Buffers, Dtype, Host};

use super::{Random, checked};

#[test]
fn squares_are_summed_in_double_precision() {
    let cuda = checked();
    for count in [0, 1, 7, 1030, (1 << 15) + 5] {
        let mut values: Vec<f32> = Random::new(51).normals(count).iter().map(|x| *x as f32).collect();
        let expected: f64 = values.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
        let found = cuda.sum_of_squares(&[&cuda.upload(Host::F32(&values), &[count], Dtype::F32)]);
        assert!((found - expected).abs() <= 1e-12 * expected, "{count}: {found}, not {expected}");
        if let Some(last) = values.last_mut() {
            *last = f32::NAN;
            assert!(cuda.sum_of_squares(&[&cuda.upload(Host::F32(&values), &[count], Dtype::F32)]).is_nan());
        }
    }
}
