//! TensorBoard event files: protobuf `Event` messages in TFRecord framing, both written by hand.
//!
//! A record is its length (u64, little endian), the masked CRC-32C of those 8 bytes, the message, the masked CRC-32C of the message.
//! Of `Event` (tensorflow/core/util/event.proto) these fields are used: 1 `wall_time` double, 2 `step` int64, 3 `file_version` string,
//! 5 `summary`, whose field 1 repeats a value of 1 `tag` string and 2 `simple_value` float, 7 `session_log`, whose field 1 is `status`.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

const PREFIX: &str = "events.out.tfevents.";
/// `SessionLog.START`: a reader forgets what earlier files say of this step and of those behind it.
const START: u8 = 1;
/// What a reader looks for first.
const FILE_VERSION: &str = "brain.Event:2";
/// Castagnoli's polynomial, reflected.
const POLYNOMIAL: u32 = 0x82F6_3B78;

// Protobuf: a field starts with `number << 3 | wire type`.
const VARINT: u8 = 0;
const FIXED_64: u8 = 1;
const BYTES: u8 = 2;
const FIXED_32: u8 = 5;

/// An open event file.
#[derive(Debug)]
pub struct Events {
    file: File,
}

impl Events {
    /// Makes a new event file in `dir`, for a run that goes on from step `first`: what earlier files say from there on is void.
    pub fn create(dir: &Path, first: u64) -> io::Result<Events> {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = if host.trim().is_empty() { "localhost" } else { host.trim() };
        let seconds = wall_time();
        let name = format!("{PREFIX}{}.{host}.{}.0", free_second(dir, seconds as u64)?, std::process::id());
        let mut file = File::create_new(dir.join(name))?;
        file.write_all(&record(&version_event(seconds)))?;
        file.write_all(&record(&start_event(seconds, first)))?;
        Ok(Events { file })
    }

    /// Writes a step's numbers; those that are not finite are left out.
    pub fn log(&mut self, step: u64, values: &[(&str, f64)]) -> io::Result<()> {
        self.file.write_all(&record(&scalars_event(wall_time(), step, values)))
    }
}

/// Removes the event files of `dir`.
pub fn remove_all(dir: &Path) -> io::Result<()> {
    list(dir, PREFIX)?.iter().try_for_each(std::fs::remove_file)
}

/// The first second from `second` on that names no event file of `dir` yet: readers take the files in the order of their names.
fn free_second(dir: &Path, second: u64) -> io::Result<u64> {
    let is_free = list(dir, &format!("{PREFIX}{second}."))?.is_empty();
    if is_free { Ok(second) } else { free_second(dir, second + 1) }
}

/// The files of `dir` whose names begin so.
fn list(dir: &Path, start: &str) -> io::Result<Vec<PathBuf>> {
    let paths = std::fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<PathBuf>>>()?;
    let begins = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(start));
    Ok(paths.into_iter().filter(begins).collect())
}

fn wall_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

/// The first message of a file.
fn version_event(wall_time: f64) -> Vec<u8> {
    let mut event = Vec::new();
    put_double(&mut event, 1, wall_time);
    put_bytes(&mut event, 3, FILE_VERSION.as_bytes());
    event
}

/// The message that voids earlier points.
fn start_event(wall_time: f64, step: u64) -> Vec<u8> {
    let mut event = Vec::new();
    put_double(&mut event, 1, wall_time);
    event.push(2 << 3 | VARINT);
    put_varint(&mut event, step);
    put_bytes(&mut event, 7, &[1 << 3 | VARINT, START]);
    event
}

/// A step's numbers as a message.
fn scalars_event(wall_time: f64, step: u64, values: &[(&str, f64)]) -> Vec<u8> {
    let mut summary = Vec::new();
    for (name, value) in values.iter().filter(|(_, value)| value.is_finite()) {
        let mut scalar = Vec::new();
        put_bytes(&mut scalar, 1, name.as_bytes());
        scalar.push(2 << 3 | FIXED_32);
        scalar.extend((*value as f32).to_le_bytes());
        put_bytes(&mut summary, 1, &scalar);
    }
    let mut event = Vec::new();
    put_double(&mut event, 1, wall_time);
    event.push(2 << 3 | VARINT);
    put_varint(&mut event, step);
    put_bytes(&mut event, 5, &summary);
    event
}

fn put_double(message: &mut Vec<u8>, field: u8, value: f64) {
    message.push(field << 3 | FIXED_64);
    message.extend(value.to_le_bytes());
}

fn put_bytes(message: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    message.push(field << 3 | BYTES);
    put_varint(message, bytes.len() as u64);
    message.extend_from_slice(bytes);
}

/// Seven bits a byte, lowest first; all but the last have the top bit set.
fn put_varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push(value as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

fn record(message: &[u8]) -> Vec<u8> {
    let length = (message.len() as u64).to_le_bytes();
    let mut record = length.to_vec();
    record.extend(masked_crc(&length).to_le_bytes());
    record.extend_from_slice(message);
    record.extend(masked_crc(message).to_le_bytes());
    record
}

/// Rotated and shifted, as TFRecord wants it: a CRC of data that holds CRCs is weak.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xA282_EAD8)
}

/// Bit by bit: a few hundred bytes a step.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32c_agrees_with_the_check_value_of_the_standard() {
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
    }

    #[test]
    fn a_start_is_the_message_that_tensorboard_makes() {
        // Event(wall_time=1.5e9, step=300, session_log=SessionLog(status=SessionLog.START)).SerializeToString()
        assert_eq!(start_event(1.5e9, 300), b"\x09\0\0\0\xc0\x0b\x5a\xd6\x41\x10\xac\x02\x3a\x02\x08\x01");
    }

    #[test]
    fn event_files_of_one_second_have_names_in_their_order() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        for second in [7, 8, 10] {
            std::fs::write(dir.path().join(format!("{PREFIX}{second}.host.1.0")), "").expect("a file");
        }
        assert_eq!([5, 7, 10].map(|second| free_second(dir.path(), second).expect("a second")), [5, 9, 11]);
    }

    #[test]
    fn records_are_those_that_tensorboard_writes() {
        let golden = include_bytes!("../../tests/golden/telemetry/events.tfevents");
        let mut written = record(&version_event(1.5e9));
        written.extend(record(&scalars_event(
            1.5e9 + 0.25,
            1,
            &[("loss", 0.1), ("nothing", f64::NAN), ("reward/mean", -2.5)],
        )));
        written.extend(record(&scalars_event(1.5e9 + 0.5, 300, &[("loss", 1e-30)])));
        assert_eq!(written, golden);
    }
}
