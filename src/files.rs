//! What all readers of users' files share: how files are opened ([`open`]), JSON that others wrote ([`json`]), lines of it
//! ([`lines`]), the addresses of pictures, what a file of JSON lines may begin with, and the folder of the program's cache ([`cache`]). It lies below the leaves, because data files, request files and the server read the same addresses.

pub mod cache;
pub mod json;
pub mod lines;
pub mod open;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// What some editors and exports put before the first character of a UTF-8 file.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// How files begin that are not JSON lines in UTF-8: what each is, and the remedy.
const FOREIGN_STARTS: [(&[u8], &str); 16] = [
    (b"\xFF\xFE\0\0", "it is UTF-32; convert it with `iconv -f UTF-32 -t UTF-8`"),
    (b"\0\0\xFE\xFF", "it is UTF-32; convert it with `iconv -f UTF-32 -t UTF-8`"),
    (b"{\0\0\0", "it is UTF-32; convert it with `iconv -f UTF-32LE -t UTF-8`"),
    (b"\0\0\0{", "it is UTF-32; convert it with `iconv -f UTF-32BE -t UTF-8`"),
    (b"\xFF\xFE", "it is UTF-16; convert it with `iconv -f UTF-16 -t UTF-8`"),
    (b"\xFE\xFF", "it is UTF-16; convert it with `iconv -f UTF-16 -t UTF-8`"),
    (b"{\0", "it is UTF-16; convert it with `iconv -f UTF-16LE -t UTF-8`"),
    (b"\0{", "it is UTF-16; convert it with `iconv -f UTF-16BE -t UTF-8`"),
    (b"\x1F\x8B", "it is packed by gzip; unpack it with `gunzip`"),
    (b"\x28\xB5\x2F\xFD", "it is packed by zstd; unpack it with `unzstd`"),
    (b"BZh", "it is packed by bzip2; unpack it with `bunzip2`"),
    (b"\xFD7zXZ", "it is packed by xz; unpack it with `unxz`"),
    (b"PK\x03\x04", "it is a zip archive; unpack it with `unzip`"),
    (b"PAR1", "it is Parquet; write it as JSON lines: `datasets.Dataset.from_parquet(A).to_json(B)` in Python"),
    (b"ARROW1", "it is Arrow; write it as JSON lines: `datasets.Dataset.from_file(A).to_json(B)` in Python"),
    (b"version https://git-lfs", "it is a pointer of git-lfs, not the file; fetch the file with `git lfs pull`"),
];

/// Why a file that begins with these bytes does not hold JSON lines in UTF-8, and the remedy; `None` where it may.
pub fn foreign_start(bytes: &[u8]) -> Option<&'static str> {
    FOREIGN_STARTS.iter().find(|(start, _)| bytes.starts_with(start)).map(|(_, problem)| *problem)
}

/// A line of a file of JSON lines without a byte order mark before it, and without space around it. Files that were put one behind the
/// other have such marks in the middle too.
pub fn json_line(line: &[u8]) -> &[u8] {
    let line = line.trim_ascii();
    line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line).trim_ascii()
}

/// What to do about a line that is not a JSON object, told by how it begins.
pub fn object_remedy(line: &[u8]) -> &'static str {
    match json_line(line) {
        [b'[', ..] => "a line holds one object, not a list; `jq -c '.[]' A.json` makes lines of a list",
        b"{" => "an object stands on one line; `jq -c . A.json` writes it so",
        [b'{', b'\'', ..] => {
            "keys and strings have double quotes; write rows with `json.dumps`, not with Python's `str`"
        }
        line if std::str::from_utf8(line).is_err() => {
            "the text must be UTF-8; `iconv -f LATIN1 -t UTF-8` converts Latin-1"
        }
        _ => "a file of JSON lines holds one object per line",
    }
}

/// The path that an address of a file means. `file:` URLs (RFC 8089) of this machine lose their percent-escapes and a host `localhost`;
/// anything else is a path as it stands. A `file://` URL without a slash behind it is taken as a relative path, as vLLM takes it; an escape
/// that is none, and `?` and `#`, stand for themselves, since many write a path behind `file://` as it is.
pub fn local_path(address: &str) -> PathBuf {
    match file_url_path(address) {
        Some(path) => OsString::from_vec(without_escapes(path.as_bytes())).into(),
        None => address.into(),
    }
}

/// The part of a `file:` URL behind scheme and host; `None` where it is no such URL.
fn file_url_path(address: &str) -> Option<&str> {
    let rest = strip_prefix_ignoring_case(address, "file:")?;
    let Some(behind) = rest.strip_prefix("//") else { return rest.starts_with('/').then_some(rest) };
    match strip_prefix_ignoring_case(behind, "localhost") {
        Some(path) if path.starts_with('/') => Some(path),
        _ => Some(behind),
    }
}

fn strip_prefix_ignoring_case<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (start, rest) = text.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

/// The bytes of a text in which each `%` before two hexadecimal digits stands with them for one byte.
pub fn without_escapes(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, behind)) = rest.split_first() {
        let digit = |byte: &u8| char::from(*byte).to_digit(16);
        let escaped = match (first, behind) {
            (b'%', [high, low, ..]) => digit(high).zip(digit(low)),
            _ => None,
        };
        bytes.push(escaped.map_or(first, |(high, low)| (16 * high + low) as u8));
        rest = if escaped.is_some() { &behind[2..] } else { behind };
    }
    bytes
}

/// Whether an address names a place that is read by a protocol other than `file:`, such as `https://` or `s3://`.
pub fn is_elsewhere(address: &str) -> bool {
    let Some((scheme, _)) = address.split_once("://") else { return false };
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    is_scheme && !scheme.eq_ignore_ascii_case("file")
}
