//! HTTP byte by byte, so that a request may be anything: it is sent as it stands, and the answer is held against the protocol.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

/// No answer to a short request is longer.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// So long a request that is not proper is held open: the server may wait for the rest.
const HOLD: Duration = Duration::from_millis(200);

/// A request as it goes over the wire.
#[derive(Clone, Debug)]
pub struct Request {
    pub bytes: Vec<u8>,
    /// It is a whole and proper request, so that an answer is due. Of any other the server may make nothing, and close the connection.
    pub is_proper: bool,
}

/// A proper POST of JSON.
pub fn post(path: &str, body: &[u8]) -> Request {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    Request { bytes: [head.as_bytes(), body].concat(), is_proper: true }
}

/// What came back.
#[derive(Clone, Debug)]
pub enum Reply {
    /// A whole answer.
    Answer(u16, String),
    /// Nothing; only for requests that are not proper.
    Dropped,
    /// Nothing where something was due, half an answer, or no HTTP at all.
    Broken(String),
    /// Nothing in time.
    Slow,
}

/// Sends a request and waits for its answer, no longer than `limit`.
pub fn converse(address: &str, request: &Request, limit: Duration) -> Reply {
    let until = Instant::now() + limit;
    let stream = match TcpStream::connect(address) {
        Ok(stream) => stream,
        Err(error) => return Reply::Broken(format!("no connection: {error}")),
    };
    stream.set_write_timeout(Some(limit)).unwrap();
    std::thread::scope(|scope| {
        // The answer may come before all is sent. What the server does not want to read is no fault.
        let writing = scope.spawn(|| (&stream).write_all(&request.bytes));
        let reply = listen(&stream, request, until);
        let _ = stream.shutdown(Shutdown::Both);
        let _ = writing.join();
        reply
    })
}

fn listen(mut stream: &TcpStream, request: &Request, until: Instant) -> Reply {
    let hold = Instant::now() + HOLD;
    let (mut answer, mut buffer, mut is_closed) = (Vec::new(), vec![0; 64 << 10], request.is_proper);
    loop {
        let now = Instant::now();
        if now >= until {
            return Reply::Slow;
        }
        if !is_closed && now >= hold {
            let _ = stream.shutdown(Shutdown::Write);
            is_closed = true;
        }
        let wait = if is_closed { until } else { until.min(hold) }.saturating_duration_since(now);
        stream.set_read_timeout(Some(wait.max(Duration::from_millis(1)))).unwrap();
        let has_ended = match stream.read(&mut buffer) {
            Ok(0) => true,
            Ok(read) => {
                answer.extend_from_slice(&buffer[..read]);
                false
            }
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) =>
            {
                continue;
            }
            Err(_) => true,
        };
        match judge(&answer, request.bytes.starts_with(b"HEAD"), has_ended) {
            Some(reply) => return reply,
            None if has_ended && answer.is_empty() && !request.is_proper => return Reply::Dropped,
            None if has_ended => {
                let begin = String::from_utf8_lossy(&answer[..answer.len().min(300)]).into_owned();
                return Reply::Broken(format!(
                    "the connection ended after {} bytes of an answer: {begin}",
                    answer.len()
                ));
            }
            None => {}
        }
    }
}

/// The answer once it is whole.
fn judge(answer: &[u8], is_head: bool, has_ended: bool) -> Option<Reply> {
    if answer.len() > ANSWER_BYTES_MAX {
        return Some(Reply::Broken(format!("an answer of more than {ANSWER_BYTES_MAX} bytes")));
    }
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let (head, body) = (String::from_utf8_lossy(&answer[..end]), &answer[end + 4..]);
    if head.starts_with("HTTP/1.1 100 ") {
        return judge(body, is_head, has_ended);
    }
    let mut lines = head.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)?.parse::<u16>().ok());
    let Some(status) = status else { return Some(Reply::Broken(format!("no status line: {head}"))) };
    let headers: Vec<(String, &str)> =
        lines.filter_map(|line| line.split_once(": ")).map(|(key, value)| (key.to_lowercase(), value)).collect();
    let header = |name: &str| headers.iter().find(|(key, _)| key == name).map_or("", |(_, value)| *value);
    let body = if is_head {
        Vec::new()
    } else if header("transfer-encoding") == "chunked" {
        unchunk(body)?
    } else if let Ok(bytes) = header("content-length").parse::<usize>() {
        body.get(..bytes)?.to_vec()
    } else if has_ended {
        body.to_vec()
    } else {
        return None;
    };
    let broken = |reason: &str| {
        let begin = String::from_utf8_lossy(&body[..body.len().min(300)]);
        Some(Reply::Broken(format!("{reason}: status {status}, {begin}")))
    };
    let Ok(text) = String::from_utf8(body.clone()) else { return broken("an answer that is no text") };
    let kind = header("content-type");
    if kind.starts_with("application/json") && !is_head && serde_json::from_str::<Value>(&text).is_err() {
        return broken("a body that is no JSON");
    }
    if kind.starts_with("text/event-stream") && !text.ends_with("data: [DONE]\n\n") && !text.contains("\"error\"") {
        return broken("a stream without an end");
    }
    Some(Reply::Answer(status, text))
}

/// The body of an answer that comes in chunks, once the last is there.
fn unchunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|window| window == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).ok()?, 16).ok()?;
        let chunk = rest.get(end + 2..)?;
        body.extend_from_slice(chunk.get(..size)?);
        rest = chunk.get(size + 2..)?;
        if size == 0 {
            return Some(body);
        }
    }
}
