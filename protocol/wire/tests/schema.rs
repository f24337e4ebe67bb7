//! `body.proto` is what other languages generate their client from; this compares it, field by field, with the struct that this
//! implementation reads and writes, in both encodings.

use billfish_wire::{Body, Encoding, Resume};
use prost::Message;
use prost_types::{DescriptorProto, FieldDescriptorProto, field_descriptor_proto::Label, field_descriptor_proto::Type};
use std::collections::{BTreeMap, BTreeSet};

/// Every field of the struct, set: leaving one out of this literal does not compile.
fn full() -> Body {
    Body {
        app_id: Some(10_001),
        user_id: Some(10_086),
        token: Some("t-token".to_owned()),
        biz_code: Some(5555),
        data: Some("t-data".to_owned()),
        msg_id: Some("t-msgId".to_owned()),
        room_id: Some(1007),
        seq: Some(1008),
        ts: Some(1009),
        qos: Some(1010),
        class: Some(1011),
        key: Some("t-key".to_owned()),
        device_id: Some("t-deviceId".to_owned()),
        platform: Some("t-platform".to_owned()),
        version: Some("t-version".to_owned()),
        resume: Some(Resume { inbox: Some("t-inbox".to_owned()), rooms: BTreeMap::from([(20_001, 20_002)]), seq: None }),
        session_id: Some("t-sessionId".to_owned()),
        heartbeat_secs: Some(1018),
        server_time: Some(1019),
        node: Some("t-node".to_owned()),
        audience: Some(1021),
        code: Some(1022),
        msg: Some("t-msg".to_owned()),
        from_seq: Some(1024),
        from_id: Some("t-fromId".to_owned()),
        addresses: vec!["t-addresses".to_owned()],
        after_ms: Some(1027),
        retry_after_ms: Some(1028),
    }
}

fn message(name: &str) -> DescriptorProto {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/proto");
    let set = protox::compile(["billfish/v1/body.proto"], [root]).expect("body.proto compiles");
    let file = set.file.into_iter().next().expect("one file");
    assert_eq!(file.package(), "billfish.v1");
    assert_eq!(file.syntax(), "proto3");
    file.message_type.into_iter().find(|message| message.name() == name).expect("the message is there")
}

/// Number, wire type and raw value of the fields of a message, read by hand and not by prost.
fn fields_on_the_wire(mut bytes: &[u8]) -> BTreeMap<i32, (u8, Vec<u8>)> {
    let mut fields = BTreeMap::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let wire_type = u8::try_from(key & 7).expect("three bits");
        let value = match wire_type {
            0 => varint(&mut bytes).to_be_bytes().to_vec(),
            2 => {
                let length = usize::try_from(varint(&mut bytes)).expect("short");
                let (value, rest) = bytes.split_at(length);
                bytes = rest;
                value.to_vec()
            }
            other => panic!("wire type {other} is not used by this schema"),
        };
        let earlier = fields.insert(i32::try_from(key >> 3).expect("small"), (wire_type, value));
        assert!(earlier.is_none(), "each field is written once here");
    }
    fields
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let (mut value, mut shift) = (0, 0);
    loop {
        let (&byte, rest) = bytes.split_first().expect("a whole varint");
        *bytes = rest;
        value |= u64::from(byte & 0x7F) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            return value;
        }
    }
}

fn is_string(field: &FieldDescriptorProto) -> bool {
    field.r#type() == Type::String
}

