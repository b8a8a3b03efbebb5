//! Many clients at once, most of them slow and half of them gone before their answer is whole, among them some up to no good: the server
//! answers or refuses each, forgets whoever left, and takes no more memory for it. The short run is part of the tests; the long one is
//!
//!     cargo test --release --test it load_long -- --ignored --nocapture

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use flate2::Compression;
use flate2::write::ZlibEncoder;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::support::server::{Server, events, picture, shows, unchunk};

/// Longer than this nobody waits for an answer.
const TIMEOUT: Duration = Duration::from_secs(180);
/// Answers of the honest.
const ANSWER_TOKENS: usize = 48;

/// The size of a run.
struct Load {
    clients: usize,
    seconds: u64,
    /// Requests that may wait.
    queue: usize,
    /// Seconds that the server waits for a client that stands still.
    client_timeout: u64,
    /// Bytes that the server's memory may grow in a minute of the run's second half; a short run is over before memory settles.
    growth_max: Option<f64>,
}

/// What a client does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Conduct {
    ReadsSlowly,
    ReadsAtOnce,
    ShowsPicture,
    LeavesStream,
    LeavesAnswer,
    StopsReading,
    SlowHead,
    SlowBody,
    NoJson,
    WrongType,
    DeepJson,
    LargeBody,
    HugePicture,
    ManyFrames,
    DeflateBomb,
}

/// What came of a request.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Outcome {
    /// It was answered to the end, as it should be.
    Answered,
    /// It was refused by a status that says why.
    Refused(u16),
    /// The server gave it up without an answer.
    Dropped,
    /// The client left.
    Left,
    /// None of these: a promise is broken.
    Broken(String),
}

use Conduct::*;
use Outcome::*;

/// Those up to no good; the last takes a second of a processor.
const HOSTILE: [Conduct; 9] =
    [SlowHead, SlowBody, NoJson, WrongType, DeepJson, LargeBody, HugePicture, ManyFrames, DeflateBomb];

impl Conduct {
    /// Of every two clients one leaves; of the others most are honest.
    fn of(client: usize, round: usize) -> Conduct {
        match (client % 2, (client / 2 + 7 * round) % 20) {
            (0, 0) => StopsReading,
            (0, 1..13) => LeavesStream,
            (0, _) => LeavesAnswer,
            (_, 0..10) => ReadsSlowly,
            (_, 10..13) => ReadsAtOnce,
            (_, 13..15) => ShowsPicture,
            // The last of them comes less often.
            (_, _) => {
                HOSTILE[match (client / 40 + round) % 32 {
                    place @ 0..31 => place % 8,
                    _ => 8,
                }]
            }
        }
    }

    /// Statuses that it may be refused with, beside those of a full server.
    fn refusals(self) -> &'static [u16] {
        match self {
            SlowBody => &[408],
            NoJson | WrongType | DeepJson | HugePicture => &[400],
            // What is large may come to a stop on its way through a busy system.
            LargeBody => &[400, 408],
            DeflateBomb => &[408],
            _ => &[],
        }
    }
}

/// What all clients know.
struct World {
    address: std::net::SocketAddr,
    bodies: BTreeMap<Conduct, String>,
    /// What the honest are told; it does not depend on others.
    expected: BTreeMap<Conduct, String>,
    is_over: AtomicBool,
}

/// What a client saw of a request.
struct Seen {
    conduct: Conduct,
    outcome: Outcome,
    first_token: Option<Duration>,
}

