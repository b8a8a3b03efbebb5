//! The pictures of `tools/golden/noise.py`.

/// Interleaved RGB, `[height, width, 3]`: a hash of each index; smooth pictures add slow waves.
pub fn noise(height: usize, width: usize, smooth: bool) -> Vec<u8> {
    let level = |index: usize| {
        let mut hash = (index as u32).wrapping_mul(2_654_435_761);
        hash ^= hash >> 15;
        hash = hash.wrapping_mul(2_246_822_519);
        hash ^= hash >> 13;
        let rough = (hash >> 24) as usize;
        let (channel, column, row) = (index % 3, index / 3 % width, index / 3 / width);
        let waves = (column * 3 + row * 5 + channel * 40) % 256 / 2;
        (if smooth { waves + rough / 16 } else { rough }) as u8
    };
    (0..height * width * 3).map(level).collect()
}
