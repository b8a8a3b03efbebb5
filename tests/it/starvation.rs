//! Requests that take all that they can get, beside ordinary clients, and small chats that want their turn: those are answered soon, whatever
//! the others ask for. The short runs are part of the tests; the long one is
//!
//!     cargo test --release --test it starvation_long -- --ignored --nocapture

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::support::server::{Server, picture, says};

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";
/// A chat that takes longer than this counts as never answered.
const GIVEN_UP: Duration = Duration::from_secs(60);
/// What small chats are promised, at the median and at worst.
const MEDIAN_MAX: Duration = Duration::from_secs(2);
const WORST_MAX: Duration = Duration::from_secs(10);

/// Stands for a number that no other request has, so that nothing is found that was computed before.
const MARK: &str = "@@@@@@";

/// The size of a run.
#[derive(Clone, Copy)]
struct Size {
    ordinary: usize,
    small: usize,
    seconds: u64,
    /// How much a starving request asks for, 1 at most.
    share: f64,
}

/// What starves others, unless each has its turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Starving {
    Nobody,
    ManyAnswers,
    ManyPrompts,
    LongAnswers,
    LongPrompts,
    ScoredPrompts,
    ManyPictures,
    LargeForms,
    LargeBodies,
    LongTokenize,
    StalledBodies,
    StalledSmallBodies,
    SilentConnections,
    SlowReaders,
    FullLine,
    SlowPictureHost,
    LongTextsToPlay,
    ManyPicturesToPlay,
    ManyAnswersToPlay,
}

use Starving::*;

const ALL: [Starving; 19] = [
    Nobody,
    ManyAnswers,
    ManyPrompts,
    LongAnswers,
    LongPrompts,
    ScoredPrompts,
    ManyPictures,
    LargeForms,
    LargeBodies,
    LongTokenize,
    StalledBodies,
    StalledSmallBodies,
    SilentConnections,
    SlowReaders,
    FullLine,
    SlowPictureHost,
    LongTextsToPlay,
    ManyPicturesToPlay,
    ManyAnswersToPlay,
];

/// How a request is sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// Whole, and the answer is read.
    Whole,
    /// No more than so many bytes of the body come, of a body that is said to have as many as given.
    Stalls { sent: usize, announced: usize },
    /// The answer is not read.
    NeverReads,
}

impl Starving {
    fn arguments(self, size: Size) -> Vec<&'static str> {
        match self {
            LongTextsToPlay | ManyPicturesToPlay | ManyAnswersToPlay => vec!["--env", "think_with_code"],
            StalledSmallBodies | FullLine if size.share < 1.0 => vec!["--max-queued-requests", "40"],
            SlowPictureHost => vec!["--allowed-media-domains", "localhost"],
            _ => vec![],
        }
    }

    /// How many connections ask for it at a time, one request after the other.
    fn connections(self, size: Size) -> usize {
        let scaled = |most: usize| ((most as f64 * size.share) as usize).max(2);
        match self {
            Nobody => 0,
            ManyAnswers | ManyPrompts | LargeForms | ManyPicturesToPlay | LongTextsToPlay | ManyAnswersToPlay => 2,
            ManyPictures | LargeBodies | ScoredPrompts | LongTokenize => 4,
            LongPrompts => scaled(64),
            LongAnswers | SlowReaders => scaled(200),
            StalledBodies => 30,
            SlowPictureHost => 40,
            StalledSmallBodies | FullLine | SilentConnections => scaled(1500),
        }
    }

    fn manner(self) -> Manner {
        match self {
            StalledBodies => Manner::Stalls { sent: 2 << 20, announced: 60 << 20 },
            StalledSmallBodies => Manner::Stalls { sent: 10, announced: 2000 },
            SilentConnections => Manner::Stalls { sent: 0, announced: 0 },
            SlowReaders => Manner::NeverReads,
            _ => Manner::Whole,
        }
    }

    /// Where it is sent, and what.
    fn request(self, size: Size, host: SocketAddr) -> (&'static str, String) {
        let scaled = |most: usize| ((most as f64 * size.share) as usize).max(2);
        let ids = |tokens: usize| (0..tokens).map(|i| (i * 7) % 500 + 4).collect::<Vec<usize>>();
        let long = |n: usize| json!({"prompt": "a", "max_tokens": 3000, "n": n, "ignore_eos": true});
        let picture_parts = |count: usize, side: u32| {
            let part = json!({"type": "image_url", "image_url": {"url": picture(side, side)}});
            let parts = std::iter::repeat_n(part, count).chain([json!({"type": "text", "text": "What is it?"})]);
            json!([{"role": "user", "content": parts.collect::<Vec<Value>>()}])
        };
        let body = match self {
            Nobody | SilentConnections | StalledBodies | StalledSmallBodies => {
                return (TEXT, "{\"prompt\": \"".to_owned());
            }
            ManyAnswers => long(4096),
            ManyPrompts => json!({"prompt": vec![ids(20); 4096], "max_tokens": 64, "ignore_eos": true}),
            LongAnswers | FullLine => long(1),
            SlowReaders => {
                let mut body = long(1);
                body["stream"] = true.into();
                body["logprobs"] = 5.into();
                body
            }
            LongPrompts => json!({"prompt": format!("{MARK} {}", "a ".repeat(scaled(1900))), "max_tokens": 1}),
            ScoredPrompts => {
                json!({"prompt": vec![ids(scaled(3900)); 8], "max_tokens": 1, "prompt_logprobs": 5})
            }
            ManyPictures => json!({"messages": picture_parts(32, scaled(2000) as u32), "max_tokens": 2}),
            LargeForms => {
                let property =
                    |number: usize| (format!("p{number}"), json!({"type": "string", "pattern": "^[a-z]{1,20}$"}));
                let properties: serde_json::Map<String, Value> = (0..scaled(400)).map(property).collect();
                let schema = json!({"type": "object", "properties": properties});
                json!({"messages": says("a"), "max_tokens": 2, "structured_outputs": {"json": schema}})
            }
            LargeBodies => {
                json!({"prompt": "a", "max_tokens": 1, "user": "a".repeat(scaled(30 << 20)), "x": vec![1; scaled(2 << 20)]})
            }
            LongTokenize => return ("/tokenize", json!({"prompt": "word ".repeat(scaled(100_000))}).to_string()),
            SlowPictureHost => {
                let part = json!({"type": "image_url", "image_url": {"url": format!("http://localhost:{}/a.png", host.port())}});
                json!({"messages": [{"role": "user", "content": [part]}], "max_tokens": 2})
            }
            LongTextsToPlay => json!({"messages": says(&"word ".repeat(scaled(8 << 20))), "max_tokens": 2}),
            ManyPicturesToPlay => json!({"messages": picture_parts(16, scaled(2000) as u32), "max_tokens": 2}),
            ManyAnswersToPlay => json!({"messages": says("Tell me."), "max_tokens": 500, "n": scaled(2048)}),
        };
        (if body["messages"].is_null() { TEXT } else { CHAT }, body.to_string())
    }
}

