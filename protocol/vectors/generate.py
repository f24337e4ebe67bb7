#!/usr/bin/env python3
"""Writes vectors/*.json: the golden frames that every client and the gateway must agree on.

A second implementation on purpose: it knows docs/protocol.md and shares no code with the Rust crates, so that a mistake in either shows
as a difference. Python's standard library only. What is committed is the contract; run this after adding a vector and read the diff:
a line that changes in an existing vector breaks clients in the field.
"""

import json
import pathlib
import struct

HERE = pathlib.Path(__file__).resolve().parent / "vectors"
MAGIC = {"json": 18673, "protobuf": 18674}
CODES = {
    "WS_SHAKE": 1000, "LOGIN": 1001, "LOGOUT": 1002, "BIZ": 1003, "HEARTBEAT": 1004, "ACK": 1005, "KICK": 1006, "JOIN": 1007,
    "LEAVE": 1008, "SYNC": 1009, "ERROR": 1010, "RECONNECT": 1011,
}
# Name: (number in body.proto, kind). JSON writes them in the order of their numbers.
FIELDS = {
    "appId": (1, "int"), "userId": (2, "int"), "token": (3, "text"), "bizCode": (4, "int"), "data": (5, "text"), "msgId": (6, "text"),
    "roomId": (7, "int"), "seq": (8, "int"), "ts": (9, "int"), "qos": (10, "int"), "class": (11, "int"), "key": (12, "text"),
    "deviceId": (13, "text"), "platform": (14, "text"), "version": (15, "text"), "resume": (16, "resume"), "sessionId": (17, "text"),
    "heartbeatSecs": (18, "int"), "serverTime": (19, "int"), "node": (20, "text"), "audience": (21, "int"), "code": (22, "int"),
    "msg": (23, "text"), "fromSeq": (24, "int"), "fromId": (25, "text"), "addresses": (26, "texts"), "afterMs": (27, "int"),
    "retryAfterMs": (28, "int"),
}
ID_MAX = 2**53 - 1
USER, OTHER, ROOM, APP = 10086, 10087, 20001, 10001
SEQ = 2**32 + 7


def varint(value):
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out) + bytes([value])


def number_field(number, value):
    return varint(number << 3) + varint(value)


def bytes_field(number, value):
    return varint(number << 3 | 2) + varint(len(value)) + value


def resume_bytes(resume):
    if isinstance(resume, int):
        return number_field(3, resume)
    out = b""
    if "inbox" in resume:
        out += bytes_field(1, resume["inbox"].encode())
    for room, seq in resume.get("rooms", {}).items():
        out += bytes_field(2, number_field(1, int(room)) + number_field(2, seq))
    return out


def body_bytes(encoding, body):
    assert list(body) == sorted(body, key=lambda name: FIELDS[name][0]), f"write fields in the order of their numbers: {list(body)}"
    if encoding == "json":
        return dumps(body).encode()
    out = b""
    for name, value in body.items():
        number, kind = FIELDS[name]
        if kind == "int":
            out += number_field(number, value)
        elif kind == "text":
            out += bytes_field(number, value.encode())
        elif kind == "texts":
            out += b"".join(bytes_field(number, text.encode()) for text in value)
        else:
            out += bytes_field(number, resume_bytes(value))
    return out