impl World {
    fn new(server: &Server) -> World {
        let honest = |stream: bool| {
            json!({"prompt": "What digit is on the red plate?", "max_tokens": ANSWER_TOKENS, "temperature": 0,
                "ignore_eos": true, "stream": stream, "stream_options": {"include_usage": true}})
        };
        let shown = |url: &str| {
            let part = json!({"type": "image_url", "image_url": {"url": url}});
            json!({"messages": shows(part), "max_tokens": 4, "temperature": 0, "ignore_eos": true})
        };
        let endless = json!({"prompt": "a", "max_tokens": 3000, "temperature": 0, "ignore_eos": true, "stream": true, "logprobs": 20});
        let bodies = BTreeMap::from([
            (ReadsSlowly, honest(true).to_string()),
            (ReadsAtOnce, honest(false).to_string()),
            (ShowsPicture, shown(&picture(80, 60)).to_string()),
            (LeavesStream, honest(true).to_string()),
            (LeavesAnswer, honest(false).to_string()),
            (StopsReading, endless.to_string()),
            (SlowHead, String::new()),
            (SlowBody, honest(true).to_string()),
            (NoJson, "{\"prompt\": \"a\",".to_owned()),
            (WrongType, json!({"prompt": "a", "max_tokens": "many"}).to_string()),
            (DeepJson, format!("{{\"messages\": {}1{}}}", "[".repeat(100_000), "]".repeat(100_000))),
            (LargeBody, format!("{{\"prompt\": \"{}\"}}", "a".repeat(50 << 20))),
            (HugePicture, shown(&url("png", &png(60_000, 60_000, &[]))).to_string()),
            (ManyFrames, shown(&url("gif", &gif(2_000))).to_string()),
            // The header says 64 pixels, the data has 256 MiB of zeros.
            (DeflateBomb, shown(&url("png", &png(8, 8, &zeros(256 << 20)))).to_string()),
        ]);
        let text = |answer: Value| answer["choices"][0]["text"].as_str().unwrap().to_owned();
        let whole = text(server.complete(honest(false)));
        let seen =
            server.chat(shown(&picture(80, 60)))["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
        let expected = BTreeMap::from([(ReadsSlowly, whole.clone()), (ReadsAtOnce, whole), (ShowsPicture, seen)]);
        World { address: server.address.parse().unwrap(), bodies, expected, is_over: AtomicBool::new(false) }
    }

    /// One request after the other until the end.
    async fn client(self: Arc<World>, client: usize) -> Vec<Seen> {
        let mut seen = Vec::new();
        for round in 0.. {
            if self.is_over.load(Ordering::Relaxed) {
                break;
            }
            let request = self.request(Conduct::of(client, round)).await;
            // As it was told.
            if matches!(request.outcome, Refused(429 | 503)) {
                sleep(Duration::from_secs(1)).await;
            }
            seen.push(request);
        }
        seen
    }

    async fn request(&self, conduct: Conduct) -> Seen {
        let (mut first_token, sent) = (None, AtomicUsize::new(0));
        let outcome = match timeout(TIMEOUT, self.converse(conduct, &mut first_token, &sent)).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => Broken(error.to_string()),
            Err(_) => Broken(format!("no answer, {} bytes of the body sent", sent.into_inner())),
        };
        Seen { conduct, outcome, first_token }
    }

    async fn converse(
        &self,
        conduct: Conduct,
        first_token: &mut Option<Duration>,
        sent: &AtomicUsize,
    ) -> std::io::Result<Outcome> {
        let socket = TcpSocket::new_v4()?;
        if conduct == StopsReading {
            socket.set_recv_buffer_size(4096)?;
        }
        let stream = socket.connect(self.address).await?;
        let body = &self.bodies[&conduct];
        let path = if body.contains("\"messages\"") { "/v1/chat/completions" } else { "/v1/completions" };
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let (mut reader, mut writer) = stream.into_split();
        let began = Instant::now();
        // A client writes and reads at once: a refusal may come before all is said.
        let writing = async move {
            match conduct {
                SlowHead => trickle(&mut writer, head.as_bytes(), 1).await?,
                SlowBody => {
                    writer.write_all(head.as_bytes()).await?;
                    trickle(&mut writer, body.as_bytes(), 1).await?;
                }
                _ => {
                    writer.write_all(head.as_bytes()).await?;
                    for piece in body.as_bytes().chunks(1 << 20) {
                        writer.write_all(piece).await?;
                        sent.fetch_add(piece.len(), Ordering::Relaxed);
                    }
                }
            }
            Ok::<_, std::io::Error>(writer)
        };
        let mut answer = Vec::new();
        let reading = async {
            let mut buffer = vec![0; if conduct == ReadsSlowly { 512 } else { 16 << 10 }];
            loop {
                if conduct == LeavesAnswer {
                    sleep(Duration::from_millis(300)).await;
                    return Ok(true);
                }
                if conduct == StopsReading && !answer.is_empty() {
                    sleep(Duration::from_secs(6)).await;
                    return Ok(true);
                }
                let read = match reader.read(&mut buffer).await {
                    Ok(0) => return Ok::<_, std::io::Error>(false),
                    Ok(read) => read,
                    // What the server dropped while we were still sending.
                    Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Ok(false),
                    Err(error) => return Err(error),
                };
                answer.extend_from_slice(&buffer[..read]);
                if first_token.is_none() && answer.windows(6).any(|window| window == b"data: ") {
                    *first_token = Some(began.elapsed());
                }
                match conduct {
                    LeavesStream if first_token.is_some() => return Ok(true),
                    ReadsSlowly => sleep(Duration::from_millis(20)).await,
                    _ => {}
                }
            }
        };
        let has_left = {
            tokio::pin!(reading);
            tokio::select! {
                left = &mut reading => left?,
                // Half a connection stays open until the answer is read.
                written = writing => { let left = reading.await?; drop(written); left }
            }
        };
        Ok(if has_left { Left } else { self.judge(conduct, &answer) })
    }

