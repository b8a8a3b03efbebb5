//! What a sandbox and its sessions share: the options, the interpreter, and the zygote, which is replaced once it has ended.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use super::error::SandboxError;
use super::interpreter::Interpreter;
use super::options::SandboxOptions;
use super::zygote::{Connection, Kind, Zygote};

/// The zygote in use, and what another is started with. It lives as long as the sandbox or a session of it.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) options: SandboxOptions,
    pub(super) interpreter: Interpreter,
    zygote: Mutex<Arc<Zygote>>,
    /// Held while a zygote is started in the place of one that ended.
    restart: Mutex<()>,
}

impl Shared {
    /// Starts the first zygote.
    pub(super) fn start(options: SandboxOptions, interpreter: Interpreter) -> Result<Shared, SandboxError> {
        let zygote = Arc::new(Zygote::start(&options, &interpreter)?);
        Ok(Shared { options, interpreter, zygote: Mutex::new(zygote), restart: Mutex::default() })
    }

    /// The zygote that is used now. It may have ended.
    pub(super) fn current(&self) -> Arc<Zygote> {
        Arc::clone(&self.zygote.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A new process's connection. A zygote that has ended is replaced once per call; one that lives is kept, whatever it could not do.
    pub(super) fn connect(&self, kind: Kind) -> Result<(Arc<Zygote>, Connection), SandboxError> {
        let failed = |error: io::Error| SandboxError::Fork { reason: error.to_string() };
        let zygote = self.current();
        match zygote.connect(kind) {
            Ok(connection) => return Ok((zygote, connection)),
            Err(error) if !zygote.has_ended() => return Err(failed(error)),
            Err(_) => {}
        }
        let zygote = self.replaced(&zygote)?;
        let connection = zygote.connect(kind).map_err(failed)?;
        Ok((zygote, connection))
    }

    /// The zygote in the place of one that has ended. One thread starts it; others wait for that one.
    fn replaced(&self, ended: &Arc<Zygote>) -> Result<Arc<Zygote>, SandboxError> {
        let _restart = self.restart.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.current();
        if !Arc::ptr_eq(&current, ended) {
            return Ok(current);
        }
        let new = Arc::new(Zygote::start(&self.options, &self.interpreter)?);
        *self.zygote.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&new);
        Ok(new)
    }
}
