#!/usr/bin/env python3
"""A client that logs in, joins, chats and logs out, written from docs/protocol.md alone.

    python3 tests/raw_client.py HOST PORT APPID USERID TOKEN ROOM [--protobuf]

Prints every frame and exits 0 when each answer is what the page says, 1 when one is not, 2 on wrong use. It shares no code with the
Rust crates; Python's standard library only.
"""

import json
import socket
import struct
import sys
import time

JSON, PROTOBUF = 18673, 18674
LOGIN, LOGOUT, BIZ, HEARTBEAT, ACK, KICK, JOIN, LEAVE, SYNC, ERROR = range(1001, 1011)
ROOM_CHAT = 5555
BODY_BYTES_MAX = 65_536
ANSWER_SECONDS = 20

FIELDS = {
    1: "appId", 2: "userId", 3: "token", 4: "bizCode", 5: "data", 6: "msgId", 7: "roomId", 8: "seq", 9: "ts", 10: "qos", 11: "class",
    12: "key", 13: "deviceId", 14: "platform", 15: "version", 16: "resume", 17: "sessionId", 18: "heartbeatSecs", 19: "serverTime",
    20: "node", 21: "audience", 22: "code", 23: "msg", 24: "fromSeq", 25: "fromId", 26: "addresses", 27: "afterMs", 28: "retryAfterMs",
}
NUMBERS = {name: number for number, name in FIELDS.items()}


class Wrong(Exception):
    """The server did not do what docs/protocol.md says."""


def expect(holds, what):
    if not holds:
        raise Wrong(what)


class Connection:
    def __init__(self, host, port, magic):
        self.sock = socket.create_connection((host, port), timeout=ANSWER_SECONDS)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.magic = magic
        self.buffer = b""
        self.pushes = []

    def send(self, code, /, **body):
        raw = b"" if not body else json.dumps(body).encode() if self.magic == JSON else to_protobuf(body)
        print(f"up   {code} {body | {'token': '...'} if 'token' in body else body}")
        frame = struct.pack(">Hii", self.magic, code, len(raw)) + raw
        # In two pieces: the server must not care.
        self.sock.sendall(frame[:7])
        self.sock.sendall(frame[7:])

    def read_frame(self):
        """The next frame, or None at the end of the stream."""
        while True:
            if len(self.buffer) >= 10:
                magic, code, length = struct.unpack(">Hii", self.buffer[:10])
                expect(magic == self.magic, f"magic {magic}: the server answers in the encoding of LOGIN")
                expect(0 <= length <= BODY_BYTES_MAX, f"body of {length} bytes")
                if len(self.buffer) >= 10 + length:
                    raw, self.buffer = self.buffer[10 : 10 + length], self.buffer[10 + length :]
                    body = {} if not raw else json.loads(raw) if self.magic == JSON else from_protobuf(raw)
                    print(f"down {code} {body}")
                    return code, body
            more = self.sock.recv(65536)
            if not more:
                expect(not self.buffer, "the stream ended inside a frame")
                return None
            self.buffer += more

    def answer(self, code, /, **must_have):
        """Waits for a frame of this code. Pushes that come in between are acknowledged where they ask for it, and kept."""
        deadline = time.monotonic() + ANSWER_SECONDS
        while time.monotonic() < deadline:
            frame = self.read_frame()
            expect(frame is not None, f"closed before the answer {code}")
            got, body = frame
            if got == BIZ:
                self.on_push(body)
                continue
            expect(got == code, f"expected code {code}, got {got}: {body}")
            for name, value in must_have.items():
                expect(body.get(name) == value, f"{name} of {code} is {body.get(name)!r}, not {value!r}")
            return body
        raise Wrong(f"no answer {code} in {ANSWER_SECONDS} s")

    def on_push(self, body):
        expect("bizCode" in body and "data" in body, f"a push has bizCode and data: {body}")
        if body.get("qos") == 1 and "msgId" in body:
            self.send(ACK, msgId=body["msgId"])
        self.pushes.append(body)


def varint(value):
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out) + bytes([value])


def to_protobuf(body):
    out = b""
    for name, value in body.items():
        if isinstance(value, int):
            out += varint(NUMBERS[name] << 3) + varint(value)
        else:
            raw = value.encode()
            out += varint(NUMBERS[name] << 3 | 2) + varint(len(raw)) + raw
    return out


