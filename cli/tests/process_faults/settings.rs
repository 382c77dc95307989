//! Numbers that the environment may set: the long forms of tests that are short by default.

use std::fmt::Display;
use std::str::FromStr;

/// The variable's number, or the usual one.
pub(crate) fn number<T: FromStr + Display>(variable: &str, usual: T) -> T {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| {
            panic!("{variable} is no number, as for example {usual}: {text:?}")
        }),
        Err(_) => usual,
    }
}
