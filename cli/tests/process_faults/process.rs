//! The program as a process: started, stopped, resumed, killed.

use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::place::Place;
use crate::transcript::Transcript;

/// How long a process may take for anything that is not its work: only against tests that hang.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// One process, killed when it is dropped.
pub(crate) struct Process {
    child: Child,
    name: String,
    pub(crate) stdout: Transcript,
    pub(crate) stderr: Transcript,
}

impl Process {
    /// Runs `funk` with these arguments. The user's data directory is the test's own.
    pub(crate) fn start(place: &Place, name: &str, arguments: &[String]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_funk"))
            .args(arguments)
            .env("XDG_DATA_HOME", place.folder().join("data"))
            .env("HOME", place.folder())
            .env_remove("FUNK_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("funk {arguments:?} does not start: {error}"));
        let number = place.number();
        let file = |pipe| place.transcript(number, name, pipe);
        let stdout = child.stdout.take().expect("piped above");
        let stderr = child.stderr.take().expect("piped above");
        Self {
            stdout: Transcript::record(stdout, file("out")),
            stderr: Transcript::record(stderr, file("err")),
            name: name.to_owned(),
            child,
        }
    }

    /// What a failure shows.
    pub(crate) fn describe(&self) -> String {
        const SHOWN: usize = 20;
        let last = |transcript: &Transcript| {
            let lines = transcript.lines();
            let skipped = lines.len().saturating_sub(SHOWN);
            let shown = lines[skipped..].join("\n    ");
            format!("{}:\n    {shown}", transcript.file().display())
        };
        format!(
            "{}\n  {}\n  {}",
            self.name,
            last(&self.stdout),
            last(&self.stderr)
        )
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal)
            .unwrap_or_else(|error| panic!("{} cannot be sent {signal:?}: {error}", self.name));
    }

    /// Whether it still holds on to its output.
    pub(crate) fn is_running(&self) -> bool {
        !self.stdout.wait_closed(Duration::ZERO)
    }

    /// SIGKILL; returns when the process is gone.
    pub(crate) fn kill(mut self) {
        self.end();
    }

    /// Waits until it ends by itself.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.wait_for(PATIENCE)
            .unwrap_or_else(|| panic!("this did not end:\n{}", self.describe()))
    }

    /// The same for a given time.
    pub(crate) fn wait_for(&mut self, patience: Duration) -> Option<ExitStatus> {
        let closed = self.stdout.wait_closed(patience) && self.stderr.wait_closed(patience);
        closed.then(|| self.child.wait().expect("a child can be waited for"))
    }

    fn end(&mut self) {
        // Fails only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Everything that it printed has been read.
        self.stdout.wait_closed(PATIENCE);
        self.stderr.wait_closed(PATIENCE);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// Arguments of mixed kinds as text.
#[macro_export]
macro_rules! arguments {
    ($($argument:expr),* $(,)?) => {
        vec![$($argument.to_string()),*]
    };
}
