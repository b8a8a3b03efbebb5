//! Pictures within addresses: `data:image/png;base64,...` as clients write it. Scheme, parameters and alphabet may be spelled in any of the
//! usual ways: RFC 2397 with any case, RFC 4648's two alphabets, with or without padding, on one line or on many.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::prelude::BASE64_STANDARD;

use crate::files::without_escapes;

const SCHEME: &str = "data:";
const MARK: &str = ";base64";

/// Whether an address is a data URL.
pub fn is_data_url(address: &str) -> bool {
    address.trim_ascii_start().get(..SCHEME.len()).is_some_and(|start| start.eq_ignore_ascii_case(SCHEME))
}

/// The bytes that a data URL holds.
///
/// # Errors
/// Why it cannot be read.
pub fn decode(url: &str) -> Result<Vec<u8>, String> {
    let wrong = || "it is not base64; write data:image/png;base64,...".to_owned();
    let (head, data) = url.split_once(',').ok_or_else(wrong)?;
    let head: String = head.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    let marked = head.len().checked_sub(MARK.len()).and_then(|at| head.get(at..));
    if !marked.is_some_and(|mark| mark.eq_ignore_ascii_case(MARK)) {
        return Err(wrong());
    }
    BASE64_STANDARD.decode(data).or_else(|_| decode_any(data.as_bytes()))
}

/// Decodes base64 in any spelling.
fn decode_any(data: &[u8]) -> Result<Vec<u8>, String> {
    let mut letters = without_escapes(data);
    letters.retain(|byte| !byte.is_ascii_whitespace());
    if letters.contains(&b'%') {
        return Err("bad base64: it has a % that begins no escape of a letter, such as %2B".to_owned());
    }
    for letter in &mut letters {
        *letter = match *letter {
            b'-' => b'+',
            b'_' => b'/',
            other => other,
        };
    }
    let config = GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true);
    let config = config.with_decode_padding_mode(DecodePaddingMode::Indifferent);
    GeneralPurpose::new(&STANDARD, config).decode(&letters).map_err(|error| format!("bad base64: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_is_read() {
        let bytes: Vec<u8> = (0..=255).chain([251, 255]).collect();
        let plain = BASE64_STANDARD.encode(&bytes);
        let safe = plain.replace('+', "-").replace('/', "_");
        let lines: String = plain.as_bytes().chunks(76).map(|line| String::from_utf8_lossy(line) + "\r\n").collect();
        for data in [
            plain.clone(),
            safe.clone(),
            plain.trim_end_matches('=').to_owned(),
            safe.trim_end_matches('=').to_owned(),
            lines.clone(),
            lines.replace("\r\n", "\n ").replace('=', ""),
            plain.replace('+', "%2B").replace('/', "%2f").replace('=', "%3D"),
            format!(" \t{plain}\n"),
        ] {
            for head in [
                "data:image/png;base64,",
                "DATA:image/png;BASE64,",
                "Data:;Base64,",
                "data:image/png;charset=utf-8;base64,",
                "data:image/png; charset=utf-8; base64 ,",
                " data:image/PNG;name=a;base64,",
            ] {
                let url = format!("{head}{data}");
                assert!(is_data_url(&url), "{head}");
                assert_eq!(decode(&url).as_ref(), Ok(&bytes), "{url}");
            }
        }
    }

    #[test]
    fn what_is_no_base64_is_refused() {
        for url in ["data:", "data:,a", "data:image/png,AAAA", "data:image/png;base64", "data:base64,AAAA"] {
            assert!(decode(url).unwrap_err().contains("write data:image/png;base64"), "{url}");
        }
        for data in ["A", "AA=A", "AA!A", "%A", "%4", "ä", "===="] {
            assert!(decode(&format!("data:;base64,{data}")).unwrap_err().contains("bad base64"), "{data}");
        }
        assert!(!is_data_url("dat"), "too short");
        assert!(!is_data_url("datä:"), "no ASCII");
    }
}
