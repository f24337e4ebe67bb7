//! The JSON text in the `data` of a JOIN or SYNC answer, put together from bodies that are JSON already.
//!
//! - A body is never parsed again: it is ours, and is spliced in.
//! - The answer fits into one frame: what does not fit is left out, oldest first in a snapshot, newest first in a page, and said
//!   (`gap`, `more`).

use bytes::Bytes;
use std::collections::BTreeMap;

/// Bytes of the text as it stands escaped within its frame; the rest of the 64 KiB is for the frame's other fields.
pub(crate) const TEXT_BYTES_MAX: usize = 56 * 1024;
/// Longest `data` of a push, escaped as it stands in a body that stands in a snapshot: one such message still fits.
pub(crate) const DATA_BYTES_MAX: usize = 48 * 1024;
/// All states of a room together: leaves the larger part of a snapshot to messages.
pub(crate) const STATES_BYTES_MAX: usize = 24 * 1024;
/// States of one room, besides its audience.
pub(crate) const STATES_MAX: usize = 32;

const _: () = assert!(DATA_BYTES_MAX + 1024 < TEXT_BYTES_MAX, "the longest message fits into a page");

/// The newest state push of every key, as its body.
pub(crate) type States = BTreeMap<String, String>;

/// `{audience,states,messages,gap}`. `messages` are oldest first; of those that do not fit the oldest are left out, and where
/// `complete` was asked for (a resume) that is a gap.
pub(crate) fn snapshot(audience: u64, states: &States, messages: &[Bytes], gap: bool, complete: bool) -> String {
    let mut text = format!("{{\"audience\":{audience},\"states\":{{");
    for (index, (key, body)) in states.iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        text.push_str(&serde_json::to_string(key).expect("a text is JSON"));
        text.push(':');
        text.push_str(body);
    }
    text.push_str("},\"messages\":[");
    let mut left = TEXT_BYTES_MAX.saturating_sub(escaped_bytes(&text) + TAIL_BYTES);
    let mut first = messages.len();
    while first > 0 {
        let bytes = escaped_bytes(as_text(&messages[first - 1])) + 1;
        if bytes > left {
            break;
        }
        left -= bytes;
        first -= 1;
    }
    splice(&mut text, &messages[first..]);
    let gap = gap || (complete && first > 0);
    text.push_str(if gap { "],\"gap\":true}" } else { "],\"gap\":false}" });
    text
}

/// `{messages,more,gap}`, oldest first. What does not fit is `more`.
pub(crate) fn page(messages: &[Bytes], more: bool, gap: bool) -> String {
    let mut left = TEXT_BYTES_MAX - TAIL_BYTES;
    let fitting = messages
        .iter()
        .take_while(|message| {
            let bytes = escaped_bytes(as_text(message)) + 1;
            let fits = bytes <= left;
            left = left.saturating_sub(bytes);
            fits
        })
        .count();
    let mut text = String::from("{\"messages\":[");
    splice(&mut text, &messages[..fitting]);
    let more = more || fitting < messages.len();
    text.push_str(&format!("],\"more\":{more},\"gap\":{gap}}}"));
    text
}

/// An inbox entry's body with its id put in.
pub(crate) fn with_msg_id(body: &[u8], msg_id: &str) -> Bytes {
    let rest = as_text(body).strip_prefix('{').unwrap_or("}");
    let comma = if rest.starts_with('}') { "" } else { "," };
    let msg_id = serde_json::to_string(msg_id).expect("a text is JSON");
    Bytes::from(format!("{{\"msgId\":{msg_id}{comma}{rest}"))
}

/// Bytes of a text once it stands as a string in JSON.
pub(crate) fn escaped_bytes(text: &str) -> usize {
    text.bytes()
        .map(|byte| match byte {
            b'"' | b'\\' => 2,
            0..0x20 => 6,
            _ => 1,
        })
        .sum()
}

