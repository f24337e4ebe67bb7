//! `resume`: the one field whose JSON form depends on where it stands.
//!
//! - In a LOGIN it is the object `{inbox, rooms}`, in a JOIN the bare number `seq`; in protobuf it is the same message in both.
//! - It is never both at once: [`Resume::is_legal`] refuses that, so that either encoding says the same.

use crate::limits::{ID_MAX, RESUME_ROOMS_MAX};
use prost::Message;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser::SerializeStruct};
use std::{collections::BTreeMap, fmt};

/// What a client has seen: `{inbox, rooms}` in a LOGIN; in a JSON JOIN just the number `seq`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Resume {
    /// Last inbox message seen.
    #[prost(string, optional, tag = "1")]
    pub inbox: Option<String>,
    /// Last sequence number seen, by room.
    #[prost(btree_map = "int64, int64", tag = "2")]
    pub rooms: BTreeMap<i64, i64>,
    /// Last sequence number seen in the room of a JOIN.
    #[prost(int64, optional, tag = "3")]
    pub seq: Option<i64>,
}

impl Resume {
    pub(super) fn is_legal(&self) -> bool {
        let id = 0..=ID_MAX;
        let one_form = self.seq.is_none() || (self.inbox.is_none() && self.rooms.is_empty());
        one_form
            && self.rooms.len() <= RESUME_ROOMS_MAX
            && self.seq.is_none_or(|seq| id.contains(&seq))
            && self.rooms.iter().all(|(room, seq)| id.contains(room) && id.contains(seq))
            && self.inbox.as_deref().is_none_or(super::is_legal_id)
    }
}

impl Serialize for Resume {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let (Some(seq), None, true) = (self.seq, &self.inbox, self.rooms.is_empty()) {
            return serializer.serialize_i64(seq);
        }
        let mut object = serializer.serialize_struct("Resume", 2)?;
        match &self.inbox {
            Some(inbox) => object.serialize_field("inbox", inbox)?,
            None => object.skip_field("inbox")?,
        }
        if self.rooms.is_empty() {
            object.skip_field("rooms")?;
        } else {
            object.serialize_field("rooms", &self.rooms)?;
        }
        object.end()
    }
}

impl<'de> Deserialize<'de> for Resume {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Seen {
            inbox: Option<String>,
            rooms: BTreeMap<i64, i64>,
        }
        struct NumberOrObject;
        impl<'de> de::Visitor<'de> for NumberOrObject {
            type Value = Resume;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a sequence number, or an object with inbox and rooms")
            }
            fn visit_u64<E: de::Error>(self, seq: u64) -> Result<Resume, E> {
                let seq = i64::try_from(seq).map_err(E::custom)?;
                Ok(Resume { seq: Some(seq), ..Resume::default() })
            }
            fn visit_i64<E: de::Error>(self, seq: i64) -> Result<Resume, E> {
                Ok(Resume { seq: Some(seq), ..Resume::default() })
            }
            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Resume, A::Error> {
                let Seen { inbox, rooms } = Seen::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(Resume { inbox, rooms, seq: None })
            }
        }
        deserializer.deserialize_any(NumberOrObject)
    }
}
