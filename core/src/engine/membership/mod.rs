//! Who is in the cluster. (Stand-in: replaced on merge.)
#[allow(missing_docs)]
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tags;