    /// What an answer is worth.
    fn judge(&self, conduct: Conduct, answer: &[u8]) -> Outcome {
        let broken =
            |reason: &str| Broken(format!("{reason}: {}", String::from_utf8_lossy(&answer[..answer.len().min(300)])));
        if answer.is_empty() {
            return if conduct == SlowHead { Dropped } else { broken("the connection ended without an answer") };
        }
        let text = String::from_utf8_lossy(answer);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { return broken("half a head") };
        let status: u16 = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        match status {
            429 | 503 if !head.to_lowercase().contains("retry-after:") => broken("no Retry-After"),
            429 | 503 => Refused(status),
            200 => self.judge_answer(conduct, head, body).unwrap_or_else(|| broken("not the whole answer")),
            _ if conduct.refusals().contains(&status) => Refused(status),
            _ => broken("an unexpected status"),
        }
    }

    /// None unless all is there and right.
    fn judge_answer(&self, conduct: Conduct, head: &str, body: &str) -> Option<Outcome> {
        if !head.to_lowercase().contains("transfer-encoding: chunked") {
            let answer: Value = serde_json::from_str(body).ok()?;
            let choice = &answer["choices"][0];
            let said = choice["text"].as_str().or(choice["message"]["content"].as_str())?;
            let is_right = self.expected.get(&conduct).is_none_or(|expected| expected == said);
            return is_right.then_some(Answered);
        }
        // The last chunk is empty; without it the answer was cut off.
        let whole = body.ends_with("0\r\n\r\n").then(|| unchunk(body))?;
        let events = whole.ends_with("data: [DONE]\n\n").then(|| events(&whole))?;
        let said: String = events.iter().filter_map(|event| event["choices"][0]["text"].as_str()).collect();
        let is_right = self.expected.get(&conduct).is_none_or(|expected| *expected == said);
        (is_right && events.last()?["usage"]["completion_tokens"] == ANSWER_TOKENS).then_some(Answered)
    }
}

/// Sends a text so slowly that it never ends.
async fn trickle(writer: &mut (impl AsyncWriteExt + Unpin), bytes: &[u8], at_once: usize) -> std::io::Result<()> {
    for piece in bytes.chunks(at_once) {
        writer.write_all(piece).await?;
        sleep(Duration::from_millis(300)).await;
    }
    Ok(())
}

fn url(kind: &str, bytes: &[u8]) -> String {
    format!("data:image/{kind};base64,{}", BASE64_STANDARD.encode(bytes))
}

/// So many zeros, compressed.
fn zeros(bytes: usize) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    let block = vec![0; 1 << 20];
    (0..bytes >> 20).for_each(|_| encoder.write_all(&block).unwrap());
    encoder.finish().unwrap()
}

