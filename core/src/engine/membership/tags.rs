//! Tags: what a node says about itself, beside what the protocol needs.
//!
//! Only the *version* of a node's tags travels in gossip; the tags themselves are pulled over a stream when
//! the version that gossip speaks of is newer than the one held. So they may be larger than a datagram, and a
//! node that joins late learns the tags of all members.

use std::collections::{BTreeMap, btree_map};

use serde::{Deserialize, Serialize};

use crate::limits::{MAX_TAG_NAME_BYTES, MAX_TAG_VALUE_BYTES, MAX_TAGS, MAX_TAGS_BYTES};

/// Names of tags that hold an endpoint begin with this; the rest is the endpoint's name.
pub const ENDPOINT_PREFIX: &str = "ep.";
/// Name of the tag that says what fails together with the node: a rack, a building, a region. Voters are spread over
/// zones (rule M3).
pub const ZONE_TAG: &str = "zone";

/// Why a tag was refused. The tags are as they were before.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TagError {
    /// The name has no characters.
    #[error("the name of a tag must have at least one character")]
    EmptyName,
    /// The name is longer than [`MAX_TAG_NAME_BYTES`].
    #[error("the name of tag {name:?} has {len} bytes; at most {max} are allowed", max = MAX_TAG_NAME_BYTES)]
    NameTooLong {
        /// The name that was given.
        name: String,
        /// Its length in bytes.
        len: usize,
    },
    /// The value is longer than [`MAX_TAG_VALUE_BYTES`].
    #[error("the value of tag {name:?} has {len} bytes; at most {max} are allowed", max = MAX_TAG_VALUE_BYTES)]
    ValueTooLong {
        /// Whose value.
        name: String,
        /// Its length in bytes.
        len: usize,
    },
    /// The node would have more than [`MAX_TAGS`] tags.
    #[error("tag {name:?} would be number {count}; at most {max} are allowed", max = MAX_TAGS)]
    TooMany {
        /// The tag that is one too many.
        name: String,
        /// How many there would be.
        count: usize,
    },
    /// All names and values together would be longer than [`MAX_TAGS_BYTES`].
    #[error("with tag {name:?} all tags have {total} bytes; at most {max} are allowed", max = MAX_TAGS_BYTES)]
    TotalTooLarge {
        /// The tag that does not fit any more.
        name: String,
        /// What the sum would be, in bytes.
        total: usize,
    },
}

/// The tags of one node: a map from names to values within the bounds of [`crate::limits`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(
    try_from = "BTreeMap<String, String>",
    into = "BTreeMap<String, String>"
)]
pub struct Tags {
    /// Invariant: at most [`MAX_TAGS`], each within its bounds.
    tags: BTreeMap<String, String>,
    /// Invariant: the bytes of all names and values, at most [`MAX_TAGS_BYTES`].
    bytes: usize,
}

impl Tags {
    /// No tags.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a tag and returns its former value.
    ///
    /// # Errors
    ///
    /// [`TagError`] names the tag, what was found and what is allowed; nothing is changed then.
    pub fn insert(&mut self, name: &str, value: &str) -> Result<Option<String>, TagError> {
        let owned = || name.to_owned();
        if name.is_empty() {
            return Err(TagError::EmptyName);
        }
        if name.len() > MAX_TAG_NAME_BYTES {
            return Err(TagError::NameTooLong {
                name: owned(),
                len: name.len(),
            });
        }
        if value.len() > MAX_TAG_VALUE_BYTES {
            return Err(TagError::ValueTooLong {
                name: owned(),
                len: value.len(),
            });
        }
        let former = self
            .tags
            .get(name)
            .map_or(0, |former| name.len() + former.len());
        let count = self.tags.len() + usize::from(former == 0);
        if count > MAX_TAGS {
            return Err(TagError::TooMany {
                name: owned(),
                count,
            });
        }
        let total = self.bytes - former + name.len() + value.len();
        if total > MAX_TAGS_BYTES {
            return Err(TagError::TotalTooLarge {
                name: owned(),
                total,
            });
        }
        self.bytes = total;
        Ok(self.tags.insert(owned(), value.to_owned()))
    }

    /// Removes a tag and returns its value, if there was one.
    pub fn remove(&mut self, name: &str) -> Option<String> {
        let value = self.tags.remove(name)?;
        self.bytes -= name.len() + value.len();
        Some(value)
    }

