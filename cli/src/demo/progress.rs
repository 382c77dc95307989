//! What is happening, on one line of a terminal; nothing where there is no terminal.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::task::JoinHandle;

use super::load::Requests;

/// How often the line is drawn.
const REDRAW: Duration = Duration::from_millis(100);
/// Time over which the rate on the line is taken.
const RATE_OVER: u32 = 5;

/// The line.
pub(crate) struct Progress {
    bar: ProgressBar,
    what: Arc<Mutex<String>>,
    redraws: Option<JoinHandle<()>>,
}

impl Progress {
    /// On standard error, if that is a terminal.
    pub(crate) fn start() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed:>4}  {msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(REDRAW);
        Self {
            bar,
            what: Arc::default(),
            redraws: None,
        }
    }

    /// What is happening now.
    pub(crate) fn say(&self, what: &str) {
        what.clone_into(&mut self.what.lock().unwrap_or_else(PoisonError::into_inner));
        if self.redraws.is_none() {
            self.bar.set_message(what.to_owned());
        }
    }

    /// From now on the rate of answers is shown, too.
    pub(crate) fn follow(&mut self, requests: Arc<Requests>) {
        if self.bar.is_hidden() {
            return;
        }
        let (bar, what) = (self.bar.clone(), self.what.clone());
        self.redraws = Some(tokio::spawn(async move {
            let mut redraws = tokio::time::interval(REDRAW);
            let (mut last, mut rate, mut drawn) = (requests.answered(), 0, 0u32);
            loop {
                redraws.tick().await;
                drawn = drawn.wrapping_add(1);
                if drawn.is_multiple_of(RATE_OVER) {
                    let answered = requests.answered();
                    rate = (answered - last) * 1_000 / (REDRAW * RATE_OVER).as_millis() as u64;
                    last = answered;
                }
                let what = what.lock().unwrap_or_else(PoisonError::into_inner).clone();
                bar.set_message(format!("{rate:>6} answers/s  {what}"));
            }
        }));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(redraws) = self.redraws.take() {
            redraws.abort();
        }
        self.bar.finish_and_clear();
    }
}