/// Sends a request on a connection of its own; the status, once all is read.
async fn send(
    address: SocketAddr,
    path: &str,
    body: &str,
    manner: Manner,
    is_over: &AtomicBool,
) -> std::io::Result<u16> {
    let mut stream = TcpStream::connect(address).await?;
    let length = match manner {
        Manner::Stalls { announced, .. } => announced,
        Manner::Whole | Manner::NeverReads => body.len(),
    };
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
    );
    let stands = async || {
        while !is_over.load(Ordering::Relaxed) {
            sleep(Duration::from_millis(100)).await;
        }
    };
    match manner {
        Manner::Stalls { announced: 0, .. } => stream.write_all(&head.as_bytes()[..20]).await?,
        Manner::Stalls { sent, .. } => {
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(&vec![b' '; sent]).await?;
        }
        Manner::Whole | Manner::NeverReads => {
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(body.as_bytes()).await?;
        }
    }
    if manner == Manner::NeverReads {
        stands().await;
    }
    let mut answer = Vec::new();
    tokio::select! {
        read = stream.read_to_end(&mut answer) => read.map(|_| ())?,
        () = stands() => {}
    }
    Ok(String::from_utf8_lossy(&answer[..answer.len().min(20)])
        .split(' ')
        .nth(1)
        .and_then(|s| s.parse().ok())
        .unwrap_or(0))
}

/// A host that takes connections and says nothing.
fn silent_host() -> (SocketAddr, std::net::TcpListener) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    (listener.local_addr().unwrap(), listener)
}

/// What came of a run.
struct Outcome {
    /// How long small chats took, ascending.
    small: Vec<Duration>,
    unanswered: Vec<u16>,
    ordinary: usize,
}

