//! Whoever has no certificate of the cluster's authority for the name that he claims stays out, and both sides say why.

use std::path::PathBuf;

use funk::ids::NodeId;
use funk_quic::{Authority, PeerName, Validity};

use crate::arguments;
use crate::fleet::Fleet;
use crate::place::Place;
use crate::process::{PATIENCE, Process};

const NODES: usize = 3;
/// The name under which strangers come.
const STRANGER: &str = "n9";
/// Answers of the cluster while strangers knock.
const CALLS: usize = 20;

/// `funk ca init` in a folder of this name.
fn authority(place: &Place, name: &str) -> PathBuf {
    let folder = place.folder().join(name);
    run(place, &arguments!["ca", "init", folder.display()]);
    folder
}

/// `funk ca issue`.
fn issue(place: &Place, authority: &PathBuf, name: &str) {
    run(place, &arguments!["ca", "issue", authority.display(), name]);
}

fn run(place: &Place, arguments: &[String]) {
    let mut process = Process::start(place, "ca", arguments);
    assert!(process.wait().success(), "{}", process.describe());
}
