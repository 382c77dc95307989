//! `funk recover`: a new cluster from one directory, when a quorum is lost for good.

use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;

use clap::Args;
use funk::inspect::{Inspection, inspect};
use funk::recover::{RecoverError, force_new_cluster};

use crate::counter::CounterState;
use crate::failure::Failure;
use crate::write_out;

const EXAMPLES: &str = "\
Examples:
  funk recover --data-dir /var/lib/funk/n1 --force-new-cluster
  funk recover --data-dir /var/lib/funk/n1 --force-new-cluster --yes     without a question, for scripts

Only when more than half of the voters are lost for good. What they alone had acknowledged is lost. Use the directory with the
longest log (`funk inspect`), and only one. The node of this directory becomes the only member of a new cluster, which holds
everything in its log; tokens of old owners stay fenced, since those of the new cluster begin far behind. All other nodes join
it with empty directories: those with the old ones are refused. The directory is copied first.

Exit status: 0 done; 1 an error; 2 bad arguments, or not confirmed; 6 the directory is damaged, in use, or in the format of
another release.";

/// Arguments of `funk recover`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct RecoverArgs {
    /// The data directory of a node that does not run
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// Give up the old cluster for a new one with this node alone
    #[arg(long, required = true)]
    force_new_cluster: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

pub(crate) fn run(arguments: &RecoverArgs) -> Result<u8, Failure> {
    debug_assert!(arguments.force_new_cluster, "it is the only way there is");
    let found = inspect(&arguments.data_dir)?;
    if !arguments.yes {
        confirm(&found)?;
    }
    let state = Box::new(CounterState::default());
    let done = force_new_cluster(&arguments.data_dir, state).map_err(|error| match error {
        RecoverError::Storage(error) => error.into(),
        error => Failure::error(error),
    })?;
    write_out(&format!(
        "Node {node} is the only member of the new cluster {cluster}, with all entries up to {last}.\n\
         The directory as it was is in {backup}.\n\
         Start the node as before; start all others with empty data directories.\n",
        node = done.node,
        cluster = done.cluster_id,
        last = done.last,
        backup = done.backup.display(),
    ))
}

fn confirm(found: &Inspection) -> Result<(), Failure> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(Failure::bad_arguments(
            "this gives up the old cluster, and nobody is there to be asked: add --yes if that is meant",
        ));
    }
    let last = found
        .log
        .last
        .map_or_else(|| "none".to_owned(), |last| last.to_string());
    eprint!(
        "Cluster `{}` with {} members is given up for a new one with node {} alone. Its last entry is {last}; what \
         others had beyond is lost.\nType the node's name to go on: ",
        found.cluster,
        found.membership.members.len(),
        found.node,
    );
    let _ = std::io::stderr().flush();
    let mut answer = String::new();
    let read = stdin.lock().read_line(&mut answer);
    match read {
        Ok(_) if answer.trim() == found.node => Ok(()),
        _ => Err(Failure::bad_arguments("not confirmed: nothing was changed")),
    }
}
