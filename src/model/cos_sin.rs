//! Angles of the rotary embeddings, tabulated as cosines and sines.

use super::config::Config;

/// M-RoPE: `[T, head_dim]`, the cosines of head_dim/2 angles, then their sines. Angle `i` is `position · theta^(−2i/head_dim)`, scaled
/// as the config says, with the temporal, height or width position by [`crate::model::rope::Rope::axes`].
pub fn language_cos_sin(config: &Config, positions: &[[u32; 3]]) -> Vec<f32> {
    let rope = &config.rope;
    let head_dim = config.heads.head_dim;
    let angles: Vec<(usize, f32)> = rope.axes(head_dim).into_iter().zip(rope.frequencies(head_dim)).collect();
    let rows = positions.iter().map(|p| angles.iter().map(move |&(axis, frequency)| p[axis] as f32 * frequency));
    cos_sin(rows, rope.attention_factor())
}

/// The vision tower's 2-D rotary: `[N, head_dim]`; the first quarter of the angles follows the row, the second the column.
pub fn vision_cos_sin(head_dim: usize, theta: f64, positions: &[[u32; 2]]) -> Vec<f32> {
    let dim = head_dim / 2;
    let frequencies: Vec<f32> = (0..dim / 2).map(|i| 1.0 / theta.powf(2.0 * i as f64 / dim as f64) as f32).collect();
    let rows = positions.iter().map(|p| {
        let frequencies = &frequencies;
        p.iter().flat_map(move |&position| frequencies.iter().map(move |f| position as f32 * f))
    });
    cos_sin(rows, 1.0)
}

/// Cosines, then sines, of each row's angles, times `factor`.
fn cos_sin(rows: impl Iterator<Item = impl Iterator<Item = f32>>, factor: f32) -> Vec<f32> {
    let mut table = Vec::new();
    let mut angles = Vec::new();
    for row in rows {
        angles.clear();
        angles.extend(row);
        table.extend(angles.iter().map(|a| a.cos() * factor));
        table.extend(angles.iter().map(|a| a.sin() * factor));
    }
    table
}