    /// The value of a tag.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.tags.get(name).map(String::as_str)
    }

    /// Names and values, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.tags
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// How many tags there are, at most [`MAX_TAGS`].
    pub fn len(&self) -> usize {
        self.tags.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.tags.is_empty()
    }

    /// Says where a service of this node is reached: the tag `ep.NAME`.
    ///
    /// # Errors
    ///
    /// As [`insert`](Self::insert).
    pub fn set_endpoint(&mut self, name: &str, endpoint: &str) -> Result<(), TagError> {
        self.insert(&format!("{ENDPOINT_PREFIX}{name}"), endpoint)
            .map(drop)
    }

    /// Where a service of the node is reached.
    pub fn endpoint(&self, name: &str) -> Option<&str> {
        self.get(&format!("{ENDPOINT_PREFIX}{name}"))
    }

    /// All endpoints: names without the prefix, and values.
    pub fn endpoints(&self) -> impl Iterator<Item = (&str, &str)> {
        self.iter()
            .filter_map(|(name, value)| Some((name.strip_prefix(ENDPOINT_PREFIX)?, value)))
    }
}

impl TryFrom<BTreeMap<String, String>> for Tags {
    type Error = TagError;

    fn try_from(map: BTreeMap<String, String>) -> Result<Self, TagError> {
        let mut tags = Self::default();
        for (name, value) in &map {
            tags.insert(name, value)?;
        }
        Ok(tags)
    }
}

impl From<Tags> for BTreeMap<String, String> {
    fn from(tags: Tags) -> Self {
        tags.tags
    }
}

impl IntoIterator for Tags {
    type Item = (String, String);
    type IntoIter = btree_map::IntoIter<String, String>;

    fn into_iter(self) -> Self::IntoIter {
        self.tags.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_bound_is_inclusive_and_named_when_broken() {
        let long = |len: usize| "v".repeat(len);
        let mut tags = Tags::new();
        assert_eq!(tags.insert("", "x"), Err(TagError::EmptyName));
        assert_eq!(tags.insert(&long(128), "x"), Ok(None));
        let error = tags.insert(&long(129), "x").unwrap_err();
        assert!(error.to_string().contains("129"), "{error}");
        assert!(error.to_string().contains("128"), "{error}");
        assert_eq!(tags.insert("v", &long(1024)), Ok(None));
        let error = tags.insert("w", &long(1025)).unwrap_err();
        assert_eq!(
            error,
            TagError::ValueTooLong {
                name: "w".into(),
                len: 1025
            }
        );
        assert_eq!(tags.get("w"), None);
    }

    #[test]
    fn the_65th_tag_is_refused_but_a_replacement_is_not() {
        let mut tags = Tags::new();
        for n in 0..MAX_TAGS {
            tags.insert(&format!("t{n}"), "1").unwrap();
        }
        assert_eq!(
            tags.insert("one-more", ""),
            Err(TagError::TooMany {
                name: "one-more".into(),
                count: 65
            })
        );
        assert_eq!(tags.insert("t3", "2"), Ok(Some("1".into())));
        tags.remove("t3");
        assert_eq!(tags.insert("one-more", ""), Ok(None));
    }

    #[test]
    fn the_sum_counts_names_and_values_and_falls_when_tags_shrink() {
        let mut tags = Tags::new();
        for n in 0..8 {
            tags.insert(&format!("{n}"), &"v".repeat(1023)).unwrap();
        }
        let error = tags.insert("x", "").unwrap_err();
        assert_eq!(
            error,
            TagError::TotalTooLarge {
                name: "x".into(),
                total: MAX_TAGS_BYTES + 1
            }
        );
        tags.insert("0", "").unwrap();
        assert_eq!(tags.insert("x", &"v".repeat(1022)), Ok(None));
        assert!(tags.insert("y", "").is_err());
    }

    #[test]
    fn endpoints_are_tags_with_a_prefix() {
        let mut tags = Tags::new();
        tags.set_endpoint("http", "10.0.0.1:80").unwrap();
        tags.insert("role", "edge").unwrap();
        assert_eq!(tags.get("ep.http"), Some("10.0.0.1:80"));
        assert_eq!(tags.endpoint("http"), Some("10.0.0.1:80"));
        assert_eq!(
            tags.endpoints().collect::<Vec<_>>(),
            [("http", "10.0.0.1:80")]
        );
    }

    #[test]
    fn tags_of_a_peer_that_break_a_bound_do_not_decode() {
        let map = BTreeMap::from([("name".to_owned(), "v".repeat(MAX_TAG_VALUE_BYTES + 1))]);
        let bytes = postcard::to_stdvec(&map).unwrap();
        assert!(postcard::from_bytes::<Tags>(&bytes).is_err());
    }

    proptest! {
        #[test]
        fn tags_survive_the_wire_and_keep_their_sum(
            steps in proptest::collection::vec(("[a-d]{1,3}", "[a-z]{0,9}", any::<bool>()), 0..40),
        ) {
            let mut tags = Tags::new();
            for (name, value, removed) in &steps {
                if *removed {
                    tags.remove(name);
                } else {
                    tags.insert(name, value).unwrap();
                }
            }
            let sum = tags.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
            prop_assert_eq!(tags.bytes, sum);
            let bytes = postcard::to_stdvec(&tags).unwrap();
            prop_assert_eq!(postcard::from_bytes::<Tags>(&bytes).unwrap(), tags);
        }
    }
}
