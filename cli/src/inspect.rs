//! `funk inspect`: what a data directory holds.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use funk::inspect::{Inspection, inspect};

use crate::failure::Failure;
use crate::write_out;

const EXAMPLES: &str = "\
Examples:
  funk inspect --data-dir /var/lib/funk/n1
  funk inspect --data-dir /var/lib/funk/n1 --json

Nothing is changed: what the next start would cut off the end of the log is only told.

Exit status: 0 every byte is as it was written; 1 an error; 2 bad arguments; 6 the directory is damaged, in use, or in the
format of another release: the message names the file and the offset and says what to do.";

/// Arguments of `funk inspect`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct InspectArgs {
    /// The data directory of a node that does not run
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// One JSON object on standard output
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &InspectArgs) -> Result<u8, Failure> {
    let found = inspect(&arguments.data_dir)?;
    let text = match arguments.json {
        true => serde_json::to_string(&found).map_err(Failure::error)? + "\n",
        false => table(&found),
    };
    write_out(&text)
}

fn shown<T: std::fmt::Display>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn table(found: &Inspection) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<12} {value}");
    };
    line(
        "node",
        format!("{} of cluster `{}`", found.node, found.cluster),
    );
    line("member", format!("{}@{}", found.node, found.store));
    line("cluster id", shown(found.cluster_id));
    let vote = found
        .voted_for
        .as_ref()
        .map(|id| format!(", voted for {id}"));
    line("term", shown(found.term) + &vote.unwrap_or_default());
    let log = &found.log;
    line(
        "log",
        format!(
            "entries {} to {} ({} kept, committed at least up to {}), {} segments, {} records ever",
            shown(log.first),
            shown(log.last),
            log.entries,
            shown(log.committed),
            log.segments,
            log.records
        ),
    );
    let snapshot = found.snapshot.as_ref().map(|snapshot| {
        let (last, bytes) = (shown(snapshot.last), snapshot.bytes);
        format!("up to entry {last}, {bytes} bytes")
    });
    line("snapshot", shown(snapshot));
    for (at, set) in found.membership.voters.iter().enumerate() {
        let names: Vec<String> = set.iter().map(ToString::to_string).collect();
        line(if at == 0 { "voters" } else { "and" }, names.join(" "));
    }
    for (id, addr) in &found.membership.members {
        line("", format!("{id} at {addr}"));
    }
    if found.torn_bytes > 0 {
        let what = format!(
            "{} bytes of an interrupted write, cut off at the next start",
            found.torn_bytes
        );
        line("torn end", what);
    }
    for (name, bytes) in &found.files {
        line("file", format!("{name} ({bytes} bytes)"));
    }
    text + "Every byte is as it was written.\n"
}
