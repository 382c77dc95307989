//! Counters by key, the service of `funk node`.

pub(crate) mod protocol;
mod service;
mod state;

pub(crate) use service::Counter;
pub(crate) use state::CounterState;
