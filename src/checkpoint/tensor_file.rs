//! One safetensors file: opened, its header checked. A file that shrinks or changes meanwhile is an error.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt::Formatter;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorInfo;
use serde::de::{Error, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::error::CheckpointError;
use crate::files::json::read_json;
use crate::files::open::open_regular;
use crate::hub::is_lfs_pointer;

/// Most bytes of a file's header, as in the safetensors library.
const HEADER_BYTES_MAX: u64 = 100_000_000;
/// The header's length stands before it.
const LENGTH_BYTES: u64 = 8;

/// A file that was opened.
#[derive(Debug)]
pub(super) struct TensorFile {
    pub(super) path: PathBuf,
    file: File,
    /// Length and time of the last change, when it was opened.
    stamp: (u64, i64, i64),
    /// The tensors by their names in the file.
    pub(super) tensors: HashMap<String, TensorInfo>,
    /// Where the data begins.
    pub(super) data: u64,
}

/// A file's header: its tensors by name.
struct Header(HashMap<String, TensorInfo>);

impl TensorFile {
    /// Opens a file and reads its header.
    pub(super) fn open(path: &Path) -> Result<TensorFile, CheckpointError> {
        let read = || CheckpointError::file("read", path);
        let file = open_regular(path).map_err(read())?;
        let stamp = stamp(&file).map_err(read())?;
        let mut opened = TensorFile { path: path.to_owned(), file, stamp, tensors: HashMap::new(), data: 0 };
        let mut start = vec![0; stamp.0.min(64) as usize];
        opened.read_at(&mut start, 0)?;
        if is_lfs_pointer(&start) {
            return Err(CheckpointError::Pointer(path.to_owned()));
        }
        opened.read_header(&start).map_err(|reason| opened.damaged(reason)).map(|(tensors, data)| {
            (opened.tensors, opened.data) = (tensors, data);
            opened
        })
    }

    /// The tensors, and where the data begins; or what is wrong. The tensors follow each other without a gap up to the end of the file, so
    /// that none reaches into another or beyond it.
    fn read_header(&self, start: &[u8]) -> Result<(HashMap<String, TensorInfo>, u64), String> {
        let len = self.stamp.0;
        let length = start.first_chunk().ok_or_else(|| format!("it has {len} bytes, which hold no header"))?;
        let length = u64::from_le_bytes(*length);
        if length > HEADER_BYTES_MAX || length > len - LENGTH_BYTES {
            return Err(format!(
                "its header would take {length} bytes; the file has {len}, a header at most {HEADER_BYTES_MAX}"
            ));
        }
        let mut header = vec![0; length as usize];
        self.read_at(&mut header, LENGTH_BYTES).map_err(|error| error.to_string())?;
        let Header(tensors) = read_json(&header).map_err(|error| format!("its header is wrong: {error}"))?;
        let mut in_order: Vec<(&String, &TensorInfo)> = tensors.iter().collect();
        in_order.sort_by_key(|(_, info)| info.data_offsets);
        let mut end = 0;
        for (name, info) in in_order {
            let (first, last) = info.data_offsets;
            let name = || name.chars().take(200).collect::<String>();
            if first != end {
                return Err(format!(
                    "tensor `{}` begins at byte {first} of the data, the one before it ends at {end}",
                    name()
                ));
            }
            let elements = info.shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
            let bits = elements.and_then(|elements| elements.checked_mul(info.dtype.bitsize()));
            if bits.is_none() || bits != last.checked_sub(first).and_then(|bytes| bytes.checked_mul(8)) {
                let shape = &info.shape;
                return Err(format!(
                    "tensor `{}` of {:?}{shape:?} does not take the bytes from {first} to {last}",
                    name(),
                    info.dtype
                ));
            }
            end = last;
        }
        let data = LENGTH_BYTES + length;
        match data.checked_add(end as u64) {
            Some(expected) if expected == len => Ok((tensors, data)),
            _ => Err(format!("it has {len} bytes, its header says {}", u128::from(data) + end as u128)),
        }
    }

    /// Whether it changed since it was opened.
    pub(super) fn has_changed(&self) -> bool {
        stamp(&self.file).ok() != Some(self.stamp)
    }

    /// Reads bytes from `start` on.
    pub(super) fn read_at(&self, bytes: &mut [u8], start: u64) -> Result<(), CheckpointError> {
        self.file.read_exact_at(bytes, start).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => self.damaged("it became shorter while it was read".to_owned()),
            _ => CheckpointError::file("read", &self.path)(error),
        })
    }

    fn damaged(&self, reason: String) -> CheckpointError {
        CheckpointError::Damaged { path: self.path.clone(), reason }
    }
}

fn stamp(file: &File) -> std::io::Result<(u64, i64, i64)> {
    let metadata = file.metadata()?;
    Ok((metadata.len(), metadata.mtime(), metadata.mtime_nsec()))
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Header, D::Error> {
        struct Tensors;
        impl<'de> Visitor<'de> for Tensors {
            type Value = Header;

            fn expecting(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut tensors = HashMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    match tensors.entry(name) {
                        Entry::Vacant(place) => place.insert(map.next_value()?),
                        Entry::Occupied(place) => {
                            return Err(A::Error::custom(format_args!("there are two tensors `{}`", place.key())));
                        }
                    };
                }
                Ok(Header(tensors))
            }
        }
        deserializer.deserialize_map(Tensors)
    }
}
