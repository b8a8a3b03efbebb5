//! Safetensors files of a folder: opened, their headers checked, looked up by released name. A tensor is read when it is asked for, in pieces:
//! a file that shrinks or changes meanwhile is an error.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt::Formatter;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::tensor::{Dtype, TensorInfo};
use serde::de::{Error, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::CheckpointError;
use super::contents::refuse_contents;
use crate::files::json::read_json;
use crate::files::open::{TOKENIZER_BYTES_MAX, is_there, open_regular, read_text};
use crate::hub::is_lfs_pointer;
use crate::hub::keys::shown;

/// Most bytes of a file's header, as in the safetensors library.
const HEADER_BYTES_MAX: u64 = 100_000_000;
/// The header's length stands before it.
const LENGTH_BYTES: u64 = 8;
/// Most files that an index may name: all are open at once.
const SHARDS_MAX: usize = 1000;
/// Elements that are read at once, by one thread.
const PIECE: usize = 1 << 20;
/// Released name of the embedding table.
pub const EMBEDDING: &str = "model.embed_tokens.weight";
/// Released name of the head, where it is not the embedding table.
pub const HEAD: &str = "lm_head.weight";

/// Parts of a name that training wraps around modules: DataParallel, torch.compile, FSDP, activation checkpointing.
const WRAPPERS: [&str; 4] = ["module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"];
/// Ends of the names of rotary tables, which older versions of transformers saved and which are computed anew here.
const TABLES: [&str; 2] = ["rotary_emb.inv_freq", "rotary_pos_emb.inv_freq"];

/// The tensors of a checkpoint folder, single or sharded.
#[derive(Debug)]
pub struct TensorFiles {
    dir: PathBuf,
    files: Vec<TensorFile>,
    /// Released name -> file and the name in it.
    names: HashMap<String, (usize, String)>,
    /// Warnings about the folder, none of which keeps it from being read.
    notes: Vec<String>,
}

#[derive(Debug)]
struct TensorFile {
    path: PathBuf,
    file: File,
    /// Length and time of the last change, when it was opened.
    stamp: (u64, i64, i64),
    tensors: HashMap<String, TensorInfo>,
    /// Where the data begins.
    data: u64,
}

/// A file's header: its tensors by name.
struct Header(HashMap<String, TensorInfo>);

/// One stored tensor.
#[derive(Clone, Copy, Debug)]
pub struct StoredTensor<'a> {
    /// Element type as stored.
    pub dtype: Dtype,
    /// Shape as stored.
    pub shape: &'a [usize],
    file: &'a TensorFile,
    /// Where its little-endian elements begin in the file.
    start: u64,
    /// How many bytes they take.
    bytes: usize,
}

impl TensorFiles {
    /// Opens `model.safetensors`, or where there is none the shards of its index, as transformers does.
    ///
    /// # Errors
    /// When the folder holds no weights that can be read, or a file is damaged: the error says what it holds instead.
    pub fn open(dir: &Path) -> Result<TensorFiles, CheckpointError> {
        let (single, index) = (dir.join("model.safetensors"), dir.join("model.safetensors.index.json"));
        refuse_contents(dir)?;
        if !is_there(&single) {
            return TensorFiles::open_files(dir, &shards(dir, &index)?);
        }
        let mut files = TensorFiles::open_files(dir, &[single])?;
        if is_there(&index) {
            let path = index.display();
            files
                .notes
                .push(format!("{path} is not read beside model.safetensors; remove the one that is out of date"));
        }
        Ok(files)
    }

    /// Opens the given files of `dir`.
    ///
    /// # Errors
    /// When one is damaged, or two tensors have one name.
    pub fn open_files(dir: &Path, paths: &[PathBuf]) -> Result<TensorFiles, CheckpointError> {
        let files = paths.iter().map(|path| TensorFile::open(path)).collect::<Result<Vec<_>, _>>()?;
        let mut names = HashMap::new();
        let mut wrapped = None;
        for (i, file) in files.iter().enumerate() {
            for name in file.tensors.keys() {
                let plain = unwrapped(name);
                if plain != *name && wrapped.as_ref().is_none_or(|first| name < first) {
                    wrapped = Some(name.clone());
                }
                if let Some((_, other)) = names.insert(released_name(&plain), (i, name.clone())) {
                    return Err(CheckpointError::SameTensor { path: dir.to_owned(), names: [other, name.clone()] });
                }
            }
        }
        let note = |name: &String| {
            format!("tensors of {} have names such as `{name}`; they are read as `{}`", dir.display(), unwrapped(name))
        };
        Ok(TensorFiles { dir: dir.to_owned(), files, names, notes: wrapped.iter().map(note).collect() })
    }

