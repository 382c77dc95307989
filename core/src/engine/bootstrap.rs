//! How candidates that start at the same moment form one cluster.

use serde::{Deserialize, Serialize};

/// What candidates say to each other.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum BootstrapMessage {}