/// A grey PNG of this size with this data.
fn png(width: u32, height: u32, data: &[u8]) -> Vec<u8> {
    let part = |kind: &[u8], data: &[u8]| {
        let checked = [kind, data].concat();
        let mut crc = flate2::Crc::new();
        crc.update(&checked);
        [&(data.len() as u32).to_be_bytes(), checked.as_slice(), &crc.sum().to_be_bytes()].concat()
    };
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 0, 0, 0, 0]].concat();
    [b"\x89PNG\r\n\x1a\n".to_vec(), part(b"IHDR", &header), part(b"IDAT", data), part(b"IEND", b"")].concat()
}

/// A picture of 64 times 64 pixels with so many frames.
fn gif(frames: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = image::codecs::gif::GifEncoder::new_with_speed(&mut bytes, 30);
    for number in 0..frames {
        let frame = image::RgbaImage::from_pixel(64, 64, image::Rgba([number as u8, 0, 0, 255]));
        encoder.encode_frame(image::Frame::new(frame)).unwrap();
    }
    drop(encoder);
    bytes
}

/// Bytes of the server's memory, second by second.
async fn watch_memory(world: Arc<World>, pid: u32) -> Vec<f64> {
    let mut readings = Vec::new();
    while !world.is_over.load(Ordering::Relaxed) {
        readings.push(resident_bytes(pid));
        sleep(Duration::from_millis(500)).await;
    }
    readings
}

fn resident_bytes(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix("kB").unwrap().trim().parse::<f64>().unwrap() * 1024.0
}

/// Open descriptors but for pipes: those lead to children that start as they are needed.
fn descriptors(pid: u32) -> usize {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let target = |entry: std::io::Result<std::fs::DirEntry>| std::fs::read_link(entry.ok()?.path()).ok();
    entries.filter_map(target).filter(|target| !target.to_string_lossy().starts_with("pipe:")).count()
}

/// Least-squares slope of readings that are half a second apart, in bytes a minute.
fn growth(readings: &[f64]) -> f64 {
    let count = readings.len() as f64;
    let mean = readings.iter().sum::<f64>() / count;
    let middle = (count - 1.0) / 2.0;
    let (mut above, mut below) = (0.0, 0.0);
    for (number, reading) in readings.iter().enumerate() {
        above += (number as f64 - middle) * (reading - mean);
        below += (number as f64 - middle).powi(2);
    }
    120.0 * above / below
}

