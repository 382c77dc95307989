//! Each rule of the protocol as a test of real engines. Rules about the raft configuration (M0 to M3) and about
//! values (P2, the epochs) are tested where they are decided, in the library.

mod bench;
mod leases;
mod log;
mod membership;
mod serving;
mod steps;
