//! A server on a tiny model with random weights, and what one says to it.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use image::{Rgb, RgbImage};
use serde_json::{Value, json};

use crate::support::command::{Workplace, succeed};

/// Longer than this nothing takes.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// A running server; it ends with this value.
pub struct Server {
    pub workplace: Workplace,
    child: Child,
    /// In the form `127.0.0.1:port`.
    pub address: String,
    agent: ureq::Agent,
}

/// An answer of the server.
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub text: String,
}

impl Reply {
    /// The body of an answer that worked.
    #[track_caller]
    pub fn json(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text);
        serde_json::from_str(&self.text).unwrap()
    }

    /// Status, message and field of a refusal, which is of OpenAI's form.
    #[track_caller]
    pub fn error(&self) -> (u16, String, Value) {
        let json: Value = serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("{}: {}", self.status, self.text));
        let error = &json["error"];
        let keys: Vec<&String> =
            error.as_object().unwrap_or_else(|| panic!("{}: {json}", self.status)).keys().collect();
        assert_eq!(keys, ["message", "type", "param", "code"]);
        (self.status, error["message"].as_str().unwrap().to_owned(), error["param"].clone())
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

impl Server {
    /// On weights of seed 0, with further arguments.
    pub fn start(arguments: &[&str]) -> Server {
        Server::start_in(Workplace::new(), arguments)
    }

    pub fn start_in(workplace: Workplace, arguments: &[&str]) -> Server {
        init(&workplace, "tiny", 0);
        let model = workplace.path("tiny");
        Server::start_on(workplace, &model, arguments)
    }

    /// With the checkpoint's template behind one that shows tools, which its own does not.
    pub fn start_with_tools(arguments: &[&str]) -> Server {
        let workplace = Workplace::new();
        let own = std::fs::read_to_string(workplace.path("model/chat_template.jinja")).unwrap();
        let template =
            workplace.write("tools.jinja", format!("{{% if tools %}}{{{{ tools | tojson }}}}{{% endif %}}{own}"));
        Server::start_in(workplace, &[&["--chat-template", template.to_str().unwrap()], arguments].concat())
    }

    /// On another model.
    pub fn start_on(workplace: Workplace, model: &Path, arguments: &[&str]) -> Server {
        let command = Command::new(env!("CARGO_BIN_EXE_thyme-engine"));
        Server::start_by(command, workplace, model, arguments, Stdio::inherit())
    }

    /// On another model; what it says of faults goes to a file.
    pub fn start_with_log(workplace: Workplace, model: &Path, arguments: &[&str], log: &Path) -> Server {
        let command = Command::new(env!("CARGO_BIN_EXE_thyme-engine"));
        Server::start_by(command, workplace, model, arguments, File::create(log).unwrap().into())
    }

    /// With so many descriptors at most.
    pub fn start_with_descriptors(descriptors: u32) -> Server {
        let workplace = Workplace::new();
        init(&workplace, "tiny", 0);
        let (model, limit) = (workplace.path("tiny"), format!("ulimit -n {descriptors} && exec \"$@\""));
        let mut command = Command::new("sh");
        command.args(["-c", &limit, "sh", env!("CARGO_BIN_EXE_thyme-engine")]);
        Server::start_by(command, workplace, &model, &[], Stdio::inherit())
    }

    fn start_by(mut command: Command, workplace: Workplace, model: &Path, arguments: &[&str], log: Stdio) -> Server {
        command.arg("serve").arg(model).args(["--port", "0", "--served-model-name", "tiny"]);
        command.args(arguments).env("RUST_BACKTRACE", "0").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address =
            line.trim().strip_prefix("serving tiny at http://").unwrap_or_else(|| panic!("{line}")).to_owned();
        let config = ureq::Agent::config_builder().http_status_as_error(false).proxy(None);
        let agent = config.timeout_global(Some(TIMEOUT)).build().new_agent();
        Server { workplace, child, address, agent }
    }

    pub fn get(&self, path: &str) -> Reply {
        reply(self.agent.get(self.url(path)).call().unwrap())
    }

    pub fn post(&self, path: &str, body: &Value) -> Reply {
        self.post_text(path, body.to_string().as_bytes())
    }

    pub fn post_text(&self, path: &str, body: &[u8]) -> Reply {
        reply(self.agent.post(self.url(path)).content_type("application/json").send(body).unwrap())
    }

    /// A post with headers of its own.
    pub fn post_with(&self, path: &str, headers: &[(&str, &str)], body: &Value) -> Reply {
        let mut request =
            headers.iter().fold(self.agent.post(self.url(path)), |r, (key, value)| r.header(*key, *value));
        if headers.iter().all(|(key, _)| !key.eq_ignore_ascii_case("content-type")) {
            request = request.content_type("application/json");
        }
        reply(request.send(body.to_string()).unwrap())
    }

    pub fn chat(&self, body: Value) -> Value {
        self.post("/v1/chat/completions", &body).json()
    }

    pub fn complete(&self, body: Value) -> Value {
        self.post("/v1/completions", &body).json()
    }