fn median(readings: &[f64]) -> f64 {
    let mut sorted = readings.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn percentile(sorted: &[Duration], share: f64) -> f64 {
    sorted.get(((sorted.len() as f64 - 1.0) * share) as usize).map_or(f64::NAN, Duration::as_secs_f64)
}

/// Runs it, prints what happened, and fails where a promise is broken.
fn run(load: &Load) {
    let [queue, client_timeout] = [load.queue as u64, load.client_timeout].map(|number| number.to_string());
    let mut server =
        Server::start(&["--max-num-seqs", "64", "--max-queued-requests", &queue, "--client-timeout", &client_timeout]);
    let pid = server.pid();
    let world = Arc::new(World::new(&server));
    let (descriptors_before, memory_before) = (descriptors(pid), resident_bytes(pid));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    meet_each(&runtime, &world);
    let (mut seen, readings) = runtime.block_on(async {
        let memory = tokio::spawn(watch_memory(world.clone(), pid));
        let mut clients: JoinSet<Vec<Seen>> = (0..load.clients).map(|client| world.clone().client(client)).collect();
        sleep(Duration::from_secs(load.seconds)).await;
        world.is_over.store(true, Ordering::Relaxed);
        let mut seen = Vec::new();
        while let Some(client) = clients.join_next().await {
            seen.extend(client.unwrap());
        }
        (seen, memory.await.unwrap())
    });
    for name in ["num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"] {
        server.wait_for(name, 0.0);
    }
    let descriptors_after = settled(|| descriptors(pid), descriptors_before);
    let preemptions = server.metric("num_preemptions_total");
    let ended = at_the_end(&runtime, &server, &world);
    let status = server.ended();
    report(load, &seen, &readings, memory_before, [descriptors_before, descriptors_after]);
    println!("pages in use before and after: 0, 0; preemptions {preemptions}");
    println!("at SIGTERM: {ended:?}, exit status {status}");

    seen.sort_by_key(|seen| seen.conduct);
    let broken: Vec<&Seen> = seen.iter().filter(|seen| matches!(seen.outcome, Broken(_))).collect();
    let shown: Vec<_> = broken.iter().take(5).map(|seen| (seen.conduct, &seen.outcome)).collect();
    assert!(broken.is_empty(), "{} promises were broken: {shown:?}", broken.len());
    let is_answered = |conduct| seen.iter().any(|seen| seen.conduct == conduct && seen.outcome == Answered);
    for conduct in [ReadsSlowly, ReadsAtOnce, ShowsPicture] {
        assert!(is_answered(conduct), "nobody who {conduct:?} was answered");
    }
    assert!(descriptors_after <= descriptors_before, "{descriptors_before} descriptors became {descriptors_after}");
    assert!(ended.keys().all(|outcome| !matches!(outcome, Broken(_))), "{ended:?}");
    assert!(ended.contains_key(&Answered) && status.code() == Some(0), "{ended:?}, {status}");
    if let Some(max) = load.growth_max {
        let growth = growth(&readings[readings.len() / 2..]);
        assert!(growth < max, "memory grows by {growth:.0} bytes a minute");
    }
}

/// While there is room for all, each gets what it deserves.
fn meet_each(runtime: &tokio::runtime::Runtime, world: &Arc<World>) {
    let mut clients = JoinSet::new();
    for conduct in HOSTILE {
        let world = world.clone();
        clients.spawn_on(async move { world.request(conduct).await }, runtime.handle());
    }
    while let Some(seen) = runtime.block_on(clients.join_next()) {
        let Seen { conduct, outcome, .. } = seen.unwrap();
        let is_deserved = match conduct {
            SlowHead => outcome == Dropped,
            // The first frame is a picture, and so are the first of the bytes.
            ManyFrames | DeflateBomb => outcome == Answered,
            _ => conduct.refusals().iter().any(|status| outcome == Refused(*status)),
        };
        assert!(is_deserved, "{conduct:?}: {outcome:?}");
    }
}

/// Waits a while for a number to come back to what it was.
fn settled(number: impl Fn() -> usize, wanted: usize) -> usize {
    let began = Instant::now();
    while number() > wanted && began.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(50));
    }
    number()
}

/// Ends the server while it is busy: whoever it took in is answered to the end, others are refused or find nobody.
fn at_the_end(runtime: &tokio::runtime::Runtime, server: &Server, world: &Arc<World>) -> BTreeMap<Outcome, usize> {
    runtime.block_on(async {
        let mut clients = JoinSet::new();
        for client in 0..200 {
            let world = world.clone();
            clients.spawn(async move {
                // Half of them come while it ends.
                sleep(Duration::from_millis(if client % 2 == 0 { 0 } else { 900 + 2 * client })).await;
                match TcpStream::connect(world.address).await {
                    Ok(_) => world.request(ReadsSlowly).await.outcome,
                    Err(_) => Dropped,
                }
            });
        }
        sleep(Duration::from_secs(1)).await;
        server.terminate();
        let mut outcomes = BTreeMap::new();
        while let Some(outcome) = clients.join_next().await {
            // A connection that came too late to be taken is reset without a word.
            let outcome = match outcome.unwrap() {
                Broken(reason) if reason.contains("without an answer") || reason.contains("os error") => Dropped,
                outcome => outcome,
            };
            *outcomes.entry(outcome).or_insert(0) += 1;
        }
        outcomes
    })
}

