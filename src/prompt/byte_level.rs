//! GPT-2's byte alphabet, in which the vocabulary of a byte-level tokenizer is written.

use serde_json::Value;

/// Whether a decoder is `ByteLevel`, or a sequence that has one.
pub(super) fn names_byte_level(decoder: &Value) -> bool {
    let in_sequence = || decoder["decoders"].as_array().is_some_and(|parts| parts.iter().any(names_byte_level));
    decoder["type"] == "ByteLevel" || in_sequence()
}

/// Undoes GPT-2's byte alphabet, in which every byte is a printable character. A token outside of it is its own UTF-8.
pub(super) fn byte_level_bytes(token: &str) -> Vec<u8> {
    token.chars().map(byte_of_letter).collect::<Option<Vec<u8>>>().unwrap_or_else(|| token.as_bytes().to_vec())
}

/// The byte of a letter of the alphabet: printable Latin-1 stands for itself; the other 68 bytes, in order, are the letters
/// from U+0100.
fn byte_of_letter(letter: char) -> Option<u8> {
    let code = u32::from(letter);
    match code {
        0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => Some(code as u8),
        0x100..=0x120 => Some((code - 0x100) as u8),
        0x121..=0x142 => Some((code - 0x121 + 0x7F) as u8),
        0x143 => Some(0xAD),
        _ => None,
    }
}
