//! One child process that never outlives us, with its log and the signals a fault is made of.
//!
//! - It dies with this process (`setpriv --pdeathsig KILL`), also when that is killed; and with its [`Process`].
//! - The kernel ties that to the *thread* that started the child: all are started by one thread that lives as long as the process.
//! - A stopped process is continued before it is asked to end; killing needs no such care.

use crate::patience::eventually_within;
use rustix::process::{Pid, Signal, kill_process};
use std::{
    ffi::OsString,
    fs::{self, OpenOptions},
    io,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        OnceLock,
        mpsc::{Sender, channel},
    },
    thread,
    time::Duration,
};

/// What is kept of a log for a message; a fault run's logs grow to megabytes.
const LOG_TAIL_BYTES: usize = 16 * 1024;

/// A running child.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log_path: PathBuf,
}

impl Process {
    /// Starts a program; its output is added to the file at `log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(program: &Path, arguments: &[OsString], environment: &[(String, String)], log: &Path) -> io::Result<Self> {
        let output = OpenOptions::new().create(true).append(true).open(log)?;
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program)
            .args(arguments)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        Ok(Self { child: spawn(command)?, log_path: log.to_owned() })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it as a power cut would, and waits for that.
    pub fn kill(&mut self) {
        // It may have ended by itself.
        self.child.kill().ok();
        self.child.wait().ok();
    }

    /// Asks it to stop.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Halts it: its sockets stay open and nobody answers.
    pub fn stop(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn cont(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).expect("a child has a pid");
        // Not waited for yet, so the pid is still its own; an ended one takes no harm.
        kill_process(pid, signal).ok();
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits until it has stopped by itself; `None` when it does not in time.
    pub fn wait(&mut self, patience: Duration) -> Option<ExitStatus> {
        let mut status = None;
        if !eventually_within(patience, || {
            status = self.ended();
            status.is_some()
        }) {
            return None;
        }
        status
    }

    /// The end of all it has written.
    pub fn log(&self) -> String {
        tail(&self.log_path)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The last lines of a log.
pub(crate) fn tail(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    let from = bytes.len().saturating_sub(LOG_TAIL_BYTES);
    String::from_utf8_lossy(bytes.get(from..).unwrap_or_default()).into_owned()
}

struct Job {
    command: Command,
    answer: Sender<io::Result<Child>>,
}

/// Starts the child on the thread that never ends.
pub(crate) fn spawn(command: Command) -> io::Result<Child> {
    static NURSERY: OnceLock<Sender<Job>> = OnceLock::new();
    let nursery = NURSERY.get_or_init(|| {
        let (jobs, inbox) = channel::<Job>();
        thread::spawn(move || {
            for mut job in inbox {
                // Whoever asked waits for the answer.
                job.answer.send(job.command.spawn()).ok();
            }
        });
        jobs
    });
    let (answer, child) = channel();
    nursery.send(Job { command, answer }).map_err(io::Error::other)?;
    child.recv().map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::Process;
    use std::{path::Path, thread, time::Duration};

    #[test]
    fn a_child_outlives_the_thread_that_asked_for_it_and_ends_when_told() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let mut child = thread::spawn(move || Process::start(Path::new("sleep"), &["60".into()], &[], &log).unwrap()).join().unwrap();
        assert!(child.ended().is_none());
        child.terminate();
        assert!(!child.wait(Duration::from_secs(10)).expect("it ends").success());
    }
}