/// Runs it, and says what small chats saw.
fn run(starving: Starving, size: Size) -> Outcome {
    let server = Server::start(&starving.arguments(size));
    let address: SocketAddr = server.address.parse().unwrap();
    let (host, _listener) = silent_host();
    let (path, body) = starving.request(size, host);
    let (is_over, ordinary) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let small_chat = json!({"messages": says("Hello"), "max_tokens": 4}).to_string();
    let ordinary_chat = json!({"messages": says("What digit is on the red plate?"), "max_tokens": 48}).to_string();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let outcome = runtime.block_on(async {
        let mut others = JoinSet::new();
        let numbers = Arc::new(AtomicUsize::new(100_000));
        for _ in 0..starving.connections(size) {
            let (body, is_over, numbers) = (body.clone(), is_over.clone(), numbers.clone());
            others.spawn(async move {
                while !is_over.load(Ordering::Relaxed) {
                    let number = numbers.fetch_add(1, Ordering::Relaxed).to_string();
                    let body = match starving {
                        LongPrompts => body.replacen(MARK, &number, 1),
                        _ => body.clone(),
                    };
                    let _ = send(address, path, &body, starving.manner(), &is_over).await;
                    sleep(Duration::from_millis(20)).await;
                }
            });
        }
        for _ in 0..size.ordinary {
            let (body, is_over, ordinary) = (ordinary_chat.clone(), is_over.clone(), ordinary.clone());
            others.spawn(async move {
                while !is_over.load(Ordering::Relaxed) {
                    if send(address, CHAT, &body, Manner::Whole, &is_over).await.is_ok_and(|status| status == 200) {
                        ordinary.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        // They have got hold of what they can.
        sleep(Duration::from_secs(1)).await;
        let mut chats = JoinSet::new();
        let began = Instant::now();
        for _ in 0..size.small {
            let body = small_chat.clone();
            chats.spawn(async move {
                let (mut took, mut unanswered) = (Vec::new(), Vec::new());
                while began.elapsed() < Duration::from_secs(size.seconds) {
                    let sent = Instant::now();
                    let never = AtomicBool::new(false);
                    match timeout(GIVEN_UP, send(address, CHAT, &body, Manner::Whole, &never)).await {
                        Ok(Ok(200)) => took.push(sent.elapsed()),
                        Ok(Ok(status)) => unanswered.push(status),
                        Ok(Err(_)) | Err(_) => unanswered.push(0),
                    }
                }
                (took, unanswered)
            });
        }
        let mut outcome = Outcome { small: Vec::new(), unanswered: Vec::new(), ordinary: 0 };
        while let Some(chat) = chats.join_next().await {
            let (took, unanswered) = chat.unwrap();
            outcome.small.extend(took);
            outcome.unanswered.extend(unanswered);
        }
        is_over.store(true, Ordering::Relaxed);
        others.abort_all();
        while others.join_next().await.is_some() {}
        outcome.small.sort();
        Outcome { ordinary: ordinary.load(Ordering::Relaxed), ..outcome }
    });
    assert_eq!(server.get("/health").status, 200);
    outcome
}

/// Prints what came of it, and fails where a promise is broken.
fn check(kinds: &[Starving], size: Size) {
    println!(
        "{:<20}{:>8}{:>12}{:>10}{:>10}{:>10}",
        "beside", "answered", "unanswered", "median s", "worst s", "ordinary"
    );
    let mut broken = Vec::new();
    for &starving in kinds {
        let Outcome { small, unanswered, ordinary } = run(starving, size);
        let (median, worst) = (small.get(small.len() / 2).copied(), small.last().copied());
        let [median, worst] = [median, worst].map(|time| time.unwrap_or(Duration::MAX));
        println!(
            "{:<20}{:>8}{:>12}{:>10.2}{:>10.2}{:>10}",
            format!("{starving:?}"),
            small.len(),
            unanswered.len(),
            median.as_secs_f64(),
            worst.as_secs_f64(),
            ordinary
        );
        if median > MEDIAN_MAX || worst > WORST_MAX || !unanswered.is_empty() {
            broken.push((starving, small.len(), median, worst, unanswered.first().copied()));
        }
    }
    assert!(broken.is_empty(), "small chats had not their turn: {broken:?}");
}

const SHORT: Size = Size { ordinary: 6, small: 3, seconds: 3, share: 0.05 };

#[test]
fn a_small_chat_has_its_turn_beside_large_generations() {
    check(&[ManyAnswers, ManyPrompts, LongAnswers], Size { share: 0.4, ..SHORT });
}

#[test]
fn a_small_chat_has_its_turn_beside_long_prompts() {
    check(&[LongPrompts, ScoredPrompts], Size { share: 0.2, ..SHORT });
}

#[test]
fn a_small_chat_has_its_turn_beside_what_takes_long_to_prepare() {
    check(&[ManyPictures, LargeForms, LargeBodies, LongTokenize], Size { share: 0.5, ..SHORT });
}

#[test]
fn a_small_chat_has_its_turn_beside_those_that_stand_still() {
    check(&[StalledBodies, StalledSmallBodies, SilentConnections, SlowReaders, SlowPictureHost, FullLine], SHORT);
}

#[test]
fn a_small_chat_has_its_turn_beside_others_that_are_played() {
    check(&[LongTextsToPlay, ManyPicturesToPlay, ManyAnswersToPlay], Size { share: 0.3, ..SHORT });
}

#[test]
#[ignore = "ten minutes; run: cargo test --release --test it starvation_long -- --ignored --nocapture"]
fn starvation_long_beside_two_hundred_ordinary_clients() {
    let seconds = std::env::var("THYME_STARVATION_SECONDS").map_or(30, |seconds| seconds.parse().unwrap());
    check(&ALL, Size { ordinary: 200, small: 10, seconds, share: 1.0 });
}