/// Bytes of a text that stands as a string in JSON which itself stands as a string in JSON.
pub(crate) fn twice_escaped_bytes(text: &str) -> usize {
    text.bytes()
        .map(|byte| match byte {
            b'"' | b'\\' => 4,
            0..0x20 => 7,
            _ => 1,
        })
        .sum()
}

/// What stands behind the messages, escaped, with room to spare.
const TAIL_BYTES: usize = 64;

fn splice(text: &mut String, messages: &[Bytes]) {
    for (index, message) in messages.iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        text.push_str(as_text(message));
    }
}

/// Bodies are written as JSON by this process or a sister of it; what is not UTF-8 all the same becomes an empty body.
fn as_text(body: &[u8]) -> &str {
    std::str::from_utf8(body).unwrap_or("{}")
}

#[cfg(test)]
mod tests {
    use super::{States, TEXT_BYTES_MAX, escaped_bytes, page, snapshot, twice_escaped_bytes, with_msg_id};
    use billfish_wire::{
        Body, Encoding,
        snapshot::{RoomSnapshot, SyncPage},
    };
    use bytes::Bytes;
    use proptest::prelude::*;

    fn body(seq: i64, data: &str) -> Bytes {
        Body { seq: Some(seq), data: Some(data.to_owned()), ..Body::default() }.to_vec(Encoding::Json).into()
    }

    #[test]
    fn a_snapshot_reads_as_one() {
        let state = String::from_utf8(body(3, "{}").to_vec()).unwrap();
        let states = States::from([("a\"b".to_owned(), state)]);
        let text = snapshot(5, &states, &[body(1, "{\"x\":\"\\n\"}"), body(2, "é")], false, true);
        let read: RoomSnapshot = serde_json::from_str(&text).unwrap();
        assert_eq!((read.audience, read.gap, read.messages.len()), (5, false, 2));
        assert_eq!(read.states["a\"b"].seq, Some(3));
        assert_eq!(read.messages[1].data.as_deref(), Some("é"));
    }

    #[test]
    fn what_does_not_fit_is_left_out_and_said() {
        let long = "\"".repeat(2_000);
        let messages: Vec<Bytes> = (0..40).map(|seq| body(seq, &long)).collect();
        let text = snapshot(1, &States::new(), &messages, false, true);
        assert!(escaped_bytes(&text) <= TEXT_BYTES_MAX);
        let read: RoomSnapshot = serde_json::from_str(&text).unwrap();
        assert!(read.gap && read.messages.last().unwrap().seq == Some(39) && read.messages.len() > 3);
        let read: RoomSnapshot = serde_json::from_str(&snapshot(1, &States::new(), &messages, false, false)).unwrap();
        assert!(!read.gap, "a newcomer misses nothing");
        let text = page(&messages, false, false);
        assert!(escaped_bytes(&text) <= TEXT_BYTES_MAX);
        let read: SyncPage = serde_json::from_str(&text).unwrap();
        assert!(read.more && read.messages[0].seq == Some(0) && read.messages.len() > 3);
    }

    #[test]
    fn an_inbox_entry_gets_its_id() {
        let read: Body = serde_json::from_slice(&with_msg_id(&body(1, "x"), "5-0")).unwrap();
        assert_eq!((read.msg_id.as_deref(), read.seq), (Some("5-0"), Some(1)));
        let read: Body = serde_json::from_slice(&with_msg_id(b"{}", "5-0")).unwrap();
        assert_eq!(read.msg_id.as_deref(), Some("5-0"));
    }

    proptest! {
        #[test]
        fn escaped_sizes_are_what_serde_writes_at_most(text in any::<String>()) {
            let once = serde_json::to_string(&text).unwrap();
            prop_assert!(once.len() - 2 <= escaped_bytes(&text));
            let twice = serde_json::to_string(&once).unwrap();
            // Four more bytes: the inner quotes, escaped.
            prop_assert!(twice.len() - 2 - 4 <= twice_escaped_bytes(&text));
        }
    }
}
