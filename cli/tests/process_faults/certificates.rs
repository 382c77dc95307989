//! Whoever has no certificate of the cluster's authority for the name that he claims stays out, and it is said why.
//!
//! What the program refuses to send at all, a claim to a name that the certificate does not stand for, is sent by other
//! means in `transport-quic/tests/refusals.rs`.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use funk::ids::NodeId;
use funk_quic::{Authority, PeerName, Validity};

use crate::arguments;
use crate::fleet::Fleet;
use crate::load::{Load, judge};
use crate::place::Place;
use crate::process::{PATIENCE, Process};

const NODES: usize = 3;
/// The name under which strangers come.
const STRANGER: &str = "n9";
/// The name of the client, unless it is told another.
const CLIENT: &str = "cli";

fn funk_ca(place: &Place, arguments: Vec<String>) {
    let mut process = Process::start(place, "ca", &arguments);
    assert!(process.wait().success(), "{}", process.describe());
}

/// `funk ca init`, and `funk ca issue` for these nodes and a client.
fn authority(place: &Place, folder: &str, nodes: &[&str]) -> PathBuf {
    let folder = place.folder().join(folder);
    let shown = folder.display();
    funk_ca(place, arguments!["ca", "init", shown]);
    for node in nodes {
        funk_ca(place, arguments!["ca", "issue", shown, node]);
    }
    funk_ca(place, arguments!["ca", "issue", shown, CLIENT, "--client"]);
    folder
}

/// A folder for `--tls` with the authority of another, and these as the stranger's certificate and key.
fn folder_of_stranger(
    place: &Place,
    name: &str,
    ca: &Path,
    certificate: &str,
    key: &str,
) -> PathBuf {
    let folder = place.folder().join(name);
    let fill = || {
        fs::create_dir(&folder)?;
        fs::copy(ca.join("ca.pem"), folder.join("ca.pem"))?;
        fs::write(folder.join(format!("{STRANGER}.pem")), certificate)?;
        let mut private = OpenOptions::new();
        private.write(true).create_new(true).mode(0o600);
        let mut file = private.open(folder.join(format!("{STRANGER}.key")))?;
        file.write_all(key.as_bytes())
    };
    let filled: std::io::Result<()> = fill();
    filled.unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    folder
}

fn read(folder: &Path, file: &str) -> String {
    let path = folder.join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Starts the stranger, and waits until he and the first node of the cluster have said `reason` of each other.
fn is_refused(place: &Place, fleet: &Fleet<'_>, tls: &PathBuf, reason: &str) {
    let node = fleet.process(0);
    let from = node.stderr.count();
    let address = place.address();
    let stranger = fleet.spawn(STRANGER, address, Some(tls));
    let (to, from_whom) = (fleet.address(0).to_string(), address.to_string());
    let says = |process: &Process, from, about: &str| {
        process.stderr.wait(from, PATIENCE, |line| {
            (line.contains(reason) && line.contains(about)).then_some(())
        })
    };
    assert!(
        says(&stranger, 0, &to).is_some() && says(node, from, &from_whom).is_some(),
        "not both said {reason:?}\n{}\n{}",
        stranger.describe(),
        node.describe()
    );
}

#[test]
fn strangers_are_refused_and_both_sides_say_why() {
    let place = Place::new("certificates");
    let tls = authority(&place, "tls", &["n1", "n2", "n3"]);
    let mut fleet = Fleet::new(&place, NODES, Some(tls.clone()));
    fleet.start_all();
    fleet.wait_whole();
    let mut load = Load::start(&place, &fleet, Some(&tls));
    load.wait_answers(1, "before the first stranger");

    let other = authority(&place, "other", &[STRANGER]);
    is_refused(&place, &fleet, &other, "another authority");

    let ours = Authority::from_pem(&read(&tls, "ca.pem"), &read(&tls, "ca.key"))
        .expect("it was just made");
    let name = PeerName::Node(NodeId::new(STRANGER).expect("a name"));
    let past = Validity::days((2020, 1, 1), (2020, 2, 1));
    let expired = ours.issue(&name, past).expect("both are days");
    let (certificate, key) = (&expired.certificate_pem, &expired.key_pem);
    let expired = folder_of_stranger(&place, "expired", &tls, certificate, key);
    // Its own node refuses it before it says a word; that peers would, too, is tested in `transport-quic`.
    let mut late = fleet.spawn(STRANGER, place.address(), Some(&expired));
    let (status, said) = (late.wait(), late.stderr.lines().join("\n"));
    assert!(!status.success());
    assert!(said.contains("has expired"), "{said}");

    let (certificate, key) = (read(&tls, "n2.pem"), read(&tls, "n2.key"));
    let stolen = folder_of_stranger(&place, "stolen", &tls, &certificate, &key);
    let mut thief = fleet.spawn(STRANGER, place.address(), Some(&stolen));
    let (status, said) = (thief.wait(), thief.stderr.lines().join("\n"));
    assert!(!status.success());
    assert!(
        said.contains("node `n2`") && said.contains(STRANGER),
        "{said}"
    );

    let report = judge(&place, &fleet, Some(&tls), load.stop());
    let id = fleet.wait_whole();
    for node in 0..NODES {
        let known = fleet.status(node).unwrap_or_default()["members"].to_string();
        assert!(!known.contains(STRANGER), "{STRANGER} got in: {known}");
    }
    println!(
        "certificates: 3 strangers refused by cluster {id}; {}",
        report.summary()
    );
    assert!(report.is_good(), "{report}\n{}", fleet.describe());
}
