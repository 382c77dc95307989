//! From a key to the node that answers for it, and to the service there.
//!
//! `serving_table` and `lease_cell` are what the driver publishes and every request reads; `outgoing` sends a call
//! to the owner of its shard, `incoming` answers on the owner, `messages` is what they say to each other. `clients` does
//! for a client, which is no member, what `outgoing` does for the node itself.

pub(crate) mod clients;
mod incoming;
mod lease_cell;
mod messages;
mod outgoing;
mod serving_table;

pub(crate) use clients::serve as serve_client;
pub(crate) use incoming::serve;
pub(crate) use lease_cell::LeaseCell;
pub(crate) use outgoing::call;
pub(crate) use serving_table::{Entry, ServingTable};
