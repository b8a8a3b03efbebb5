//! Rows of a table of ops: which are wanted, what they cost, and what share of a machine's peaks they reach.

/// Words of the command line; a row is wanted if its op or its case has one of them, and every row where there are none.
pub struct Wanted(Vec<String>);

impl Wanted {
    /// What stands behind `--` and is no option, apart at commas. `cargo bench` adds `--bench`.
    pub fn from_arguments() -> Wanted {
        let words = std::env::args().skip(1).filter(|word| !word.starts_with('-'));
        Wanted(words.flat_map(|word| word.split(',').map(str::to_owned).collect::<Vec<_>>()).collect())
    }

    /// Whether every row is.
    pub fn is_everything(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a row of this text is.
    pub fn has(&self, text: &str) -> bool {
        self.is_everything() || self.0.iter().any(|word| text.contains(word))
    }
}

/// What a call has to do, at least.
#[derive(Clone, Copy, Default)]
pub struct Cost {
    /// Multiplications and additions of the formula.
    pub flop: f64,
    /// Bytes to and from memory, each tensor once.
    pub bytes: f64,
}

/// So many multiplications and additions.
pub fn flop(count: usize) -> Cost {
    Cost { flop: count as f64, bytes: 0.0 }
}

/// So many bytes.
pub fn bytes(count: usize) -> Cost {
    Cost { flop: 0.0, bytes: count as f64 }
}

impl Cost {
    /// The share of a second's peaks, FLOP and bytes, that a call in `seconds` reaches, and what bounds it, with its rate.
    pub fn share(self, seconds: f64, flop_peak: f64, bytes_peak: f64) -> (f64, String) {
        let (by_flop, by_bytes) = (self.flop / flop_peak, self.bytes / bytes_peak);
        let rate = |amount: f64, unit| {
            let per_second = amount / seconds / 1e9;
            let digits = if per_second < 10.0 { 2 } else { 0 };
            format!("{per_second:.digits$} {unit}")
        };
        match by_flop > by_bytes {
            true => (by_flop / seconds, rate(self.flop, "GFLOP/s")),
            false => (by_bytes / seconds, rate(self.bytes, "GB/s")),
        }
    }
}

/// Seconds in the unit that suits them.
pub fn time_text(seconds: f64) -> String {
    match seconds {
        _ if seconds < 1e-3 => format!("{:.1} us", 1e6 * seconds),
        _ if seconds < 1.0 => format!("{:.2} ms", 1e3 * seconds),
        _ => format!("{seconds:.2} s"),
    }
}
