//! What the server fetches and what it does not, what it does for one client while others wait, and how large it makes itself.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::command::Workplace;
use crate::support::server::{Server, draw, init, long, picture, read_all, says, shows};

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";

/// A server of pictures on a private address: its port. It ends with the tests.
fn pictures() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || show(stream.unwrap(), port));
        }
    });
    port
}

fn show(mut stream: TcpStream, port: u16) {
    let mut request = [0; 4096];
    let read = stream.read(&mut request).unwrap();
    let request = String::from_utf8_lossy(&request[..read]).into_owned();
    let path = request.split(' ').nth(1).unwrap_or("");
    let file = tempfile::Builder::new().suffix(".png").tempfile().unwrap();
    draw(file.path(), 80, 60);
    let (head, body) = match path {
        "/a.png" => ("200 OK\r\n".to_owned(), std::fs::read(file.path()).unwrap()),
        "/large.png" => ("200 OK\r\n".to_owned(), vec![0; 65 << 20]),
        "/page" => ("200 OK\r\n".to_owned(), b"<html>".to_vec()),
        "/near" => ("302 Found\r\nLocation: /a.png\r\n".to_owned(), Vec::new()),
        "/elsewhere" => (format!("302 Found\r\nLocation: http://127.0.0.1:{port}/a.png\r\n"), Vec::new()),
        "/round" => ("302 Found\r\nLocation: /round\r\n".to_owned(), Vec::new()),
        _ => ("404 Not Found\r\n".to_owned(), Vec::new()),
    };
    // Whoever has enough hangs up.
    let _ = write!(stream, "HTTP/1.1 {head}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    let _ = stream.write_all(&body);
}

fn asks(url: &str) -> Value {
    let part = json!({"type": "image_url", "image_url": {"url": url}});
    json!({"messages": shows(part), "max_tokens": 8, "temperature": 0, "return_token_ids": true})
}

#[test]
fn pictures_are_fetched_from_hosts_that_the_operator_named() {
    let port = pictures();
    let server = Server::start(&["--allowed-media-domains", "LocalHost"]);
    let expected = server.chat(asks(&picture(80, 60)));
    for path in ["a.png", "near"] {
        let body = asks(&format!("http://localhost:{port}/{path}"));
        assert_eq!(server.chat(body.clone())["choices"], expected["choices"]);
        let rendered = server.post("/v1/chat/completions/render", &body).json();
        assert_eq!(rendered["token_ids"], expected["prompt_token_ids"]);
        let features = json!({"images": [format!("http://localhost:{port}/{path}")]});
        let body = json!({"token_ids": rendered["token_ids"], "features": features,
            "sampling_params": {"max_tokens": 8, "temperature": 0}});
        let generated = server.post("/inference/v1/generate", &body).json();
        assert_eq!(generated["choices"][0]["token_ids"], expected["choices"][0]["token_ids"]);
    }
    for (address, says_so) in [
        (format!("http://localhost:{port}/large.png"), "cannot be fetched"),
        (format!("http://localhost:{port}/nothing"), "404"),
        (format!("http://localhost:{port}/page"), "PNG"),
        (format!("http://localhost:{port}/round"), "redirect"),
        (format!("http://localhost:{port}/elsewhere"), "--allowed-media-domains"),
        (format!("http://127.0.0.1:{port}/a.png"), "--allowed-media-domains"),
        ("http://8.8.8.8/a.png".to_owned(), "--allowed-media-domains"),
    ] {
        let (status, message, _) = server.post(CHAT, &asks(&address)).error();
        assert!(status == 400 && message.contains(says_so), "{address}: {message}");
    }
}

#[test]
fn a_named_host_beside_the_public_network_opens_no_other_private_address() {
    let port = pictures();
    let server = Server::start(&["--allow-remote-images", "--allowed-media-domains", "localhost"]);
    assert_eq!(server.post(CHAT, &asks(&format!("http://localhost:{port}/a.png"))).status, 200);
    for path in ["elsewhere", "a.png"] {
        let host = if path == "a.png" { "127.0.0.1" } else { "localhost" };
        let (status, message, param) = server.post(CHAT, &asks(&format!("http://{host}:{port}/{path}"))).error();
        assert_eq!((status, param), (400, json!("messages[0].content[0]")));
        assert!(message.contains("no public address"), "{message}");
    }
}

#[test]
fn a_request_brings_its_own_template_where_it_is_trusted() {
    let body = json!({"messages": says("Hello"), "chat_template": "{{ messages[0].content }}!"});
    let server = Server::start(&["--trust-request-chat-template"]);
    let tokens = server.post("/tokenize", &body).json()["tokens"].clone();
    assert_eq!(server.post("/detokenize", &json!({"tokens": tokens})).json()["prompt"], "Hello!");
    let (status, message, _) = server.post(CHAT, &json!({"messages": says("a"), "chat_template": "{{ broken"})).error();
    assert!(status == 400 && message.contains("template"), "{message}");
}

#[test]
fn a_prompt_is_scored_between_the_steps_of_others() {
    let server = Server::start(&[]);
    let ids: Vec<usize> = (0..3000).map(|i| (i * 7) % 500 + 4).collect();
    let score = || server.complete(json!({"prompt": ids, "max_tokens": 1, "temperature": 0, "prompt_logprobs": 1}));
    let alone = score();
    let mut running = long(4000);
    running["stream"] = true.into();
    let running = server.open(TEXT, &running);
    server.wait_for("num_requests_running", 1.0);
    let before = server.metric("generation_tokens_total");
    assert_eq!(score()["choices"][0]["prompt_logprobs"], alone["choices"][0]["prompt_logprobs"]);
    // 2,999 places are six pieces, with a step of the other between each two.
    let between = server.metric("generation_tokens_total") - before;
    assert!(between >= 5.0, "{between} tokens came while a prompt was scored");
    drop(running);
    server.wait_for("num_requests_running", 0.0);
}

#[test]
fn what_is_kept_can_be_forgotten_while_others_run() {
    let server = Server::start(&[]);
    let ask = || server.complete(json!({"prompt": [vec![7; 50]], "max_tokens": 2, "ignore_eos": true, "seed": 1}));
    let first = ask();
    let mut running = long(4000);
    running["stream"] = true.into();
    let running = server.open(TEXT, &running);
    server.wait_for("num_requests_running", 1.0);
    assert_eq!(ask()["choices"], first["choices"]);
    server.wait_for("prefix_cache_hits_total", 48.0);
    assert_eq!(server.post("/reset_prefix_cache", &json!({})).status, 200);
    server.wait_for("num_requests_running", 1.0);
    assert_eq!(ask()["choices"], first["choices"]);
    server.wait_for("prefix_cache_hits_total", 48.0);
    assert_eq!(ask()["choices"], first["choices"]);
    server.wait_for("prefix_cache_hits_total", 96.0);
    drop(running);
    server.wait_for("num_requests_running", 0.0);
}

#[test]
fn who_sends_too_slowly_is_given_up() {
    let server = Server::start(&["--client-timeout", "1"]);
    let began = Instant::now();
    let mut head = TcpStream::connect(&server.address).unwrap();
    head.write_all(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n").unwrap();
    assert_eq!(read_all(head), "");
    let mut body = TcpStream::connect(&server.address).unwrap();
    body.write_all(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 30\r\n\r\n{\"prompt\":").unwrap();
    let answer = read_all(body);
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("slow_body"), "{answer}");
    assert!(began.elapsed() < Duration::from_secs(20));
    server.wait_for("num_requests_waiting", 0.0);
}

#[test]
fn a_server_that_goes_down_waits_for_nobody_who_stands_still() {
    let mut server = Server::start(&[]);
    let head = format!("POST {TEXT} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n", server.address);
    let still: Vec<TcpStream> = ["", "POST", &head, &format!("{head}Content-Length: 100\r\n\r\n{{\"prompt\":")]
        .into_iter()
        .map(|sent| {
            let mut stream = TcpStream::connect(&server.address).unwrap();
            stream.write_all(sent.as_bytes()).unwrap();
            stream
        })
        .collect();
    // What they sent is there.
    std::thread::sleep(Duration::from_millis(200));
    server.terminate();
    let began = Instant::now();
    assert_eq!(server.ended().code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    drop(still);
}

#[test]
fn a_body_that_says_it_is_too_large_is_refused_before_it_comes() {
    let server = Server::start(&[]);
    for (bytes, expect) in [(1_000_000_000_u64, ""), (100_000_000, "Expect: 100-continue\r\n")] {
        let mut stream = TcpStream::connect(&server.address).unwrap();
        let head = format!("POST {TEXT} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n", server.address);
        write!(stream, "{head}{expect}Content-Length: {bytes}\r\n\r\n").unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut told = [0; 12];
        stream.read_exact(&mut told).unwrap();
        assert_eq!(&told, b"HTTP/1.1 413", "{bytes} {expect}");
    }
}

#[test]
fn where_descriptors_are_short_the_longest_idle_connection_makes_room() {
    // 256 are kept for files.
    let server = Server::start_with_descriptors(280);
    let mut running = long(4000);
    running["stream"] = true.into();
    let running = server.open(TEXT, &running);
    server.wait_for("num_requests_running", 1.0);
    let idle: Vec<TcpStream> = (0..60).map(|_| TcpStream::connect(&server.address).unwrap()).collect();
    let began = Instant::now();
    for _ in 0..3 {
        let told = read_all(server.open(TEXT, &json!({"prompt": "a", "max_tokens": 1})));
        assert!(told.starts_with("HTTP/1.1 200"), "{told}");
    }
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    server.wait_for("num_requests_running", 1.0);
    drop((idle, running));
    server.wait_for("num_requests_running", 0.0);
}

#[test]
fn a_body_that_stands_still_gives_its_room_up_when_another_wants_it() {
    let server = Server::start(&[]);
    let head = "POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 62914560\r\n\r\n";
    let stalled: Vec<TcpStream> = (0..9)
        .map(|_| {
            let mut stream = TcpStream::connect(&server.address).unwrap();
            stream.write_all(head.as_bytes()).unwrap();
            stream.write_all(&vec![b' '; 2 << 20]).unwrap();
            stream
        })
        .collect();
    std::thread::sleep(Duration::from_millis(500));
    let began = Instant::now();
    let body = json!({"prompt": "a", "user": "a".repeat(4 << 20)});
    assert_eq!(server.post("/tokenize", &body).status, 200);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    drop(stalled);
}

#[test]
fn a_full_line_refuses_who_asks_for_most_and_not_who_came_last() {
    let server = Server::start(&["--max-num-seqs", "1", "--max-queued-requests", "2"]);
    let mut longer = long(3000);
    longer["n"] = 8.into();
    let _running = server.open(TEXT, &long(4000));
    server.wait_for("num_requests_running", 1.0);
    let refused = server.open(TEXT, &longer);
    server.wait_for("num_requests_waiting", 1.0);
    let _waiting = server.open(TEXT, &long(2000));
    server.wait_for("num_requests_waiting", 2.0);
    assert_eq!(server.complete(json!({"prompt": "a", "max_tokens": 2}))["usage"]["completion_tokens"], 2);
    let told = read_all(refused);
    assert!(told.starts_with("HTTP/1.1 429") && told.to_lowercase().contains("retry-after: 1"), "{told}");
}

#[test]
fn the_server_is_as_large_as_a_share_of_the_memory() {
    let server = Server::start(&["--gpu-memory-utilization", "0.5", "--max-num-seqs", "4"]);
    server.complete(json!({"prompt": "a", "max_tokens": 2}));
    let workplace = Workplace::new();
    init(&workplace, "tiny", 0);
    for (arguments, says_so) in [
        (&["--gpu-memory-utilization", "0.0001"][..], "does not hold the weights"),
        (&["--gpu-memory-utilization", "1.5"], "above 0 and at most 1"),
        (&["--gpu-memory-utilization", "0.5", "--kv-cache-memory-bytes", "1"], "cannot be used with"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_thyme-engine"));
        command.arg("serve").arg(workplace.path("tiny")).args(["--port", "0"]).args(arguments);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(says_so), "{arguments:?}: {said}");
    }
}
