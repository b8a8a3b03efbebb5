//! Processes of one user's file that any caller may use, for files that remember nothing between calls: as many as may run side by side.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::error::SandboxError;
use super::interpreter::Interpreter;
use super::shared::Shared;
use super::worker::{Arguments, Called, UserFile, Worker};

/// Workers of one file, started as they are needed.
#[derive(Debug)]
pub struct WorkerPool {
    shared: Arc<Shared>,
    file: Arc<UserFile>,
    workers: Mutex<Workers>,
    freed: Condvar,
}

#[derive(Debug)]
struct Workers {
    idle: Vec<Worker>,
    /// Workers that may still be made.
    unmade: usize,
}

impl WorkerPool {
    /// At most `workers` of `file`. The first is started and loads the file: what it says of itself comes with the pool.
    pub(super) fn start(
        shared: Arc<Shared>,
        file: UserFile,
        workers: usize,
    ) -> Result<(WorkerPool, Called), SandboxError> {
        let file = Arc::new(file);
        let mut first = Worker::new(Arc::clone(&shared), Arc::clone(&file));
        let called = first.load()?;
        let workers = Mutex::new(Workers { idle: vec![first], unmade: workers.saturating_sub(1) });
        Ok((WorkerPool { shared, file, workers, freed: Condvar::new() }, called))
    }

    /// Calls the file in a worker that is free; waits for one where all are busy.
    ///
    /// # Errors
    /// When no process can be started; what the file does wrong is in [`Called`].
    pub fn call(&self, arguments: &Arguments) -> Result<Called, SandboxError> {
        let mut taken = Taken { pool: self, worker: Some(self.take()) };
        let worker = taken.worker.as_mut().expect("it is taken");
        let called = worker.call(arguments);
        if worker.is_spent() {
            *worker = self.own_worker();
        }
        called
    }

    /// A worker beside those of the pool.
    pub fn own_worker(&self) -> Worker {
        Worker::new(Arc::clone(&self.shared), Arc::clone(&self.file))
    }

    /// The interpreter in use.
    pub fn interpreter(&self) -> &Interpreter {
        &self.shared.interpreter
    }

    /// Their file.
    pub fn file(&self) -> &UserFile {
        &self.file
    }

    fn take(&self) -> Worker {
        let mut workers = self.lock();
        loop {
            if let Some(worker) = workers.idle.pop() {
                return worker;
            }
            if workers.unmade > 0 {
                workers.unmade -= 1;
                return self.own_worker();
            }
            workers = self.freed.wait(workers).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Workers> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A worker that goes back when its call is over, however it ends.
struct Taken<'a> {
    pool: &'a WorkerPool,
    worker: Option<Worker>,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.pool.lock().idle.extend(self.worker.take());
        self.pool.freed.notify_one();
    }
}