    /// Warnings about the folder, none of which keeps it from being read.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Released names of the tensors that `is_used` does not know, in order, without the rotary tables that are computed anew.
    pub fn unused(&self, is_used: impl Fn(&str) -> bool) -> Vec<&str> {
        let is_table = |name: &str| TABLES.iter().any(|end| name.ends_with(end));
        let names = self.names.keys().map(String::as_str);
        let mut unused: Vec<&str> = names.filter(|name| !is_used(name) && !is_table(name)).collect();
        unused.sort_unstable();
        unused
    }

    /// Whether there is a head that differs from the embedding table.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn has_own_head(&self) -> Result<bool, CheckpointError> {
        let (Ok(embedding), Ok(head)) = (self.stored(EMBEDDING), self.stored(HEAD)) else { return Ok(false) };
        Ok(embedding.shape != head.shape || embedding.differs_from(&head)?)
    }

    /// Checks that no file changed since it was opened.
    ///
    /// # Errors
    /// When one did.
    pub fn check_unchanged(&self) -> Result<(), CheckpointError> {
        let changed = |file: &&TensorFile| stamp(&file.file).ok() != Some(file.stamp);
        match self.files.iter().find(changed) {
            Some(file) => Err(CheckpointError::Changed(file.path.clone())),
            None => Ok(()),
        }
    }

    /// The folder, for messages.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A tensor by its released name. A head is the embedding table too where that is not stored, as in transformers.
    ///
    /// # Errors
    /// When there is none.
    pub fn tensor(&self, name: &str) -> Result<StoredTensor<'_>, CheckpointError> {
        match self.stored(name) {
            Err(_) if name == EMBEDDING && self.names.contains_key(HEAD) => self.stored(HEAD),
            found => found,
        }
    }

    fn stored(&self, name: &str) -> Result<StoredTensor<'_>, CheckpointError> {
        let missing = || CheckpointError::MissingTensor {
            path: self.dir.clone(),
            name: name.to_owned(),
            example: self.names.values().map(|(_, stored)| stored.clone()).min().unwrap_or("nothing".to_owned()),
        };
        let (file, stored_name) = self.names.get(name).ok_or_else(missing)?;
        let file = &self.files[*file];
        let info = file.tensors.get(stored_name).ok_or_else(missing)?;
        let (start, end) = info.data_offsets;
        Ok(StoredTensor {
            dtype: info.dtype,
            shape: &info.shape,
            file,
            start: file.data + start as u64,
            bytes: end - start,
        })
    }
}

