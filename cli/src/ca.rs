//! `funk ca`: a certificate authority in a directory, and what it issues.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use funk::NodeId;
use funk_quic::Authority;

use crate::arguments::node_name;
use crate::credentials::files::{self, Layout};
use crate::failure::Failure;

const EXAMPLES: &str = "\
Examples:
  funk ca init certs                   certs/ca.pem and certs/ca.key
  funk ca issue certs n1               certs/n1.pem and certs/n1.key: SAN n1.node.funk
  funk ca issue certs cli --client     certs/cli.pem and certs/cli.key: SAN cli.client.funk
  funk node --name n1 --listen 192.0.2.1:7401 --tls certs

A node needs ca.pem and its own NAME.pem and NAME.key, a client likewise; ca.key stays with the authority: whoever has
it can be any node. Keys are Ed25519 and have mode 0600, the directory 0700. Nothing is overwritten without --force.

Exit status: 0 done; 1 not done; 2 bad arguments.";

/// Arguments of `funk ca`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct CaArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Clone, Debug)]
enum Command {
    /// Make an authority: its certificate and its private key
    #[command(after_help = EXAMPLES)]
    Init {
        /// Directory, made if need be
        dir: PathBuf,
        /// Replace an authority that is there: all its certificates become worthless
        #[arg(long)]
        force: bool,
    },
    /// Issue a certificate with its private key
    #[command(after_help = EXAMPLES)]
    Issue {
        /// Directory of the authority
        dir: PathBuf,
        /// Name of the node or client
        #[arg(value_parser = node_name)]
        name: NodeId,
        /// For a client, which cannot join as a node
        #[arg(long)]
        client: bool,
        /// Replace files that are there
        #[arg(long)]
        force: bool,
    },
}

pub(crate) fn run(arguments: CaArgs) -> Result<u8, Failure> {
    match arguments.command {
        Command::Init { dir, force } => init(&dir, force),
        Command::Issue {
            dir,
            name,
            client,
            force,
        } => issue(&dir, &name, client, force),
    }
    .map(|()| 0)
}

fn init(dir: &Path, force: bool) -> Result<(), Failure> {
    files::make_private_dir(dir)
        .map_err(|error| Failure::error(format!("{} cannot be made: {error}", dir.display())))?;
    let layout = Layout::new(dir);
    let authority = Authority::new().map_err(Failure::error)?;
    write(
        &[
            (layout.authority(), authority.certificate_pem()),
            (layout.authority_key(), &authority.key_pem()),
        ],
        force,
        "every certificate that it issued becomes worthless",
    )?;
    println!("next: funk ca issue {} NAME", dir.display());
    Ok(())
}

fn issue(dir: &Path, name: &NodeId, client: bool, force: bool) -> Result<(), Failure> {
    let layout = Layout::new(dir);
    if !layout.authority_key().exists() {
        return Err(Failure::error(format!(
            "{} is not there: make an authority with `funk ca init {}`",
            layout.authority_key().display(),
            dir.display()
        )));
    }
    files::check_secret(&layout.authority_key())?;
    let certificate = files::read(&layout.authority())?;
    let key = files::read(&layout.authority_key())?;
    let authority = Authority::from_pem(&certificate, &key)
        .map_err(|error| Failure::error(format!("{}: {error}", dir.display())))?;
    let issued = if client {
        authority.issue_client(name)
    } else {
        authority.issue_node(name)
    };
    let issued = issued.map_err(Failure::error)?;
    let (certificate, key) = layout.issued(name);
    write(
        &[
            (certificate, &issued.certificate_pem),
            (key, &issued.key_pem),
        ],
        force,
        "a node and a client of one name need directories of their own",
    )
}

/// All of the files or none, unless the disk fails in between.
fn write(wanted: &[(PathBuf, &str)], force: bool, consequence: &str) -> Result<(), Failure> {
    if let Some((there, _)) = wanted.iter().find(|(path, _)| !force && path.exists()) {
        return Err(Failure::error(format!(
            "{} exists and is left as it is; --force replaces it ({consequence})",
            there.display()
        )));
    }
    for (path, text) in wanted {
        let written = if force {
            files::replace(path, text)
        } else {
            files::write_new(path, text)
        };
        written.map_err(|error| {
            Failure::error(format!("{} cannot be written: {error}", path.display()))
        })?;
        println!("wrote {}", path.display());
    }
    Ok(())
}