def dumps(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def header(magic, code, length):
    return struct.pack(">Hii", magic, code, length)


def frame(encoding, code, body):
    return header(MAGIC[encoding], CODES.get(code, code), len(body)) + body


def spaced(stream):
    """Hex of one frame with a space after magic, code and len."""
    parts = [stream[:2], stream[2:6], stream[6:10], stream[10:]]
    return " ".join(part.hex() for part in parts if part)


# --- frames.json -----------------------------------------------------------------------------------------------------------------------

CHAT_UP = dumps({"roomId": ROOM, "content": "hello"})
CHAT_DOWN = dumps({"roomId": ROOM, "content": "hello", "senderId": USER, "senderName": "Ann", "senderAvatar": ""})
WHISPER = dumps({"objectId": OTHER, "content": "psst"})
AUDIENCE = dumps({"type": "audience", "audience": 42})
LOGIN_YES = {"data": "true", "sessionId": "s-1", "heartbeatSecs": 30, "serverTime": 1790000000000, "node": "gw-1"}
LIKES = {"bizCode": 5567, "data": dumps({"total": 9}), "roomId": ROOM, "seq": SEQ - 1, "class": 3, "key": "likes"}
CHAT_PUSH = {"bizCode": 5555, "data": CHAT_DOWN, "roomId": ROOM, "seq": SEQ, "ts": 1790000000123, "qos": 0, "class": 2}
SNAPSHOT = dumps({"audience": 42, "states": {"likes": LIKES}, "messages": [CHAT_PUSH], "gap": False})
PAGE = dumps({"messages": [CHAT_PUSH], "more": False, "gap": True})

GOLDEN = [
    # (name, code, direction, body): each is written in both encodings.
    ("ws-shake", "WS_SHAKE", "down", LOGIN_YES),
    ("login", "LOGIN", "up", {"appId": APP, "userId": USER, "token": "5f2d%10001"}),
    ("login-with-everything", "LOGIN", "up", {
        "appId": APP, "userId": USER, "token": "5f2d%10001", "roomId": ROOM, "deviceId": "d-77", "platform": "android",
        "version": "1.4.0", "resume": {"inbox": "ms-12", "rooms": {"20001": SEQ, "20002": 5}},
    }),
    ("login-resume-inbox-only", "LOGIN", "up", {"appId": APP, "userId": USER, "token": "5f2d%10001", "resume": {"inbox": "ms-12"}}),
    ("login-resume-eight-rooms", "LOGIN", "up", {
        "appId": APP, "userId": USER, "token": "5f2d%10001", "resume": {"rooms": {str(room): ID_MAX for room in range(1, 9)}},
    }),
    ("login-answer", "LOGIN", "down", LOGIN_YES),
    ("login-answer-of-the-first-servers", "LOGIN", "down", {"data": "true"}),
    ("logout", "LOGOUT", "up", {}),
    ("logout-answer", "LOGOUT", "down", {"data": "true"}),
    ("chat-to-room", "BIZ", "up", {"bizCode": 5555, "data": CHAT_UP, "msgId": "c-1", "roomId": ROOM}),
    ("chat-without-msg-id", "BIZ", "up", {"bizCode": 5555, "data": CHAT_UP, "roomId": ROOM}),
    ("chat-of-the-first-clients", "BIZ", "up", {"appId": APP, "userId": USER, "bizCode": 5555, "data": CHAT_UP}),
    ("chat-to-user", "BIZ", "up", {"bizCode": 5555, "data": WHISPER, "msgId": "c-2"}),
    ("chat-push", "BIZ", "down", CHAT_PUSH),
    ("chat-push-to-user", "BIZ", "down", {
        "userId": OTHER, "bizCode": 5555, "data": WHISPER, "msgId": "ms-13", "ts": 1790000000123, "qos": 1, "class": 1,
    }),
    ("gift-push-wants-an-ack", "BIZ", "down", {
        "bizCode": 5556, "data": dumps({"giftId": 3, "url": "/g/3", "senderId": USER, "receiverId": OTHER, "num": 1}),
        "msgId": f"r{ROOM}-{SEQ}", "roomId": ROOM, "seq": SEQ, "ts": 1790000000123, "qos": 1, "class": 1,
    }),
    ("state-push-audience", "BIZ", "down", {
        "bizCode": 5568, "data": AUDIENCE, "roomId": ROOM, "seq": SEQ, "qos": 0, "class": 3, "key": "audience",
    }),
    ("biz-with-text-of-every-kind", "BIZ", "up", {"bizCode": 5555, "data": "\"quote\" \\ / \b\f\n\r\t \u0001 \u007f ä € 😀 \u2028 \u0000", "msgId": "ä€😀"}),
    ("biz-with-empty-data", "BIZ", "up", {"bizCode": 5567, "data": ""}),
    ("heartbeat", "HEARTBEAT", "up", {}),
    ("heartbeat-answer", "HEARTBEAT", "down", {"data": "true"}),
    ("heartbeat-answer-with-audience", "HEARTBEAT", "down", {"data": "true", "audience": 42}),
    ("ack-of-a-push", "ACK", "up", {"msgId": "ms-13"}),
    ("ack-with-64-bytes", "ACK", "up", {"msgId": "x" * 64}),
    ("ack-of-a-biz", "ACK", "down", {"msgId": "c-1", "seq": SEQ, "ts": 1790000000123}),
    ("ack-of-a-biz-without-a-place-in-a-room", "ACK", "down", {"msgId": "c-2", "ts": 1790000000123}),
    ("kick-duplicate-login", "KICK", "down", {"code": 4010, "msg": "logged in on another device of this kind"}),
    ("kick-too-slow", "KICK", "down", {"code": 4012, "msg": "reading too slowly; reconnect and resume"}),
    ("join", "JOIN", "up", {"roomId": ROOM}),
    ("join-with-resume", "JOIN", "up", {"roomId": ROOM, "resume": SEQ}),
    ("join-with-largest-ids", "JOIN", "up", {"roomId": ID_MAX, "resume": ID_MAX}),
    ("join-answer", "JOIN", "down", {"data": SNAPSHOT, "roomId": ROOM, "seq": SEQ, "audience": 42}),
    ("leave", "LEAVE", "up", {"roomId": ROOM}),
    ("leave-answer", "LEAVE", "down", {"roomId": ROOM}),
    ("sync-room", "SYNC", "up", {"roomId": ROOM, "fromSeq": SEQ}),
    ("sync-inbox", "SYNC", "up", {"fromId": "ms-12"}),
    ("sync-inbox-from-the-oldest", "SYNC", "up", {}),
    ("sync-answer-room", "SYNC", "down", {"data": PAGE, "roomId": ROOM}),
    ("sync-answer-inbox", "SYNC", "down", {"data": dumps({"messages": [], "more": False, "gap": False})}),
    ("error-rate-limited", "ERROR", "down", {
        "msgId": "c-1", "code": 4007, "msg": "too many, too fast; wait retryAfterMs", "retryAfterMs": 250,
    }),
    ("error-room-not-found", "ERROR", "down", {"roomId": ROOM, "code": 4004, "msg": "the room does not exist or has closed"}),
    ("error-unavailable", "ERROR", "down", {
        "code": 5001, "msg": "the service is away; try again after retryAfterMs", "retryAfterMs": 1000,
    }),
    ("reconnect", "RECONNECT", "down", {"addresses": ["192.0.2.7:8085", "[2001:db8::7]:8085"], "afterMs": 12500}),
    ("reconnect-anywhere", "RECONNECT", "down", {"afterMs": 0}),
]

REASONS = {
    4000: "the frame or its body cannot be read", 4001: "log in first",
    4002: "the token is unknown, expired or of another user; fetch a new one", 4003: "userId is not the session's",
    4005: "you are muted in this room", 4006: "you are banned", 4008: "the body is longer than the limit",
    4009: "unknown code or bizCode", 4011: "no valid LOGIN in time", 5000: "internal error",
}


def golden_frames():
    both = GOLDEN + [(f"error-{number}", "ERROR", "down", {"code": number, "msg": msg}) for number, msg in REASONS.items()]
    out = []
    for name, code, direction, body in both:
        for encoding in MAGIC:
            out.append({
                "name": f"{name}/{encoding}", "hex": spaced(frame(encoding, code, body_bytes(encoding, body))),
                "encoding": encoding, "direction": direction, "code": CODES[code], "body": body, "canonical": True,
            })

    def other(name, encoding, code, direction, raw, body):
        out.append({
            "name": f"{name}/{encoding}", "hex": spaced(frame(encoding, code, raw)),
            "encoding": encoding, "direction": direction, "code": CODES[code], "body": body, "canonical": False,
        })

    heart = {"data": "true"}
    other("empty-body-is-no-field-set", "json", "HEARTBEAT", "up", b"", {})
    other("key-order-and-white-space", "json", "LOGIN", "up", b' {\r\n\t"token" : "t",\n "userId":10086 , "appId":10001 } ',
          {"appId": APP, "userId": USER, "token": "t"})
    other("escapes", "json", "BIZ", "up", rb'{"bizCode":5555,"data":"\u0041\/\ud83d\ude00\u00e4","msg\u0049d":"c-1"}',
          {"bizCode": 5555, "data": "A/😀ä", "msgId": "c-1"})
    other("null-is-left-out", "json", "JOIN", "up", b'{"roomId":20001,"resume":null,"data":null,"addresses":null}', {"roomId": ROOM})
    other("unknown-fields-are-ignored", "json", "HEARTBEAT", "down", b'{"data":"true","later":{"x":[1,2.5e3,null,false]},"DATA":1}', heart)
    other("sixteen-levels", "json", "HEARTBEAT", "down", b'{"data":"true","x":' + b"[" * 15 + b"]" * 15 + b"}", heart)
    other("sixty-four-keys", "json", "HEARTBEAT", "down",
          ("{" + "".join(f'"k{n}":0,' for n in range(63)) + '"data":"true"}').encode(), heart)
    other("brackets-in-a-string", "json", "HEARTBEAT", "down", b'{"data":"true","x":"' + b"[{:" * 100 + b'"}', heart)
    other("unknown-fields-are-ignored", "protobuf", "HEARTBEAT", "down",
          body_bytes("protobuf", heart) + number_field(100, 5) + bytes_field(101, b"\xff") + varint(102 << 3 | 5) + bytes(4) + varint(103 << 3 | 1) + bytes(8),
          heart)
    other("fields-in-another-order", "protobuf", "LOGIN", "up",
          bytes_field(3, b"t") + number_field(2, USER) + number_field(1, APP), {"appId": APP, "userId": USER, "token": "t"})
    other("the-last-of-a-field-wins", "protobuf", "JOIN", "up", number_field(7, 5) + number_field(7, ROOM), {"roomId": ROOM})
    other("a-varint-longer-than-it-must-be", "protobuf", "JOIN", "up", b"\x38\xa1\x9c\x81\x00", {"roomId": ROOM})
    other("sixty-four-fields", "protobuf", "HEARTBEAT", "down", number_field(99, 0) * 63 + body_bytes("protobuf", heart), heart)
    return out


# --- streams.json ----------------------------------------------------------------------------------------------------------------------

def streams():
    ack = {"msgId": "c-1"}
    parts = {
        "beat": ("json", "HEARTBEAT", b""),
        "ack": ("json", "ACK", body_bytes("json", ack)),
        "ack-protobuf": ("protobuf", "ACK", body_bytes("protobuf", ack)),
    }

    def stream(name, names, half=b"", then=b""):
        glued = b"".join(frame(*parts[part]) for part in names)
        return {
            "name": name, "hex": (glued + half).hex(),
            "frames": [{"encoding": parts[part][0], "code": CODES[parts[part][1]], "bodyHex": parts[part][2].hex()} for part in names],
            "waiting": len(half), "rest": then.hex(),
        }

    whole = frame(*parts["ack"])
    out = [
        stream("two-frames-glued", ["ack", "beat"]),
        stream("three-frames-glued-and-both-encodings", ["ack", "beat", "ack-protobuf"]),
        stream("twenty-empty-frames-glued", ["beat"] * 20),
        stream("nothing", []),
        stream("a-frame-and-the-first-byte-of-the-next", ["beat"], whole[:1], whole[1:]),
        stream("a-frame-and-the-magic-of-the-next", ["ack-protobuf"], whole[:2], whole[2:]),
        stream("a-frame-and-half-a-header", ["ack"], whole[:7], whole[7:]),
        stream("a-header-without-its-body", [], whole[:10], whole[10:]),
        stream("a-frame-but-for-its-last-byte", ["beat", "beat"], whole[:-1], whole[-1:]),
        stream("one-byte", [], whole[:1], whole[1:]),
    ]
    for encoding, magic in MAGIC.items():
        # The largest claims that are believed; the body itself would make this file long.
        out.append(stream(f"largest-body-before-login/{encoding}", [], header(magic, 1001, 4096)))
        out.append(stream(f"largest-body-of-a-session/{encoding}", [], header(magic, 1003, 65536)))
    return out


# --- malformed.json --------------------------------------------------------------------------------------------------------------------

def malformed():
    out = []

    def refused(name, hex_, layer, before_login, session):
        """`before_login`, `session`: reason and closes, or None where the bytes are not refused there."""
        phases = {}
        for phase, answer in (("beforeLogin", before_login), ("session", session)):
            if answer is not None:
                number, answered, closes = answer
                phases[phase] = {"reason": number, "answered": answered, "closes": closes}
        out.append({"name": name, "hex": hex_, "layer": layer, **phases})

    def bad_frame(name, stream, number=4000, session=True):
        # Before login nobody is told: the connection just closes.
        refused(name, spaced(stream), "frame", (number, False, True), (number, True, True) if session else None)

    def bad_body(name, encoding, raw):
        refused(f"{name}/{encoding}", spaced(frame(encoding, "LOGIN", raw)), "body", (4000, True, True), (4000, True, False))

    def bad_text(name, text):
        bad_body(name, "json", text.encode())

    # The stream.
    for encoding, magic in MAGIC.items():
        bad_frame(f"length-minus-one/{encoding}", header(magic, 1003, -1))
        bad_frame(f"length-smallest/{encoding}", header(magic, 1003, -2**31))
        bad_frame(f"length-largest/{encoding}", header(magic, 1003, 2**31 - 1), 4008)
        bad_frame(f"length-65537/{encoding}", header(magic, 1003, 65537), 4008)
        bad_frame(f"length-4097-before-login/{encoding}", header(magic, 1001, 4097), 4008, session=False)
    bad_frame("magic-wrong-in-byte-1", b"\x49")
    bad_frame("magic-wrong-in-byte-2", b"\x48\xf3")
    bad_frame("magic-little-endian", b"\xf1\x48")
    bad_frame("http-get", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    bad_frame("http-head-shares-the-first-byte", b"HEAD / HTTP/1.1\r\n\r\n")
    bad_frame("tls-client-hello", bytes.fromhex("16030101fe010001fa0303"))
    bad_frame("proxy-header", b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 8085\r\n")
    bad_frame("proxy-header-binary", bytes.fromhex("0d0a0d0a000d0a515549540a"))
    bad_frame("web-socket-ping", b"\x89\x00")

    # The body, as a LOGIN: before login the connection closes, a session goes on.
    bad_text("half-an-object", '{"appId":10001')
    bad_text("trailing-garbage", '{"appId":10001}x')
    bad_text("two-objects", "{}{}")
    bad_text("array-of-the-fields", '[10001,10086,"t"]')
    bad_text("null", "null")
    bad_text("byte-order-mark", "\ufeff{}")
    bad_text("trailing-comma", '{"appId":10001,}')
    bad_text("known-field-twice", '{"userId":10086,"userId":10087}')
    bad_text("number-as-text", '{"userId":"10086"}')
    bad_text("text-as-number", '{"token":5}')
    bad_text("infinity", '{"roomId":1e400}')
    bad_text("minus-zero", '{"roomId":-0}')
    bad_text("fraction", '{"roomId":1.5}')
    bad_text("exponent", '{"roomId":1e3}')
    bad_text("two-to-the-53", '{"roomId":9007199254740992}')
    bad_text("two-to-the-64", '{"roomId":18446744073709551616}')
    bad_text("hundred-digits", '{"roomId":' + "9" * 100 + "}")
    bad_text("negative-room", '{"roomId":-1}')
    bad_text("app-id-9999", '{"appId":9999}')
    bad_text("user-id-9999", '{"userId":9999}')
    bad_text("qos-above-i32", '{"qos":2147483648}')
    bad_text("seventeen-levels", '{"x":' + "[" * 16 + "]" * 16 + "}")
    bad_text("sixty-five-keys", "{" + ",".join(f'"k{n}":0' for n in range(65)) + "}")
    bad_text("msg-id-of-65-bytes", '{"msgId":"' + "x" * 65 + '"}')
    bad_text("token-of-257-bytes", '{"token":"' + "x" * 257 + '"}')
    bad_text("msg-id-with-a-line-end", r'{"msgId":"a\nb"}')
    bad_text("msg-id-with-nul", r'{"msgId":"a\u0000"}')
    bad_text("raw-nul", '{"data":"\0"}')
    bad_text("lone-surrogate", r'{"data":"\ud800"}')
    bad_text("surrogates-swapped", r'{"data":"\ude00\ud83d"}')
    bad_text("resume-of-nine-rooms", '{"resume":{"rooms":{' + ",".join(f'"{room}":1' for room in range(1, 10)) + "}}}")
    bad_text("resume-as-text", '{"resume":"7"}')
    bad_text("seventeen-addresses", '{"addresses":[' + ",".join(['"a"'] * 17) + "]}")
    bad_body("not-utf-8", "json", b'{"data":"\xff"}')
    bad_body("overlong-slash", "json", b'{"data":"\xc0\xaf"}')
    bad_body("not-utf-8-in-an-unknown-field", "json", b'{"x":"\xff"}')
    bad_body("surrogate-in-utf-8", "json", b'{"data":"\xed\xa0\x80"}')
    bad_body("protobuf-in-a-json-frame", "json", number_field(1, APP))
    bad_body("json-in-a-protobuf-frame", "protobuf", b'{"appId":10001}')
    bad_body("cut-in-a-varint", "protobuf", b"\x08\xff")
    bad_body("cut-in-a-string", "protobuf", b"\x1a\x05ab")
    bad_body("string-of-4-gib", "protobuf", b"\x2a\xff\xff\xff\xff\x0f")
    bad_body("varint-of-eleven-bytes", "protobuf", b"\x38" + b"\xff" * 10 + b"\x01")
    bad_body("field-number-zero", "protobuf", b"\x00\x01")
    bad_body("room-as-string", "protobuf", bytes_field(7, b"5"))
    bad_body("a-group", "protobuf", varint(99 << 3 | 3) + varint(99 << 3 | 4))
    bad_body("not-utf-8", "protobuf", bytes_field(5, b"\xff"))
    bad_body("negative-room", "protobuf", number_field(7, 2**64 - 1))
    bad_body("two-to-the-53", "protobuf", number_field(7, 2**53))
    bad_body("msg-id-of-65-bytes", "protobuf", bytes_field(6, b"x" * 65))
    bad_body("sixty-five-fields", "protobuf", number_field(10, 1) * 65)
    bad_body("resume-of-nine-rooms", "protobuf", body_bytes("protobuf", {"resume": {"rooms": {str(room): 1 for room in range(1, 10)}}}))
    bad_body("resume-in-both-forms", "protobuf", bytes_field(16, bytes_field(1, b"ms-1") + number_field(3, 7)))

    # The frame is whole and its body legal; the session refuses what it asks for.
    def refused_by_session(name, code, body, before_login, session):
        for encoding in MAGIC:
            refused(f"{name}/{encoding}", spaced(frame(encoding, code, body_bytes(encoding, body))), "session", before_login, session)

    stranger = (4001, True, True)
    refused_by_session("code-999", 999, {}, stranger, (4009, True, False))
    refused_by_session("code-1012", 1012, {"data": "true"}, stranger, (4009, True, False))
    refused_by_session("code-negative", -1, {}, stranger, (4009, True, False))
    refused_by_session("kick-from-a-client", "KICK", {"code": 4006, "msg": "out"}, stranger, (4009, True, False))
    refused_by_session("error-from-a-client", "ERROR", {"code": 5000, "msg": "x"}, stranger, (4009, True, False))
    refused_by_session("biz-of-another-user", "BIZ", {"userId": OTHER, "bizCode": 5555, "data": CHAT_UP}, stranger, (4003, True, False))
    refused_by_session("biz-without-biz-code", "BIZ", {"data": CHAT_UP}, stranger, (4000, True, False))
    refused_by_session("biz-without-data", "BIZ", {"bizCode": 5555}, stranger, (4000, True, False))
    refused_by_session("join-without-room", "JOIN", {}, stranger, (4000, True, False))
    refused_by_session("leave-without-room", "LEAVE", {}, stranger, (4000, True, False))
    refused_by_session("ack-without-msg-id", "ACK", {}, stranger, (4000, True, False))
    refused_by_session("login-without-token", "LOGIN", {"appId": APP, "userId": USER}, (4000, True, True), (4000, True, False))
    refused_by_session("login-of-another-user", "LOGIN", {"appId": APP, "userId": OTHER, "token": "t"}, None, (4003, True, False))
    refused_by_session("heartbeat-before-login", "HEARTBEAT", {}, stranger, None)
    return out


# --- envelopes.json, malformed_envelopes.json ------------------------------------------------------------------------------------------

def envelope(code, body):
    """The text form of one JSON frame; `body` is text."""
    return dumps({"magic": MAGIC["json"], "code": CODES.get(code, code), "len": len(body.encode()), "body": body})


def envelopes():
    out = []

    def golden(name, code, direction, text, body, canonical):
        out.append({"name": name, "text": text, "direction": direction, "code": CODES.get(code, code), "body": body, "canonical": canonical})

    for name, code, direction, body in GOLDEN:
        golden(f"{name}/envelope", code, direction, envelope(code, dumps(body)), body, True)

    def other(name, code, text, body):
        golden(f"{name}/envelope", code, "up", text, body, False)

    chat = {"bizCode": 5555, "data": "ä😀"}
    wide = dumps(chat)
    units = len(wide.encode("utf-16-le")) // 2
    other("body-left-out", "HEARTBEAT", '{"magic":18673,"code":1004,"len":0}', {})
    other("body-null", "HEARTBEAT", '{"magic":18673,"code":1004,"len":0,"body":null}', {})
    other("body-empty", "HEARTBEAT", envelope("HEARTBEAT", ""), {})
    other("len-in-utf-16-units", "BIZ", dumps({"magic": 18673, "code": 1003, "len": units, "body": wide}), chat)
    other("len-too-small", "BIZ", dumps({"magic": 18673, "code": 1003, "len": 0, "body": wide}), chat)
    other("len-too-large", "BIZ", dumps({"magic": 18673, "code": 1003, "len": 2**31 - 1, "body": wide}), chat)
    other("key-order-and-white-space", "LEAVE", ' {\r\n\t"body" : "{\\"roomId\\":20001}" ,\n "len":16, "code" :1008,"magic":18673 } ', {"roomId": ROOM})
    other("unknown-fields-are-ignored", "HEARTBEAT", '{"magic":18673,"code":1004,"len":2,"body":"{}","later":{"x":[1,2.5e3,null]},"Body":1}', {})
    other("everything-escaped", "BIZ", json.dumps({"magic": 18673, "code": 1003, "len": units, "body": wide}, ensure_ascii=True), chat)
    other("escapes-in-names", "HEARTBEAT", r'{"m\u0061gic":18673,"code":1004,"len":2,"b\u006fdy":"\u007b\u007d"}', {})
    other("line-ends-in-the-body", "LEAVE", envelope("LEAVE", '{\n\t"roomId":20001\r\n}'), {"roomId": ROOM})
    other("sixteen-levels", "HEARTBEAT", '{"magic":18673,"code":1004,"len":0,"x":' + "[" * 15 + "]" * 15 + "}", {})
    other("sixty-four-keys", "HEARTBEAT", '{"magic":18673,"code":1004,"len":0' + "".join(f',"k{n}":0' for n in range(61)) + "}", {})
    other("brackets-in-the-body", "HEARTBEAT", envelope("HEARTBEAT", '{"x":"' + "[{:" * 100 + '"}'), {})
    other("code-that-nobody-knows", -1, envelope(-1, "{}"), {})
    return out


def malformed_envelopes():
    out = []

    def bad(name, text):
        out.append({"name": f"{name}/envelope", "text": text, "reason": 4000})

    def fields(**changed):
        """A good envelope with some fields as raw JSON, or left out where None."""
        good = {"magic": "18673", "code": "1004", "len": "2", "body": '"{}"'} | changed
        return "{" + ",".join(f'"{name}":{value}' for name, value in good.items() if value is not None) + "}"

    bad("nothing", "")
    bad("no-json", "hello")
    bad("half-an-object", fields()[:-1])
    bad("two-objects", fields() * 2)
    bad("trailing-garbage", fields() + "x")
    bad("array-of-the-fields", '[18673,1004,2,"{}"]')
    bad("null", "null")
    bad("a-body-without-its-envelope", '{"data":"true"}')
    bad("byte-order-mark", "\ufeff" + fields())
    bad("magic-left-out", fields(magic=None))
    bad("magic-of-protobuf", fields(magic="18674"))
    bad("magic-wrong", fields(magic="18675"))
    bad("magic-negative", fields(magic="-18673"))
    bad("magic-plus-2-to-the-16", fields(magic=str(18673 + 2**16)))
    bad("magic-plus-2-to-the-32", fields(magic=str(18673 + 2**32)))
    bad("magic-as-text", fields(magic='"18673"'))
    bad("magic-null", fields(magic="null"))
    bad("code-left-out", fields(code=None))
    bad("code-as-text", fields(code='"1004"'))
    bad("code-fraction", fields(code="1004.0"))
    bad("code-above-i32", fields(code="2147483648"))
    bad("len-left-out", fields(len=None))
    bad("len-negative", fields(len="-1"))
    bad("len-minus-zero", fields(len="-0"))
    bad("len-fraction", fields(len="2.5"))
    bad("len-exponent", fields(len="2e0"))
    bad("len-as-text", fields(len='"2"'))
    bad("len-null", fields(len="null"))
    bad("len-2-to-the-64", fields(len=str(2**64)))
    bad("body-as-object", fields(body="{}"))
    bad("body-as-number", fields(body="5"))
    bad("body-as-list", fields(body='["{}"]'))
    bad("body-twice", fields()[:-1] + ',"body":"{}"}')
    bad("code-twice", fields()[:-1] + ',"code":1004}')
    bad("raw-line-end-in-the-body", fields(body='"{\n}"'))
    bad("raw-nul-in-the-body", fields(body='"{\0}"'))
    bad("lone-surrogate-in-the-body", fields(body=r'"\ud800"'))
    bad("seventeen-levels", fields(x="[" * 16 + "]" * 16))
    bad("sixty-five-keys", fields(**{f"k{n}": "0" for n in range(61)}))
    return out


def write(name, vectors):
    names = [vector["name"] for vector in vectors]
    assert len(names) == len(set(names)), "a name is used twice"
    # One vector per line: a change is one line of a diff.
    text = "[\n" + ",\n".join("  " + json.dumps(vector, ensure_ascii=True) for vector in vectors) + "\n]\n"
    (HERE / name).write_text(text, encoding="ascii")
    print(f"{name}: {len(vectors)} vectors")


if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    write("frames.json", golden_frames())
    write("streams.json", streams())
    write("malformed.json", malformed())
    write("envelopes.json", envelopes())
    write("malformed_envelopes.json", malformed_envelopes())
