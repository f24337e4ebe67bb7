//! How deep and how wide a body is, before anything is built from it.
//!
//! - serde_json alone would go 128 levels deep and read any number of unknown keys; prost would build a string per repeated field.
//! - Nothing is parsed here and nothing is allocated. A body that passes may still be no JSON or protobuf at all.

use super::BodyError;
use crate::limits::{JSON_DEPTH_MAX, JSON_KEYS_MAX};
use prost::encoding::{WireType, decode_key, decode_varint};

/// Number of `resume` in body.proto, the only field that is a message.
const RESUME_TAG: u32 = 16;

/// Bounds depth and keys of a JSON object, as of the bodies themselves: for `data`, which is opaque until a service reads it.
///
/// A plain count of the bytes that could matter comes first: it runs at memory speed, and a body with few of them, which is every
/// body but a hostile one or a snapshot, needs no look at where its strings begin and end.
///
/// # Errors
/// No object, too deep, or too many keys. What passes may still be no JSON.
pub fn check_json(json: &[u8]) -> Result<(), BodyError> {
    if json.trim_ascii_start().first() != Some(&b'{') {
        // serde would read an array as the fields in order.
        return Err(BodyError::NotAnObject);
    }
    let colons = json.iter().filter(|&&byte| byte == b':').count();
    let openers = json.iter().filter(|&&byte| byte == b'{' || byte == b'[').count();
    if colons <= JSON_KEYS_MAX && openers <= JSON_DEPTH_MAX { Ok(()) } else { check_outside_strings(json) }
}

fn check_outside_strings(json: &[u8]) -> Result<(), BodyError> {
    let (mut depth, mut keys, mut in_string, mut escaped) = (0usize, 0usize, false, false);
    for &byte in json {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => {
                depth += 1;
                if depth > JSON_DEPTH_MAX {
                    return Err(BodyError::TooDeep);
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            // Outside strings a colon stands behind a key and nowhere else.
            b':' => {
                keys += 1;
                if keys > JSON_KEYS_MAX {
                    return Err(BodyError::TooManyKeys);
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Bounds the number of fields: those of the body and those of `resume`, where each entry of its map is one.
pub(super) fn check_protobuf(bytes: &[u8]) -> Result<(), BodyError> {
    let mut fields_left = JSON_KEYS_MAX;
    count_fields(bytes, &mut fields_left, true)
}

fn count_fields(mut bytes: &[u8], fields_left: &mut usize, is_body: bool) -> Result<(), BodyError> {
    while !bytes.is_empty() {
        *fields_left = fields_left.checked_sub(1).ok_or(BodyError::TooManyKeys)?;
        let (tag, wire_type) = decode_key(&mut bytes).map_err(BodyError::Protobuf)?;
        let length = match wire_type {
            WireType::Varint => {
                decode_varint(&mut bytes).map_err(BodyError::Protobuf)?;
                0
            }
            WireType::SixtyFourBit => 8,
            WireType::ThirtyTwoBit => 4,
            WireType::LengthDelimited => decode_varint(&mut bytes).map_err(BodyError::Protobuf)?,
            // proto3 has no groups, and they are the only thing an unknown field could nest with.
            WireType::StartGroup | WireType::EndGroup => return Err(BodyError::TooDeep),
        };
        // A length beyond the end is prost's to refuse: it does so before it takes anything.
        let length = usize::try_from(length).unwrap_or(usize::MAX).min(bytes.len());
        let (value, rest) = bytes.split_at(length);
        if is_body && tag == RESUME_TAG && wire_type == WireType::LengthDelimited {
            count_fields(value, fields_left, false)?;
        }
        bytes = rest;
    }
    Ok(())
}
