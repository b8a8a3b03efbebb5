//! An OpenAI-compatible endpoint that says what a test wants.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// The lines before the body, and the body.
pub type Request = (Vec<String>, Value);

/// How long the endpoint waits for the next request: a request that does not come is a failed test, not one that hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// An endpoint that gives these replies, one a connection; it ends with the requests, and panics if one of them does not come.
pub fn endpoint(replies: Vec<(u16, String)>) -> (String, JoinHandle<Vec<Request>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = format!("http://{}/v1", listener.local_addr().unwrap());
    let serve = move || {
        let mut requests = Vec::new();
        for (status, body) in replies {
            let mut reader = BufReader::new(next(&listener, requests.len()));
            let lines: Vec<String> =
                reader.by_ref().lines().map(Result::unwrap).take_while(|line| !line.is_empty()).collect();
            let length =
                lines.iter().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
            let mut content = vec![0; length.unwrap()];
            reader.read_exact(&mut content).unwrap();
            requests.push((lines, serde_json::from_slice(&content).unwrap()));
            let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            reader.into_inner().write_all((head + &body).as_bytes()).unwrap();
        }
        requests
    };
    (address, std::thread::spawn(serve))
}

/// The next connection.
fn next(listener: &TcpListener, count: usize) -> TcpStream {
    let start = Instant::now();
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false).unwrap();
                return stream;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                assert!(start.elapsed() < PATIENCE, "{count} requests came, and no further one");
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// A reply with this message.
pub fn says(text: &str) -> (u16, String) {
    (200, json!({"choices": [{"message": {"role": "assistant", "content": text}}]}).to_string())
}