def read_varint(raw, at):
    value = shift = 0
    while True:
        byte = raw[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def from_protobuf(raw):
    body, at = {}, 0
    while at < len(raw):
        key, at = read_varint(raw, at)
        name = FIELDS.get(key >> 3, f"field {key >> 3}")
        if key & 7 == 0:
            body[name], at = read_varint(raw, at)
            continue
        expect(key & 7 == 2, f"wire type {key & 7} is not in the schema")
        length, at = read_varint(raw, at)
        text = raw[at : at + length].decode()
        at += length
        if name == "addresses":
            body.setdefault(name, []).append(text)
        else:
            body[name] = text
    return body


def check_snapshot(join):
    snapshot = json.loads(join["data"])
    expect(isinstance(snapshot["audience"], int) and snapshot["audience"] >= 1, "audience counts us")
    expect(isinstance(snapshot["states"], dict), "states by key")
    expect(snapshot["gap"] is False, "nothing to resume, so no gap")
    seqs = [message["seq"] for message in snapshot["messages"]]
    expect(seqs == sorted(set(seqs)), f"messages are oldest first: {seqs}")
    expect(all(seq <= join["seq"] for seq in seqs), "the room's seq is at least that of its last message")


def talk(host, port, app_id, user_id, token, room, magic):
    connection = Connection(host, port, magic)

    connection.send(LOGIN, appId=app_id, userId=user_id, token=token, platform="raw", version="1")
    login = connection.answer(LOGIN, data="true")
    expect(login.get("heartbeatSecs", 30) >= 1, "a gap between heartbeats")

    connection.send(HEARTBEAT)
    connection.answer(HEARTBEAT, data="true")

    connection.send(JOIN, roomId=room)
    join = connection.answer(JOIN, roomId=room)
    check_snapshot(join)

    connection.send(HEARTBEAT)
    heartbeat = connection.answer(HEARTBEAT, data="true")
    expect(heartbeat.get("audience", 1) >= 1, "the audience counts us")

    msg_id = f"raw-{user_id}-{time.time_ns()}"
    text = json.dumps({"roomId": room, "content": "hello from a raw client"})
    connection.send(BIZ, bizCode=ROOM_CHAT, data=text, msgId=msg_id, roomId=room)
    ack = connection.answer(ACK, msgId=msg_id)
    expect(ack.get("ts", 0) > 0, "an ACK says when")
    expect(ack.get("seq", 0) > join["seq"], "our message comes after the snapshot")

    # The same id again is accepted again and takes no effect twice; the ACK of a repeat may leave `seq` out.
    connection.send(BIZ, bizCode=ROOM_CHAT, data=text, msgId=msg_id, roomId=room)
    again = connection.answer(ACK, msgId=msg_id)
    expect(again.get("seq", ack["seq"]) == ack["seq"], "sent again with the same id, it keeps its place")

    # What is refused does not end the session.
    connection.send(1012)
    connection.answer(ERROR, code=4009)
    connection.send(BIZ, userId=user_id + 1, bizCode=ROOM_CHAT, data=text, msgId=msg_id + "-x", roomId=room)
    connection.answer(ERROR, code=4003, msgId=msg_id + "-x")

    connection.send(SYNC, roomId=room, fromSeq=ack["seq"] - 1)
    page = json.loads(connection.answer(SYNC, roomId=room)["data"])
    chat = [message for message in page["messages"] if message.get("bizCode") == ROOM_CHAT]
    mine = [message for message in chat if json.loads(message["data"]).get("senderId") == user_id]
    expect([message["seq"] for message in mine] == [ack["seq"]], "our message is in the room's log, once")

    connection.send(LEAVE, roomId=room)
    connection.answer(LEAVE, roomId=room)

    connection.send(LOGOUT)
    connection.answer(LOGOUT, data="true")
    expect(connection.read_frame() is None, "closed behind LOGOUT")

    mine = [push for push in connection.pushes if push.get("bizCode") == ROOM_CHAT and json.loads(push["data"]).get("senderId") == user_id]
    expect(not mine, "room chat does not come back to its sender")


def main(arguments):
    magic = JSON
    if "--protobuf" in arguments:
        arguments.remove("--protobuf")
        magic = PROTOBUF
    if len(arguments) != 6:
        print(__doc__, file=sys.stderr)
        return 2
    host, port, app_id, user_id, token, room = arguments
    try:
        talk(host, int(port), int(app_id), int(user_id), token, int(room), magic)
    except (Wrong, OSError, KeyError, ValueError) as error:
        print(f"FAILED: {type(error).__name__}: {error}")
        return 1
    print("OK")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