#[test]
#[expect(clippy::wildcard_enum_match_arm, reason = "every other type of protobuf is wrong here, also a future one")]
fn every_field_of_the_schema_has_the_struct_s_number_type_and_json_name() {
    let schema = message("Body");
    let body = full();
    let json: serde_json::Value = serde_json::from_slice(&body.to_vec(Encoding::Json)).expect("our own JSON");
    let json = json.as_object().expect("an object");
    let wire = fields_on_the_wire(&body.encode_to_vec());

    let schema_names: BTreeSet<&str> = schema.field.iter().map(FieldDescriptorProto::name).collect();
    let json_names: BTreeSet<&str> = json.keys().map(String::as_str).collect();
    assert_eq!(schema_names, json_names, "the schema's names and the JSON's are the same set");
    assert_eq!(schema.field.len(), wire.len(), "every field of the schema is written, and no other");

    for field in &schema.field {
        let name = field.name();
        assert_eq!(field.json_name(), name, "generated JSON mappings use the same name");
        let (wire_type, value) = wire.get(&field.number()).unwrap_or_else(|| panic!("{name} is not number {}", field.number()));
        match field.r#type() {
            Type::Int32 | Type::Int64 => {
                assert_eq!(*wire_type, 0, "{name}");
                let value = i64::from_be_bytes(value.as_slice().try_into().expect("eight bytes"));
                assert_eq!(json[name], serde_json::json!(value), "{name}: the value under this number is the one under this name");
            }
            Type::String if field.label() == Label::Repeated => {
                assert_eq!((*wire_type, value.as_slice()), (2, format!("t-{name}").as_bytes()));
                assert_eq!(json[name], serde_json::json!([format!("t-{name}")]));
            }
            Type::String => {
                assert_eq!((*wire_type, value.as_slice()), (2, format!("t-{name}").as_bytes()));
                assert_eq!(json[name], serde_json::json!(format!("t-{name}")));
            }
            Type::Message => {
                assert_eq!((name, *wire_type), ("resume", 2));
                assert_eq!(field.type_name(), ".billfish.v1.Resume");
            }
            other => panic!("{name}: the struct has no field of type {other:?}"),
        }
        // i32 and i64 look alike on the wire; the width shows in the value that no longer fits.
        if matches!(field.r#type(), Type::Int32 | Type::Int64) {
            let json = format!(r#"{{"{name}":{}}}"#, i64::from(i32::MAX) + 1);
            let fits = Body::decode(Encoding::Json, json.as_bytes()).is_ok();
            assert_eq!(fits, field.r#type() == Type::Int64, "{name}");
        }
    }
}

#[test]
fn every_field_tells_unset_from_zero() {
    let schema = message("Body");
    for field in &schema.field {
        if field.label() == Label::Repeated {
            assert_eq!(field.name(), "addresses", "the only list");
            continue;
        }
        assert!(field.proto3_optional(), "{} has presence", field.name());
    }
    assert!(Body::default().encode_to_vec().is_empty());
    assert_eq!(Body::default().to_vec(Encoding::Json), b"{}");
    // Zero and the empty string are written, and read back as set.
    for field in schema.field.iter().filter(|field| field.label() != Label::Repeated && field.r#type() != Type::Message) {
        let mut bytes = Vec::new();
        prost::encoding::encode_varint(u64::from(field.number().cast_unsigned()) << 3 | if is_string(field) { 2 } else { 0 }, &mut bytes);
        bytes.push(0);
        let body = <Body as Message>::decode(bytes.as_slice()).expect("a field of the schema");
        assert_eq!(body.encode_to_vec(), bytes, "{} survives as zero", field.name());
        assert_ne!(body, Body::default(), "{}", field.name());
    }
}

#[test]
fn resume_is_the_schema_s_message() {
    let schema = message("Resume");
    let names: Vec<(&str, i32, Type)> = schema.field.iter().map(|field| (field.name(), field.number(), field.r#type())).collect();
    assert_eq!(names, [("inbox", 1, Type::String), ("rooms", 2, Type::Message), ("seq", 3, Type::Int64)]);
    let rooms = &schema.field[1];
    let entry = schema.nested_type.iter().find(|entry| rooms.type_name().ends_with(entry.name())).expect("the map's entry");
    assert!(entry.options.as_ref().is_some_and(prost_types::MessageOptions::map_entry), "rooms is a map");
    assert!(entry.field.iter().all(|field| field.r#type() == Type::Int64));
    assert!(schema.field.iter().all(|field| field.name() == "rooms" || field.proto3_optional()));

    let resume = Resume { inbox: Some("i".to_owned()), rooms: BTreeMap::from([(5, 6)]), seq: Some(7) };
    let wire = fields_on_the_wire(&resume.encode_to_vec());
    assert_eq!(wire[&1], (2, b"i".to_vec()));
    assert_eq!(wire[&2], (2, vec![0x08, 5, 0x10, 6]));
    assert_eq!(wire[&3], (0, 7i64.to_be_bytes().to_vec()));
}
