//! Connections: taken as long as there are descriptors for them, dropped where a client stands still, ended in good order. A client that
//! dawdles costs a descriptor and little memory, and that for a while only; where descriptors are short, until another comes.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io::{Error, ErrorKind};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::Request;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::net::{Shutdown, shutdown, sockopt};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{sleep, timeout};
use tower::{ServiceExt, service_fn};

/// Descriptors that connections leave to files and to what libraries open.
const SPARE_DESCRIPTORS: u64 = 256;
/// Connections at most, however many descriptors there are.
const CONNECTIONS_MAX: u64 = 1 << 16;
/// Connections that the system keeps until they are taken.
const BACKLOG: i32 = 4096;
/// How long nothing is taken when the system has nothing to give.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often a connection that waits for a place has another make room.
const PLACE_INTERVAL: Duration = Duration::from_millis(100);
/// A connection that is over is read for so long: the system would throw away an answer on its way to who is still sending.
const LINGER: Duration = Duration::from_secs(1);

/// The address that a request came from.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub IpAddr);

/// Connections on which no request is answered, the longest idle first. Each can be closed to make room.
#[derive(Debug, Default)]
struct Idle(Mutex<(u64, BTreeMap<u64, Arc<Notify>>)>);

impl Idle {
    fn state(&self) -> MutexGuard<'_, (u64, BTreeMap<u64, Arc<Notify>>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notifies the longest idle to leave.
    fn dismiss_longest_idle(&self) {
        if let Some((_, leave)) = self.state().1.pop_first() {
            leave.notify_one();
        }
    }
}

/// A connection's entry in [`Idle`]; absent while a request is answered.
#[derive(Debug)]
struct Standing {
    idle: Arc<Idle>,
    leave: Arc<Notify>,
    /// None while a request is answered.
    number: Mutex<Option<u64>>,
}

impl Standing {
    fn new(idle: &Arc<Idle>) -> Arc<Standing> {
        let standing = Standing { idle: idle.clone(), leave: Arc::default(), number: Mutex::default() };
        standing.rest();
        Arc::new(standing)
    }

    fn rest(&self) {
        let mut state = self.idle.state();
        state.0 += 1;
        let number = state.0;
        state.1.insert(number, self.leave.clone());
        *self.number() = Some(number);
    }

    fn work(&self) {
        let mut state = self.idle.state();
        if let Some(number) = self.number().take() {
            state.1.remove(&number);
        }
    }

    fn is_idle(&self) -> bool {
        self.number().is_some()
    }

    fn number(&self) -> MutexGuard<'_, Option<u64>> {
        self.number.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        self.work();
    }
}

/// A request that is being answered on a connection.
struct Busy(Arc<Standing>);

impl Busy {
    fn new(standing: &Arc<Standing>) -> Busy {
        standing.work();
        Busy(standing.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.rest();
    }
}

/// The body of an answer: its connection is busy until it is sent.
struct BusyBody {
    body: Body,
    _busy: Busy,
}

impl HttpBody for BusyBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Takes connections and answers them by `router` until `end` is true, then waits until each has its last answer. A client that takes
/// longer than `client_timeout` over the head of a request, or does not read for so long, is dropped.
pub async fn serve(listener: TcpListener, router: Router, client_timeout: Duration, mut end: watch::Receiver<bool>) {
    if let Err(error) = rustix::net::listen(&listener, BACKLOG) {
        tracing::warn!("the queue of new connections stays short: {error}");
    }
    let max = connections_max();
    let free = Arc::new(Semaphore::new(max as usize));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(client_timeout);
    let idle = Arc::<Idle>::default();
    loop {
        let next = async {
            let accepted = listener.accept().await;
            let mut place = free.clone().try_acquire_owned().ok();
            while place.is_none() && accepted.is_ok() {
                idle.dismiss_longest_idle();
                place = timeout(PLACE_INTERVAL, free.clone().acquire_owned()).await.ok().and_then(Result::ok);
            }
            (place, accepted)
        };
        let (place, accepted) = tokio::select! {
            () = is_true(&mut end) => break,
            next = next => next,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (http, router, end) = (http.clone(), router.clone(), end.clone());
                let standing = Standing::new(&idle);
                tokio::spawn(async move {
                    attend(stream, peer.ip(), &http, router, client_timeout, standing, end).await;
                    drop(place);
                });
            }
            Err(error) => recover(&error).await,
        }
    }
    drop(listener);
    // Each connection holds one; when all are here, there is none.
    drop(free.acquire_many(max).await);
}

