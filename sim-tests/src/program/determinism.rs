//! `sim check-determinism`: a seed is the same run, wherever and whenever it runs.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Args;
use funk_sim_tests::stack::Plan;
use funk_sim_tests::stack::determinism::{Fingerprint, first_difference};
use indicatif::{ProgressBar, ProgressStyle};

use super::{Transport, keep_panics_of_nodes_quiet, run_nodes_on_this_thread};
use crate::Done;

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// How many seeds.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// How many processes at once.
    #[arg(long, default_value = "2")]
    jobs: NonZeroUsize,
    /// What the nodes talk over. Over TCP every byte is compared, over QUIC the lengths and times of packets.
    #[arg(long, value_enum, default_value_t = Transport::Tcp)]
    transport: Transport,
    /// Another build of this program, of another optimisation level: its runs must be the same.
    #[arg(long, value_name = "PATH")]
    against: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Each seed runs in two fresh processes, twice in one process after other seeds, and in a thread beside others.

Examples:
  sim check-determinism --seeds 100
  sim check-determinism --seeds 20 --transport quic
  sim check-determinism --seeds 20 --against target/release/sim   between optimisation levels";

/// How each seed was run, and what came of it.
type Runs = BTreeMap<u64, Vec<(Way, Fingerprint)>>;

/// Where a run took place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    /// In a process of its own.
    Fresh,
    /// In this one, after other seeds.
    After,
    /// In this one, on a thread beside another that runs seeds too.
    Beside,
    /// In a process of the other build.
    Against,
}

impl Way {
    fn text(self) -> &'static str {
        match self {
            Self::Fresh => "in a fresh process",
            Self::After => "in one process after other seeds",
            Self::Beside => "on a parallel thread",
            Self::Against => "in a fresh process of the other build",
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Done {
    let end = arguments.from.checked_add(arguments.seeds);
    let end = end.filter(|end| *end > arguments.from);
    let end = end.ok_or("--seeds must be at least 1, and --from not so large")?;
    let check = Check {
        arguments,
        this: std::env::current_exe().map_err(|error| format!("where am I? {error}"))?,
        from: arguments.from,
        end,
        runs: Mutex::default(),
        bar: bar(arguments),
    };
    keep_panics_of_nodes_quiet();
    check.in_processes()?;
    check.in_threads();
    check.bar.finish_and_clear();
    check.report()
}

fn bar(arguments: &Arguments) -> ProgressBar {
    let each = 5 + u64::from(arguments.against.is_some());
    let bar = ProgressBar::new(arguments.seeds.saturating_mul(each));
    let template = "{bar:30} {pos}/{len} runs, {per_sec}, {eta} left";
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

struct Check<'a> {
    arguments: &'a Arguments,
    this: PathBuf,
    from: u64,
    end: u64,
    runs: Mutex<Runs>,
    bar: ProgressBar,
}

impl Check<'_> {
    fn note(&self, seed: u64, way: Way, fingerprint: Fingerprint) {
        let mut runs = self.runs.lock().expect("no panic while locked");
        runs.entry(seed).or_default().push((way, fingerprint));
        self.bar.inc(1);
    }

    // Threads are no part of any run.
    fn in_processes(&self) -> Result<(), String> {
        let next = AtomicU64::new(self.from);
        let work = || -> Result<(), String> {
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= self.end {
                    return Ok(());
                }
                for _ in 0..2 {
                    self.note(seed, Way::Fresh, self.spawn(&self.this, seed)?);
                }
                if let Some(other) = &self.arguments.against {
                    self.note(seed, Way::Against, self.spawn(other, seed)?);
                }
            }
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..self.arguments.jobs.get())
                .map(|_| scope.spawn(work))
                .collect();
            let mut results = threads
                .into_iter()
                .map(|thread| thread.join().expect("nothing panics while it waits"));
            results.find(Result::is_err).unwrap_or(Ok(()))
        })
    }

    /// One thread runs all seeds and then all of them backwards; beside it another runs them backwards.
    fn in_threads(&self) {
        let run = |seed, way| self.note(seed, way, Fingerprint::of(&self.plan(seed)));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                run_nodes_on_this_thread();
                (self.from..self.end).for_each(|seed| run(seed, Way::After));
                let backwards = (self.from..self.end).rev();
                backwards.for_each(|seed| run(seed, Way::After));
            });
            scope.spawn(|| {
                run_nodes_on_this_thread();
                let backwards = (self.from..self.end).rev();
                backwards.for_each(|seed| run(seed, Way::Beside));
            });
        });
    }

    fn plan(&self, seed: u64) -> Plan {
        Plan {
            transport: self.arguments.transport.into(),
            ..Plan::swarm(seed)
        }
    }

    fn replay(&self, program: &Path, seed: u64, flags: &[&str]) -> Result<String, String> {
        let mut command = Command::new(program);
        command
            .args(["replay", &seed.to_string(), "--quiet"])
            .args(["--transport", self.arguments.transport.name()])
            .args(flags)
            .stderr(Stdio::null());
        let output = command
            .output()
            .map_err(|error| format!("cannot run {}: {error}", program.display()))?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn spawn(&self, program: &Path, seed: u64) -> Result<Fingerprint, String> {
        // A seed that fails is as good as another: it must fail in the same way.
        let output = self.replay(program, seed, &["--fingerprint"])?;
        let found = output.lines().find_map(|line| line.parse().ok());
        found.ok_or_else(|| {
            let program = program.display();
            format!(
                "{program} gave no fingerprint of seed {seed}; is it a build of the same source? \
                 `{program} replay {seed} --quiet --fingerprint` shows what it says"
            )
        })
    }

    fn report(&self) -> Done {
        let runs = self.runs.lock().expect("no panic while locked");
        let each = runs.values().map(Vec::len).max().unwrap_or_default();
        let differs = |runs: &&Vec<(Way, Fingerprint)>| runs.iter().any(|run| run.1 != runs[0].1);
        let different = runs.values().filter(differs).count();
        let compared = match self.arguments.transport {
            Transport::Tcp => "bytes and times of messages",
            Transport::Quic => "lengths and times of packets",
        };
        println!(
            "{} seeds, each run {each} times: {different} differ ({compared}, events, verdicts)",
            runs.len()
        );
        let Some((seed, runs)) = runs.iter().find(|(_, runs)| differs(runs)) else {
            return Ok(true);
        };
        println!("the first is seed {seed}:");
        for (way, fingerprint) in runs {
            println!("    {fingerprint}  {}", way.text());
        }
        let other = runs
            .iter()
            .find(|(_, fingerprint)| *fingerprint != runs[0].1);
        let way = other.map_or(Way::Fresh, |(way, _)| *way);
        self.locate(*seed, way)?;
        Ok(false)
    }

    /// Says where two runs part: by a log of each, made anew.
    fn locate(&self, seed: u64, way: Way) -> Result<(), String> {
        let program = match (way, &self.arguments.against) {
            (Way::Against, Some(other)) => other,
            _ => &self.this,
        };
        let flags = ["--log", "-", "--messages"];
        let one = self.replay(&self.this, seed, &flags)?;
        let other = self.replay(program, seed, &flags)?;
        match first_difference(&one, &other) {
            Some((line, one, other)) => {
                println!("they part in line {line} of their logs (--log - --messages):");
                println!("    {}", one.unwrap_or("(it has ended)"));
                println!("    {}", other.unwrap_or("(it has ended)"));
            }
            None => println!(
                "two fresh processes do not part again in what the log shows: \
                 what differs is older state of the process, or a message of raft"
            ),
        }
        Ok(())
    }
}