impl StoredTensor<'_> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether its elements can be read as bf16: they are stored as bf16, f16 or f32.
    pub fn is_float(&self) -> bool {
        matches!(self.dtype, Dtype::BF16 | Dtype::F16 | Dtype::F32)
    }

    /// The little-endian elements.
    ///
    /// # Errors
    /// When the file cannot be read, or is shorter than it was.
    pub fn read(&self) -> Result<Vec<u8>, CheckpointError> {
        let mut bytes = vec![0; self.bytes];
        self.file.read_at(&mut bytes, self.start)?;
        Ok(bytes)
    }

    /// The elements in bf16, into as many places.
    ///
    /// # Errors
    /// As [`StoredTensor::read`].
    ///
    /// # Panics
    /// Unless [`StoredTensor::is_float`].
    pub fn read_bf16(&self, values: &mut [bf16]) -> Result<(), CheckpointError> {
        assert_eq!(values.len(), self.len(), "elements of a stored tensor");
        let pieces = values.par_chunks_mut(PIECE).enumerate();
        pieces.map(|(number, values)| self.read_piece(number * PIECE, values)).collect()
    }

    /// The first element that is not finite, if there is one; no more than a piece is kept for each thread.
    ///
    /// # Errors
    /// As [`StoredTensor::read`].
    ///
    /// # Panics
    /// Unless [`StoredTensor::is_float`].
    pub fn first_not_finite(&self) -> Result<Option<usize>, CheckpointError> {
        let find = |number: usize| {
            let first = number * PIECE;
            let mut values = vec![bf16::ZERO; PIECE.min(self.len() - first)];
            self.read_piece(first, &mut values)?;
            Ok(values.iter().position(|value| !value.is_finite()).map(|place| first + place))
        };
        let found: Result<Vec<Option<usize>>, CheckpointError> =
            (0..self.len().div_ceil(PIECE)).into_par_iter().map(find).collect();
        Ok(found?.into_iter().flatten().next())
    }

    /// Whether a tensor of the same shape has other values.
    fn differs_from(&self, other: &StoredTensor<'_>) -> Result<bool, CheckpointError> {
        if !(self.is_float() && other.is_float()) {
            return Ok(self.dtype != other.dtype || self.read()? != other.read()?);
        }
        let differs = |number: usize| {
            let first = number * PIECE;
            let mut pieces = [self, other].map(|_| vec![bf16::ZERO; PIECE.min(self.len() - first)]);
            self.read_piece(first, &mut pieces[0])?;
            other.read_piece(first, &mut pieces[1])?;
            Ok(pieces[0] != pieces[1])
        };
        let found: Result<Vec<bool>, CheckpointError> =
            (0..self.len().div_ceil(PIECE)).into_par_iter().map(differs).collect();
        Ok(found?.contains(&true))
    }

    /// The elements from `first` on.
    fn read_piece(&self, first: usize, values: &mut [bf16]) -> Result<(), CheckpointError> {
        let size = self.dtype.bitsize() / 8;
        let start = self.start + (first * size) as u64;
        if self.dtype == Dtype::BF16 {
            self.file.read_at(bytemuck::cast_slice_mut(values), start)?;
            values.iter_mut().for_each(|value| *value = bf16::from_bits(u16::from_le(value.to_bits())));
            return Ok(());
        }
        let mut bytes = vec![0; values.len() * size];
        self.file.read_at(&mut bytes, start)?;
        let halves = bytes.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b).to_f32());
        let floats = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b));
        match self.dtype {
            Dtype::F16 => values.iter_mut().zip(halves).for_each(|(value, half)| *value = bf16::from_f32(half)),
            Dtype::F32 => values.iter_mut().zip(floats).for_each(|(value, float)| *value = bf16::from_f32(float)),
            other => panic!("{other:?} is no element type of weights"),
        }
        Ok(())
    }
}

impl TensorFile {
    fn open(path: &Path) -> Result<TensorFile, CheckpointError> {
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

    fn read_at(&self, bytes: &mut [u8], start: u64) -> Result<(), CheckpointError> {
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

/// A name without the parts that training wraps around modules.
fn unwrapped(name: &str) -> String {
    let parts = name.split('.').filter(|part| !WRAPPERS.contains(part));
    parts.collect::<Vec<_>>().join(".")
}

/// transformers 5 nests the language model and the tower under `model.`; the released names are flat.
fn released_name(name: &str) -> String {
    if let Some(rest) = name.strip_prefix("model.language_model.") {
        format!("model.{rest}")
    } else if let Some(rest) = name.strip_prefix("model.visual.") {
        format!("visual.{rest}")
    } else {
        name.to_owned()
    }
}

fn shards(dir: &Path, index: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    let damaged = |reason: String| CheckpointError::Damaged { path: index.to_owned(), reason };
    let text = read_text(index, TOKENIZER_BYTES_MAX).map_err(CheckpointError::file("read", index))?;
    if is_lfs_pointer(text.as_bytes()) {
        return Err(CheckpointError::Pointer(index.to_owned()));
    }
    let json: Value = serde_json::from_str(&text).map_err(|e| damaged(e.to_string()))?;
    let map = json["weight_map"].as_object().ok_or_else(|| damaged("it has no `weight_map`".to_owned()))?;
    let name = |(tensor, name): (&String, &Value)| {
        let no_name = || damaged(format!("it says that `{tensor}` is in {}, which is no file's name", shown(name)));
        name.as_str().map(str::to_owned).ok_or_else(no_name)
    };
    let mut names = map.iter().map(name).collect::<Result<Vec<String>, _>>()?;
    names.sort_unstable();
    names.dedup();
    if names.len() > SHARDS_MAX {
        return Err(damaged(format!("it names {} files; at most {SHARDS_MAX} are read", names.len())));
    }
    let is_plain = |name: &&String| !name.contains(['/', '\\']) && !["", ".", ".."].contains(&name.as_str());
    if let Some(name) = names.iter().find(|name| !is_plain(name)) {
        return Err(damaged(format!("shard name `{name}` points outside the folder")));
    }
    if let Some(name) = names.iter().find(|name| !is_there(&dir.join(name))) {
        return Err(damaged(format!("it names `{name}`, which is not in the folder")));
    }
    Ok(names.iter().map(|name| dir.join(name)).collect())
}
