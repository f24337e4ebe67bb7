//! SIGINT and SIGTERM during a run: the first is an order to clear up - the terminal, the workers, the rooms - and to tell what was measured so
//! far; a second ends the process.
//!
//! Outside a run a signal does what it does to any program. A terminal sends its signals to the worker processes too: they hold them as well, and
//! end when their parent says so or is gone.

use anyhow::{Context, Result, ensure};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag,
};
use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering::SeqCst},
};

/// As long as it lives the first signal is remembered instead of obeyed.
#[derive(Debug)]
pub(crate) struct Interrupt {
    signal: Signal,
}

/// Whether a signal came, for whoever wants to know.
#[derive(Clone, Debug)]
pub(crate) struct Signal {
    ends_at_once: Arc<AtomicBool>,
}

impl Interrupt {
    /// Signals are remembered from now on. One at a time.
    pub(crate) fn hold() -> Result<Self> {
        // Handlers stay for the rest of the process; the flag says what they do.
        static HANDLED: OnceLock<Arc<AtomicBool>> = OnceLock::new();
        let ends_at_once = match HANDLED.get() {
            Some(flag) => Arc::clone(flag),
            None => {
                let flag = register().context("signals cannot be handled")?;
                Arc::clone(HANDLED.get_or_init(|| flag))
            }
        };
        ends_at_once.store(false, SeqCst);
        Ok(Self { signal: Signal { ends_at_once } })
    }

    /// For whoever wants to know of one.
    pub(crate) fn signal(&self) -> Signal {
        self.signal.clone()
    }
}

impl Signal {
    /// Whether one came.
    pub(crate) fn came(&self) -> bool {
        self.ends_at_once.load(SeqCst)
    }

    /// An error when one came.
    pub(crate) fn check(&self) -> Result<()> {
        ensure!(!self.came(), "interrupted");
        Ok(())
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        self.signal.ends_at_once.store(true, SeqCst);
    }
}

/// In this order: a signal that finds the flag set ends the process, one that does not sets it.
fn register() -> std::io::Result<Arc<AtomicBool>> {
    let ends_at_once = Arc::new(AtomicBool::new(true));
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_default(signal, Arc::clone(&ends_at_once))?;
        flag::register(signal, Arc::clone(&ends_at_once))?;
    }
    Ok(ends_at_once)
}