/// Answers the requests of a connection.
async fn attend(
    stream: TcpStream,
    address: IpAddr,
    http: &http1::Builder,
    router: Router,
    client_timeout: Duration,
    standing: Arc<Standing>,
    mut end: watch::Receiver<bool>,
) {
    if let Err(error) = prepare(&stream, client_timeout) {
        tracing::debug!("a connection has not all its settings: {error}");
    }
    let answering = standing.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        let busy = Busy::new(&answering);
        request.extensions_mut().insert(Peer(address));
        let answered = router.clone().oneshot(request);
        let busy_body = |body| Body::new(BusyBody { body, _busy: busy });
        Box::pin(async { answered.await.map(|response| response.map(busy_body)) })
    });
    let mut connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    let mut is_ending = false;
    loop {
        tokio::select! {
            // A request that came before the word to leave is answered.
            biased;
            done = poll_fn(|context| connection.poll_without_shutdown(context)) => {
                drop(standing);
                if done.is_ok() {
                    linger(connection.into_parts().io.into_inner()).await;
                }
                return;
            }
            () = standing.leave.notified() => {
                if standing.is_idle() {
                    return;
                }
            }
            () = is_true(&mut end), if !is_ending => {
                is_ending = true;
                std::pin::Pin::new(&mut connection).graceful_shutdown();
            }
            // Part of a request's head came, and no more of it comes.
            () = sleep(LINGER), if is_ending && standing.is_idle() => return,
        }
    }
}

/// Tokens go out at once, and the system gives a client up that neither reads nor answers.
fn prepare(stream: &TcpStream, client_timeout: Duration) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, client_timeout.max(Duration::from_secs(1)))?;
    sockopt::set_tcp_user_timeout(stream, u32::try_from(client_timeout.as_millis()).unwrap_or(u32::MAX))?;
    Ok(())
}

/// Says that nothing more comes, and reads over what is still sent.
async fn linger(stream: TcpStream) {
    let _ = shutdown(&stream, Shutdown::Write);
    let read_over = async {
        let mut buffer = [0; 16 << 10];
        while stream.readable().await.is_ok() {
            match stream.try_read(&mut buffer) {
                Ok(1..) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Ok(0) | Err(_) => break,
            }
        }
    };
    let _ = timeout(LINGER, read_over).await;
}

/// A connection that broke before it was taken is nobody's loss; anything else is a want of the system's, which passes.
async fn recover(error: &Error) {
    let is_broken = [ErrorKind::ConnectionAborted, ErrorKind::ConnectionReset, ErrorKind::ConnectionRefused]
        .contains(&error.kind());
    if !is_broken {
        tracing::warn!("a connection cannot be taken: {error}");
        sleep(ACCEPT_PAUSE).await;
    }
}

/// Waits for `true`, or for the sender's end.
async fn is_true(value: &mut watch::Receiver<bool>) {
    drop(value.wait_for(|value| *value).await);
}

/// How many connections there are descriptors for, after the limit was raised to what the system allows.
fn connections_max() -> u32 {
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let descriptors = if raised.is_ok() { limit.maximum } else { limit.current };
    let connections = descriptors.unwrap_or(u64::MAX).saturating_sub(SPARE_DESCRIPTORS);
    connections.clamp(1, CONNECTIONS_MAX) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_is_told_to_leave_and_has_a_request_stays() {
        let idle = Arc::<Idle>::default();
        let standing = Standing::new(&idle);
        idle.dismiss_longest_idle();
        let busy = Busy::new(&standing);
        assert!(!standing.is_idle(), "the word to leave came before the request");
        idle.dismiss_longest_idle();
        drop(busy);
        assert!(standing.is_idle());
        drop(standing);
        assert!(idle.state().1.is_empty());
    }
}