    /// The chunks of a stream, which ends as it should.
    pub fn stream(&self, path: &str, mut body: Value) -> Vec<Value> {
        body["stream"] = true.into();
        let reply = self.post(path, &body);
        assert_eq!(reply.status, 200, "{}", reply.text);
        assert!(reply.header("content-type").unwrap().starts_with("text/event-stream"));
        events(&reply.text)
    }

    /// A request on a connection of its own, of which nothing was read yet.
    pub fn open(&self, path: &str, body: &Value) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        let body = body.to_string();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body.as_bytes()).unwrap();
        stream
    }

    /// A number of `/metrics`.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").text;
        let line = text.lines().find(|line| line.starts_with(&format!("thyme_engine:{name}{{")));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// Waits until a number of `/metrics` is this.
    #[track_caller]
    pub fn wait_for(&self, name: &str, wanted: f64) {
        let began = Instant::now();
        while self.metric(name) != wanted {
            assert!(began.elapsed() < TIMEOUT, "{name} is {}, not {wanted}", self.metric(name));
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until a number of `/metrics` is greater than this.
    #[track_caller]
    pub fn wait_past(&self, name: &str, past: f64) {
        let began = Instant::now();
        while self.metric(name) <= past {
            assert!(began.elapsed() < TIMEOUT, "{name} is still {past}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), rustix::process::Signal::TERM)
            .unwrap();
    }

    /// How it ended, if it did.
    pub fn try_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// How it ended.
    pub fn ended(&mut self) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(began.elapsed() < TIMEOUT, "the server did not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes random weights beside the workplace's config.
pub fn init(workplace: &Workplace, name: &str, seed: u64) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_thyme-engine"));
    command.arg("init").arg("--config").arg(workplace.path("model/config.json"));
    command.arg("--seed").arg(seed.to_string()).arg("--out").arg(workplace.path(name));
    succeed(command);
}

/// The JSON of the events of a stream; the last is `[DONE]`.
pub fn events(text: &str) -> Vec<Value> {
    let mut events: Vec<&str> = text
        .split("\n\n")
        .filter(|event| !event.is_empty())
        .map(|event| event.strip_prefix("data: ").unwrap())
        .collect();
    assert_eq!(events.pop(), Some("[DONE]"));
    events.into_iter().map(|event| serde_json::from_str(event).unwrap()).collect()
}

/// The calls that the pieces of a stream make: name, id and type come with the first piece of each, and only with it.
pub fn joined_calls<'a>(pieces: impl Iterator<Item = &'a Value>) -> Vec<Value> {
    let mut calls = Vec::<Value>::new();
    for piece in pieces {
        let index = piece["index"].as_u64().unwrap() as usize;
        if index == calls.len() {
            assert!(piece["id"].is_string() && piece["type"] == "function", "{piece}");
            assert!(piece["function"]["name"].is_string(), "{piece}");
            calls.push(piece.clone());
            continue;
        }
        assert_eq!(index + 1, calls.len(), "calls come one after the other: {piece}");
        let keys: Vec<&String> = piece.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["index", "function"], "{piece}");
        let more = piece["function"]["arguments"].as_str().unwrap();
        let arguments = calls[index]["function"]["arguments"].as_str().unwrap().to_owned() + more;
        calls[index]["function"]["arguments"] = arguments.into();
    }
    calls
}

/// All that comes on a connection.
pub fn read_all(mut stream: TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// The body of an answer that was sent in chunks.
pub fn unchunk(mut text: &str) -> String {
    let mut body = String::new();
    while let Some((size, rest)) = text.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap_or_else(|_| panic!("{size:?} before {rest:?}"));
        body.push_str(&rest[..size]);
        text = &rest[size + 2..];
        if size == 0 {
            break;
        }
    }
    body
}

/// A picture as a data URL.
pub fn picture(width: u32, height: u32) -> String {
    let file = tempfile::Builder::new().suffix(".png").tempfile().unwrap();
    draw(file.path(), width, height);
    format!("data:image/png;base64,{}", BASE64_STANDARD.encode(std::fs::read(file.path()).unwrap()))
}

/// A picture as a file.
pub fn draw(path: &Path, width: u32, height: u32) {
    RgbImage::from_fn(width, height, |x, y| Rgb([(x * 3 % 256) as u8, (y * 5 % 256) as u8, 90])).save(path).unwrap();
}

/// A prompt whose answer takes a while: the likeliest tokens of random weights go round and round.
pub fn long(tokens: usize) -> Value {
    json!({"prompt": "a", "max_tokens": tokens, "temperature": 0, "ignore_eos": true})
}

/// A message of a user.
pub fn says(text: &str) -> Value {
    json!([{"role": "user", "content": text}])
}

/// A message with a picture.
pub fn shows(picture: Value) -> Value {
    json!([{"role": "user", "content": [picture, {"type": "text", "text": "What is it?"}]}])
}

fn reply(mut response: ureq::http::Response<ureq::Body>) -> Reply {
    let header = |(key, value): (&ureq::http::HeaderName, &ureq::http::HeaderValue)| {
        (key.to_string(), value.to_str().unwrap().to_owned())
    };
    Reply {
        status: response.status().as_u16(),
        headers: response.headers().iter().map(header).collect(),
        text: response.body_mut().read_to_string().unwrap(),
    }
}