fn report(load: &Load, seen: &[Seen], readings: &[f64], before: f64, descriptors: [usize; 2]) {
    let count = |outcome: &dyn Fn(&Outcome) -> bool| seen.iter().filter(|seen| outcome(&seen.outcome)).count();
    println!("{} clients, {} s", load.clients, load.seconds);
    println!(
        "sent {}, answered {}, refused {}, dropped {}, left {}, broken {}",
        seen.len(),
        count(&|outcome| *outcome == Answered),
        count(&|outcome| matches!(outcome, Refused(_))),
        count(&|outcome| *outcome == Dropped),
        count(&|outcome| *outcome == Left),
        count(&|outcome| matches!(outcome, Broken(_))),
    );
    let mut table: BTreeMap<(Conduct, String), usize> = BTreeMap::new();
    for Seen { conduct, outcome, .. } in seen {
        let outcome = match outcome {
            Broken(_) => "Broken".to_owned(),
            outcome => format!("{outcome:?}"),
        };
        *table.entry((*conduct, outcome)).or_default() += 1;
    }
    for ((conduct, outcome), count) in table {
        println!("  {:<14}{outcome:<14}{count:>8}", format!("{conduct:?}"));
    }
    let mut first: Vec<Duration> = seen.iter().filter_map(|seen| seen.first_token).collect();
    first.sort();
    println!("time to first token: p50 {:.2} s, p99 {:.2} s", percentile(&first, 0.5), percentile(&first, 0.99));
    let megabytes = |bytes: f64| bytes / 1e6;
    println!(
        "memory in MB: at the start {:.0}, least {:.0}, most {:.0}, at the end {:.0}; second half {:+.2} a minute",
        megabytes(before),
        megabytes(readings.iter().copied().fold(f64::MAX, f64::min)),
        megabytes(readings.iter().copied().fold(0.0, f64::max)),
        megabytes(*readings.last().unwrap()),
        megabytes(growth(&readings[readings.len() / 2..])),
    );
    let shown: Vec<String> =
        readings.chunks(readings.len().div_ceil(20)).map(|part| format!("{:.0}", megabytes(median(part)))).collect();
    println!("  over time: {}", shown.join(" "));
    println!("descriptors before and after: {descriptors:?}");
}

#[test]
fn many_clients_at_once_are_answered_or_refused_and_leave_nothing_behind() {
    run(&Load { clients: 200, seconds: 6, queue: 64, client_timeout: 5, growth_max: None });
}

#[test]
#[ignore = "ten minutes; run: cargo test --release --test it load_long -- --ignored --nocapture"]
fn load_long_two_thousand_clients_for_ten_minutes() {
    let seconds = std::env::var("THYME_LOAD_SECONDS").map_or(600, |seconds| seconds.parse().unwrap());
    run(&Load { clients: 2_000, seconds, queue: 1024, client_timeout: 10, growth_max: Some(10e6) });
}

/// Tokens a second of 64 answers, streamed or not, beside so many requests that wait.
fn rate(stream: bool, waiting: usize) -> f64 {
    let server = Server::start(&["--max-num-seqs", "64", "--max-queued-requests", "4096"]);
    let address: std::net::SocketAddr = server.address.parse().unwrap();
    let body =
        json!({"prompt": "a", "max_tokens": 4000, "temperature": 0, "ignore_eos": true, "stream": stream}).to_string();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let open = |count: usize| {
        for _ in 0..count {
            let request = format!(
                "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            runtime.spawn(async move {
                let mut stream = TcpStream::connect(address).await.unwrap();
                stream.write_all(request.as_bytes()).await.unwrap();
                let mut buffer = vec![0; 16 << 10];
                while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
            });
        }
    };
    open(64 + waiting);
    server.wait_for("num_requests_running", 64.0);
    server.wait_for("num_requests_waiting", waiting as f64);
    std::thread::sleep(Duration::from_secs(1));
    let (began, before) = (Instant::now(), server.metric("generation_tokens_total"));
    std::thread::sleep(Duration::from_secs(4));
    (server.metric("generation_tokens_total") - before) / began.elapsed().as_secs_f64()
}

#[test]
#[ignore = "a measurement; run: cargo test --release --test it load_of_streams -- --ignored --nocapture"]
fn load_of_streams_on_decoding() {
    for (name, stream, waiting) in
        [("64 whole answers", false, 0), ("64 streams", true, 0), ("64 streams, 1,936 more that wait", true, 1936)]
    {
        println!("{name:<36}{:>9.0} tokens/s", rate(stream, waiting));
    }
}
