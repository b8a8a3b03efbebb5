//! The marks around a call: found where they begin, and taken out of text.

/// Begins a call.
pub(super) const OPEN: &str = "<tool_call>";
/// Ends a call.
pub(super) const CLOSE: &str = "</tool_call>";

/// Takes marks out of text, also those that come about where others were taken out.
#[derive(Debug, Default)]
pub(super) struct Unmarked {
    /// Bytes that may yet belong to a mark, and with each how much of [`OPEN`] and of [`CLOSE`] ends with it.
    bytes: Vec<u8>,
    begun: Vec<(usize, usize)>,
}

impl Unmarked {
    /// Takes text; gives out what belongs to no mark whatever follows.
    pub(super) fn push(&mut self, text: &str) -> String {
        for byte in text.bytes() {
            let (open, close) = self.begun.last().copied().unwrap_or_default();
            let more = |mark: &str, begun: usize| match mark.as_bytes()[begun] == byte {
                true => begun + 1,
                // No other byte of a mark is like its first.
                false => usize::from(byte == mark.as_bytes()[0]),
            };
            let (open, close) = (more(OPEN, open), more(CLOSE, close));
            self.bytes.push(byte);
            self.begun.push((open, close));
            for (mark, begun) in [(OPEN, open), (CLOSE, close)] {
                if begun == mark.len() {
                    self.bytes.truncate(self.bytes.len() - begun);
                    self.begun.truncate(self.bytes.len());
                }
            }
        }
        let held = self.begun.iter().rev().take_while(|begun| **begun != (0, 0)).count();
        self.give(self.bytes.len() - held)
    }

    /// All that is left.
    pub(super) fn finish(&mut self) -> String {
        self.give(self.bytes.len())
    }

    fn give(&mut self, count: usize) -> String {
        self.begun.drain(..count);
        let bytes: Vec<u8> = self.bytes.drain(..count).collect();
        String::from_utf8(bytes).expect("marks begin and end with whole characters")
    }
}

/// Bytes at the end of a text that may be the beginning of a mark.
pub(super) fn begun_mark(text: &str) -> usize {
    let begun = |mark: &str| (1..mark.len()).rev().find(|&n| text.ends_with(&mark[..n])).unwrap_or(0);
    begun(OPEN).max(begun(CLOSE))
}

/// A text without the marks in it.
pub(super) fn without_marks(text: &str) -> String {
    text.replace(OPEN, "").replace(CLOSE, "")
}
