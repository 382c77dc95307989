//! Why a command ends before its time, with its exit status.

use std::fmt;
use std::process::ExitCode;

use funk::StorageError;

/// Something went wrong that has no status of its own.
pub(crate) const ERROR: u8 = 1;
/// The arguments are not possible, as of clap.
pub(crate) const BAD_ARGUMENTS: u8 = 2;
/// The data directory cannot be used: damaged, in use, another node's, of another version.
pub(crate) const DATA_DIRECTORY: u8 = 6;

/// What is said on standard error, and the exit status. The text says what was wrong, with which value, and what to do.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) status: u8,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(status: u8, message: impl fmt::Display) -> Self {
        Self {
            status,
            message: message.to_string(),
        }
    }

    pub(crate) fn error(message: impl fmt::Display) -> Self {
        Self::new(ERROR, message)
    }

    pub(crate) fn bad_arguments(message: impl fmt::Display) -> Self {
        Self::new(BAD_ARGUMENTS, message)
    }
}

impl From<StorageError> for Failure {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Io { .. } | StorageError::Empty { .. } => Self::error(error),
            error => Self::new(DATA_DIRECTORY, error),
        }
    }
}

/// Says why a command failed, if it did.
pub(crate) fn finish(command: &str, result: Result<u8, Failure>) -> ExitCode {
    match result {
        Ok(status) => ExitCode::from(status),
        Err(failure) => {
            eprintln!("funk {command}: {}", failure.message);
            ExitCode::from(failure.status)
        }
    }
}
