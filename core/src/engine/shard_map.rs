//! Which node owns which shard. (Stand-in: replaced on merge.)
use crate::ids::*;
use std::collections::BTreeSet;
/// stand-in
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ShardMap;
/// stand-in
#[derive(Clone, PartialEq, Debug)]
pub struct MapMember {
    /// i
    pub instance: Instance,
    /// w
    pub worker: WorkerId,
    /// c
    pub capacity: u32,
}
/// stand-in
#[derive(Clone, PartialEq, Debug)]
pub struct Assignment {
    /// m
    pub members: Vec<MapMember>,
    /// o
    pub owners: Vec<WorkerId>,
}
/// stand-in
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[error("stand-in")]
pub struct AssignmentError;
#[allow(missing_docs, unused_variables)]
impl ShardMap {
    pub fn index(&self) -> LogIndex {
        unreachable!()
    }
    pub fn shards(&self) -> u32 {
        unreachable!()
    }
    pub fn owner(&self, shard: ShardId) -> Option<&Instance> {
        unreachable!()
    }
    pub fn epoch(&self, shard: ShardId) -> Epoch {
        unreachable!()
    }
    pub fn worker(&self, shard: ShardId) -> WorkerId {
        unreachable!()
    }
    pub fn members(&self) -> &[MapMember] {
        unreachable!()
    }
    pub fn member(&self, node: &NodeId) -> Option<&MapMember> {
        unreachable!()
    }
    pub fn owned_by<'a>(
        &'a self,
        instance: &Instance,
    ) -> impl Iterator<Item = (ShardId, Epoch)> + 'a {
        std::iter::empty()
    }
    pub fn apply_assignment(
        &self,
        index: LogIndex,
        assignment: &Assignment,
    ) -> Result<ShardMap, AssignmentError> {
        unreachable!()
    }
}
/// stand-in
pub fn ack_set(_committed: &ShardMap, _proposed: &ShardMap) -> BTreeSet<Instance> {
    unreachable!()
}
