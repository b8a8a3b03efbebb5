//! LayerNorm with the residual addition: see [`crate::ops::layer_norm`].

use super::buffers::{f64s, f64s_mut, floats};
use super::rms_norm::added;
use super::{Reference, expect_shape};
use crate::ops::layer_norm::{LayerNorm, LayerNormed};
use crate::ops::{Dtype, Tensor};

impl LayerNorm for Reference {
    fn layer_norm_forward(
        &self,
        x: &Tensor,
        add: Option<&Tensor>,
        w: &Tensor,
        b: &Tensor,
        epsilon: f32,
    ) -> LayerNormed {
        let (tokens, dim) = (x.rows(), x.cols());
        expect_shape("layer_norm_forward w", w, &[dim]);
        expect_shape("layer_norm_forward b", b, &[dim]);
        let sum = add.map(|add| added(x, add));
        let h = sum.as_ref().unwrap_or(x);
        let (mut y, mut means, mut rstds) = (vec![], vec![], vec![]);
        for h in f64s(h).chunks_exact(dim) {
            let mean = h.iter().sum::<f64>() / dim as f64;
            let variance = h.iter().map(|h| (h - mean) * (h - mean)).sum::<f64>() / dim as f64;
            let rstd = 1.0 / (variance + f64::from(epsilon)).sqrt();
            y.extend((0..dim).map(|i| (h[i] - mean) * rstd * f64s(w)[i] + f64s(b)[i]));
            means.push(mean);
            rstds.push(rstd);
        }
        LayerNormed {
            y: floats(y, x.shape(), Dtype::Activation),
            mean: floats(means, &[tokens], Dtype::F32),
            rstd: floats(rstds, &[tokens], Dtype::F32),
            sum,
        }
    }

    fn layer_norm_backward(
        &self,
        dy: &Tensor,
        dresidual: Option<&Tensor>,
        h: &Tensor,
        w: &Tensor,
        mean: &Tensor,
        rstd: &Tensor,
        mut dwb: Option<(&mut Tensor, &mut Tensor)>,
    ) -> Tensor {
        let (tokens, dim) = (h.rows(), h.cols());
        expect_shape("layer_norm_backward dy", dy, h.shape());
        expect_shape("layer_norm_backward mean", mean, &[tokens]);
        expect_shape("layer_norm_backward rstd", rstd, &[tokens]);
        let mut dh = dresidual.map_or_else(|| vec![0.0; h.len()], |d| f64s(d).to_vec());
        for t in 0..tokens {
            let row = t * dim..(t + 1) * dim;
            let (dy, h, rstd) = (&f64s(dy)[row.clone()], &f64s(h)[row.clone()], f64s(rstd)[t]);
            let n: Vec<f64> = h.iter().map(|h| (h - f64s(mean)[t]) * rstd).collect();
            let g: Vec<f64> = dy.iter().zip(f64s(w)).map(|(dy, w)| dy * w).collect();
            let g_mean = g.iter().sum::<f64>() / dim as f64;
            let gn_mean = g.iter().zip(&n).map(|(g, n)| g * n).sum::<f64>() / dim as f64;
            for (i, dh) in dh[row].iter_mut().enumerate() {
                *dh += rstd * (g[i] - g_mean - n[i] * gn_mean);
            }
            if let Some((dw, db)) = &mut dwb {
                for i in 0..dim {
                    f64s_mut(dw)[i] += dy[i] * n[i];
                    f64s_mut(db)[i] += dy[i];
                }
            }
        }
        floats(dh, h.shape(), Dtype::Activation)
    }
}
