//! RMSNorm with the residual addition: see [`crate::ops::rms_norm`].

use super::buffers::{f64s, f64s_mut, floats};
use super::{Reference, expect_shape};
use crate::ops::rms_norm::{RmsNorm, RmsNormed};
use crate::ops::{Dtype, Tensor};

impl RmsNorm for Reference {
    fn rms_norm_forward(&self, x: &Tensor, add: Option<&Tensor>, w: &Tensor, epsilon: f32) -> RmsNormed {
        let (tokens, dim) = (x.rows(), x.cols());
        expect_shape("rms_norm_forward w", w, &[dim]);
        let sum = add.map(|add| added(x, add));
        let h = sum.as_ref().unwrap_or(x);
        let (mut y, mut rstds) = (vec![], vec![]);
        for h in f64s(h).chunks_exact(dim) {
            let mean_square = h.iter().map(|h| h * h).sum::<f64>() / dim as f64;
            let rstd = 1.0 / (mean_square + f64::from(epsilon)).sqrt();
            y.extend(h.iter().zip(f64s(w)).map(|(h, w)| h * rstd * w));
            rstds.push(rstd);
        }
        RmsNormed { y: floats(y, x.shape(), Dtype::Activation), rstd: floats(rstds, &[tokens], Dtype::F32), sum }
    }

    fn rms_norm_backward(
        &self,
        dy: &Tensor,
        dresidual: Option<&Tensor>,
        h: &Tensor,
        w: &Tensor,
        rstd: &Tensor,
        mut dw: Option<&mut Tensor>,
    ) -> Tensor {
        let (tokens, dim) = (h.rows(), h.cols());
        expect_shape("rms_norm_backward dy", dy, h.shape());
        expect_shape("rms_norm_backward rstd", rstd, &[tokens]);
        let mut dh = dresidual.map_or_else(|| vec![0.0; h.len()], |d| f64s(d).to_vec());
        for t in 0..tokens {
            let row = t * dim..(t + 1) * dim;
            let (dy, h, rstd) = (&f64s(dy)[row.clone()], &f64s(h)[row.clone()], f64s(rstd)[t]);
            let mean = (0..dim).map(|i| dy[i] * f64s(w)[i] * h[i]).sum::<f64>() / dim as f64;
            for (i, dh) in dh[row].iter_mut().enumerate() {
                *dh += rstd * (dy[i] * f64s(w)[i] - h[i] * rstd * rstd * mean);
            }
            if let Some(dw) = &mut dw {
                for (i, dw) in f64s_mut(dw).iter_mut().enumerate() {
                    *dw += dy[i] * h[i] * rstd;
                }
            }
        }
        floats(dh, h.shape(), Dtype::Activation)
    }
}

/// `x + add`.
pub fn added(x: &Tensor, add: &Tensor) -> Tensor {
    expect_shape("add", add, x.shape());
    let sum = f64s(x).iter().zip(f64s(add)).map(|(x, add)| x + add).collect();
    floats(sum, x.shape(), Dtype::Activation)
}
