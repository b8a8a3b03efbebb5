//! An OpenAI-compatible endpoint that answers many clients at a time, and misbehaves as a test wants.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use super::chat_endpoint::says;

/// What becomes of a request.
#[derive(Clone, Debug)]
pub enum Act {
    /// A reply: status, headers, body.
    Reply(u16, Vec<(&'static str, String)>, String),
    /// The same, some time later.
    Late(Duration, Box<Act>),
    /// The connection ends in the midst of a reply.
    Cut,
    /// The connection ends before a reply.
    Close,
    /// No reply, for longer than anybody waits.
    Silence,
}

impl Act {
    /// The model says this.
    pub fn says(text: &str) -> Act {
        let (status, body) = says(text);
        Act::Reply(status, Vec::new(), body)
    }

    /// A reply without a body.
    pub fn status(status: u16) -> Act {
        Act::Reply(status, Vec::new(), String::new())
    }

    /// A reply of success with this body.
    pub fn body(body: &str) -> Act {
        Act::Reply(200, Vec::new(), body.to_owned())
    }
}

/// The endpoint. Its threads end with the process.
pub struct FakeJudge {
    /// Its `base_url`.
    pub address: String,
    requests: Arc<Mutex<Vec<Value>>>,
}

impl FakeJudge {
    /// One that does what `act` says of each request: of its number, from 0 on, and its body.
    pub fn start(act: impl Fn(usize, &Value) -> Act + Send + Sync + 'static) -> FakeJudge {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}/v1", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (act, seen) = (Arc::new(act), Arc::clone(&requests));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (act, seen) = (Arc::clone(&act), Arc::clone(&seen));
                std::thread::spawn(move || serve(stream.unwrap(), &seen, &*act));
            }
        });
        FakeJudge { address, requests }
    }

    /// One that does these things in turn, the last again and again.
    pub fn scripted(acts: &[Act]) -> FakeJudge {
        let acts = acts.to_vec();
        FakeJudge::start(move |number, _| acts[number.min(acts.len() - 1)].clone())
    }

    /// The bodies of the requests so far.
    pub fn requests(&self) -> Vec<Value> {
        self.requests.lock().unwrap().clone()
    }
}

fn serve(stream: TcpStream, seen: &Mutex<Vec<Value>>, act: &dyn Fn(usize, &Value) -> Act) {
    let mut reader = BufReader::new(stream);
    let lines = reader.by_ref().lines().map_while(Result::ok).take_while(|line| !line.is_empty());
    let lengths: Vec<usize> =
        lines.filter_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok()).collect();
    let Some(&length) = lengths.first() else { return };
    let mut content = vec![0; length];
    reader.read_exact(&mut content).unwrap();
    let body: Value = serde_json::from_slice(&content).unwrap();
    let number = {
        let mut seen = seen.lock().unwrap();
        seen.push(body.clone());
        seen.len() - 1
    };
    perform(reader.get_mut(), act(number, &body));
}

fn perform(stream: &mut TcpStream, act: Act) {
    match act {
        Act::Reply(status, headers, body) => {
            let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
            let length = body.len();
            let head = format!("HTTP/1.1 {status} X\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n");
            // Whoever has read enough may be gone.
            let _ = stream.write_all((head + &body).as_bytes());
        }
        Act::Late(time, act) => {
            std::thread::sleep(time);
            perform(stream, *act);
        }
        Act::Cut => {
            let _ = stream.write_all(b"HTTP/1.1 200 X\r\nContent-Length: 1000\r\n\r\n{\"choices\": [{\"mess");
        }
        Act::Close => {}
        Act::Silence => std::thread::sleep(Duration::from_secs(30)),
    }
}
