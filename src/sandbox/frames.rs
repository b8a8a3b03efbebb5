//! Frames on the connection between host and jail, as in `frames.py`: a length, a JSON header of that length, and the blobs that it lists. Lengths
//! are bounded before they are read, nothing waits without a deadline.

use std::io::{self, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recv, sendmsg};

use super::scratch::Scratch;

/// How often the fallback scratch folder is measured while code runs.
const MEASURE_EVERY: Duration = Duration::from_millis(50);

/// How long, and how full a folder may get, while the host waits.
pub(super) struct Limit {
    pub(super) deadline: Instant,
    /// A scratch folder to measure, and its bytes at most.
    pub(super) scratch: Option<(Scratch, u64)>,
}

/// Why a frame did not arrive.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    /// The deadline passed.
    #[error("it did not answer in time")]
    Late,
    /// The scratch folder grew over its limit.
    #[error("its scratch folder is full")]
    Full,
    /// The process is gone.
    #[error("the process ended")]
    Gone,
    /// The bytes are not a frame, or longer than allowed.
    #[error("its answer is not well-formed: {0}")]
    Malformed(&'static str),
    /// It spoke before it was asked.
    #[error("it spoke unasked")]
    Unasked,
}

impl Ended {
    /// The same, where the code that is to run next has no part in it.
    pub(super) fn before_the_run(self) -> Ended {
        if matches!(self, Ended::Malformed(_)) { Ended::Unasked } else { self }
    }
}

/// Reads until `buffer` is full.
pub(super) fn read_exactly(stream: &mut UnixStream, buffer: &mut [u8], limit: &Limit) -> Result<(), Ended> {
    let mut filled = 0;
    while filled < buffer.len() {
        let left = time_left(limit)?;
        stream.set_read_timeout(Some(left)).map_err(|_| Ended::Gone)?;
        match stream.read(&mut buffer[filled..]) {
            Ok(0) => return Err(Ended::Gone),
            Ok(count) => filled += count,
            Err(error) if is_patient(&error) => {}
            Err(_) => return Err(Ended::Gone),
        }
    }
    Ok(())
}

fn is_patient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

/// How long the next wait may be.
fn time_left(limit: &Limit) -> Result<Duration, Ended> {
    let left = limit.deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(Ended::Late);
    }
    let Some((scratch, bytes_max)) = &limit.scratch else { return Ok(left) };
    if scratch.holds_more_than(*bytes_max) { Err(Ended::Full) } else { Ok(left.min(MEASURE_EVERY)) }
}

/// Writes a header and its blobs.
pub(super) fn write_frame(
    stream: &mut UnixStream,
    header: serde_json::Value,
    blobs: &[&[u8]],
    limit: &Limit,
) -> Result<(), Ended> {
    write_all(stream, &framed(header, blobs)?, limit)?;
    blobs.iter().try_for_each(|blob| write_all(stream, blob, limit))
}

/// Writes the first frame of a connection, which has no blobs, with a descriptor. The connection has room for it.
pub(super) fn write_first_frame(
    stream: &mut UnixStream,
    header: serde_json::Value,
    descriptor: BorrowedFd<'_>,
    limit: &Limit,
) -> Result<(), Ended> {
    let frame = framed(header, &[])?;
    let descriptors = [descriptor];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut with = SendAncillaryBuffer::new(&mut space);
    assert!(with.push(SendAncillaryMessage::ScmRights(&descriptors)), "the buffer has room for one descriptor");
    let sent = retry_on_intr(|| sendmsg(&*stream, &[IoSlice::new(&frame)], &mut with, SendFlags::NOSIGNAL));
    let sent = sent.map_err(|_| Ended::Gone)?;
    write_all(stream, &frame[sent..], limit)
}

/// A header as it crosses the connection before these blobs.
fn framed(mut header: serde_json::Value, blobs: &[&[u8]]) -> Result<Vec<u8>, Ended> {
    header["blobs"] = blobs.iter().map(|blob| blob.len()).collect();
    let header = header.to_string().into_bytes();
    let length = u32::try_from(header.len()).map_err(|_| Ended::Malformed("a header over 4 GiB"))?;
    Ok([&length.to_le_bytes()[..], &header].concat())
}

fn write_all(stream: &mut UnixStream, mut bytes: &[u8], limit: &Limit) -> Result<(), Ended> {
    while !bytes.is_empty() {
        stream.set_write_timeout(Some(time_left(limit)?)).map_err(|_| Ended::Gone)?;
        match stream.write(bytes) {
            Ok(0) => return Err(Ended::Gone),
            Ok(count) => bytes = &bytes[count..],
            Err(error) if is_patient(&error) => {}
            Err(_) => return Err(Ended::Gone),
        }
    }
    Ok(())
}

/// Reads a header, as bytes; refuses one that is longer than `header_max`.
pub(super) fn read_header(stream: &mut UnixStream, limit: &Limit, header_max: usize) -> Result<Vec<u8>, Ended> {
    let mut length = [0; 4];
    read_exactly(stream, &mut length, limit)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > header_max {
        return Err(Ended::Malformed("a header longer than allowed"));
    }
    read_blob(stream, limit, length)
}

/// Reads so many bytes, a length that the caller has bounded.
pub(super) fn read_blob(stream: &mut UnixStream, limit: &Limit, length: usize) -> Result<Vec<u8>, Ended> {
    let mut blob = vec![0; length];
    read_exactly(stream, &mut blob, limit)?;
    Ok(blob)
}

/// That nothing lies unread on the connection: neither behind a reply nor before a request may the other end speak.
pub(super) fn expect_silence(stream: &UnixStream) -> Result<(), Ended> {
    let mut byte = [0];
    match recv(stream, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
        Err(Errno::AGAIN | Errno::INTR) => Ok(()),
        Ok((_, 0)) | Err(_) => Err(Ended::Gone),
        Ok(_) => Err(Ended::Malformed("bytes that nobody asked for")),
    }
}

/// Waits until the other end of the connection is closed, at most so long; what it still says is thrown away.
pub(super) fn wait_for_the_end(mut stream: &UnixStream, at_most: Duration) {
    let deadline = Instant::now() + at_most;
    let mut rest = [0; 4096];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || stream.set_read_timeout(Some(left)).is_err() {
            return;
        }
        match stream.read(&mut rest) {
            Ok(1..) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            _ => return,
        }
    }
}
