//! The servers of a judge: asked in turn, and left alone for a while after a failure. When a question was given up and each server's last word was a
//! failure, the judge is down: questions fail at once. After a while one question tries again, for all.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Longest wait between two tries, and before a judge that is down is tried again.
pub const WAIT_MAX: Duration = Duration::from_secs(60);

/// How the servers are.
#[derive(Debug)]
pub struct Servers {
    state: Mutex<State>,
    /// The try of a judge that was down has ended.
    tried: Condvar,
    /// The wait before the first retry.
    wait: Duration,
}

#[derive(Debug)]
struct State {
    servers: Vec<Server>,
    /// The next in turn.
    next: usize,
    down: Option<Down>,
}

#[derive(Clone, Debug, Default)]
struct Server {
    /// Whether the last request to it failed.
    has_failed: bool,
    /// Until when it is left alone.
    rests_until: Option<Instant>,
}

/// A judge that is down.
#[derive(Debug)]
struct Down {
    reason: String,
    until: Instant,
    /// How often it was found to be down.
    times: u32,
    /// Whether somebody tries it.
    is_tried: bool,
}

/// What to do with a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Ask this server; whether its answer decides for all if the judge is up again.
    Ask {
        /// Number of the server.
        server: usize,
        /// Whether a failure is final.
        is_trial: bool,
    },
    /// Wait, as all servers rest.
    Wait(Duration),
    /// Nothing: the judge is down, for this reason.
    Down(String),
}

impl Servers {
    /// So many servers, which are thought to be well. The wait before a first retry is `wait`.
    pub fn new(count: usize, wait: Duration) -> Self {
        let state = State { servers: vec![Server::default(); count], next: 0, down: None };
        Self { state: Mutex::new(state), tried: Condvar::new(), wait }
    }

    /// Who is asked next: of those that do not rest, the next in turn. Where all rest, the wait for the first, or with `has_waited` that one.
    /// While somebody tries a judge that was down, it waits for the outcome.
    pub fn turn(&self, has_waited: bool) -> Turn {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            match &mut state.down {
                Some(down) if now < down.until => return Turn::Down(down.reason.clone()),
                Some(down) if down.is_tried => {
                    state = self.tried.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                Some(down) => {
                    down.is_tried = true;
                    return Turn::Ask { server: state.in_turn(now), is_trial: true };
                }
                None => {
                    let server = state.in_turn(now);
                    let rest = state.servers[server].rests_until.map_or(Duration::ZERO, |until| until - now);
                    return match rest.is_zero() || has_waited {
                        true => Turn::Ask { server, is_trial: false },
                        false => Turn::Wait(rest),
                    };
                }
            }
        }
    }

    /// A server answered, if only that it will not: the judge is up.
    pub fn note_answer(&self, server: usize) {
        let mut state = self.lock();
        state.servers[server] = Server::default();
        self.note_up(state);
    }

    /// A server wants to be left alone for some time; the judge is up.
    pub fn note_busy(&self, server: usize, rest: Duration) {
        let mut state = self.lock();
        state.rest(server, rest);
        state.servers[server].has_failed = false;
        self.note_up(state);
    }

    /// A server failed and rests for some time. Returns whether it was the last that was not known to fail.
    pub fn note_failure(&self, server: usize, rest: Duration) -> bool {
        let mut state = self.lock();
        state.rest(server, rest);
        state.servers[server].has_failed = true;
        state.servers.iter().all(|server| server.has_failed)
    }

    /// A question was given up, and no server is left that may answer: the judge is down. The first time it is tried again after `tries` waits of a
    /// question that is retried, each further time after twice as long.
    pub fn note_down(&self, reason: &str, tries: u32) {
        let mut state = self.lock();
        let times = match &state.down {
            // Others that were under way give up too.
            Some(down) if !down.is_tried => return,
            Some(down) => down.times + 1,
            None => 0,
        };
        let until = Instant::now() + self.backoff(tries.saturating_add(times));
        state.down = Some(Down { reason: reason.to_owned(), until, times, is_tried: false });
        drop(state);
        self.tried.notify_all();
    }

    /// The wait before the retry of that number, counted from 0.
    pub fn backoff(&self, retry: u32) -> Duration {
        let seconds = self.wait.as_secs_f64() * 2f64.powi(retry.min(64) as i32);
        Duration::from_secs_f64(seconds.min(WAIT_MAX.as_secs_f64()))
    }

    fn note_up(&self, mut state: MutexGuard<'_, State>) {
        state.down = None;
        drop(state);
        self.tried.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The next server that does not rest, or the one that rests shortest.
    fn in_turn(&mut self, now: Instant) -> usize {
        let (count, next) = (self.servers.len(), self.next);
        let order = || (0..count).map(|place| (next + place) % count);
        for server in &mut self.servers {
            server.rests_until = server.rests_until.filter(|until| *until > now);
        }
        let ready = order().min_by_key(|&server| self.servers[server].rests_until).unwrap_or(0);
        self.next = (ready + 1) % count;
        ready
    }

    fn rest(&mut self, server: usize, rest: Duration) {
        let until = Instant::now() + rest;
        let known = self.servers[server].rests_until;
        self.servers[server].rests_until = Some(known.map_or(until, |known| known.max(until)));
    }
}
