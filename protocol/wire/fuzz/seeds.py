#!/usr/bin/env python3
"""Writes seeds/{frame,body_json,body_protobuf,text_envelope}/ from the golden frames: without legal frames to begin with, a fuzzer never
gets past the magic. Run it after adding vectors and commit what it writes."""

import json
import pathlib
import shutil

HERE = pathlib.Path(__file__).resolve().parent
VECTORS = HERE / "../../vectors/vectors"
# A seed longer than this teaches little and slows every run.
SEED_BYTES_MAX = 600


def load(name):
    return json.loads((VECTORS / name).read_text())


def write(target, name, data):
    if len(data) <= SEED_BYTES_MAX:
        (HERE / "seeds" / target / name.replace("/", ".")).write_bytes(data)


def main():
    for target in ("frame", "body_json", "body_protobuf", "text_envelope"):
        shutil.rmtree(HERE / "seeds" / target, ignore_errors=True)
        (HERE / "seeds" / target).mkdir(parents=True)
    for vector in load("frames.json") + load("malformed.json"):
        data = bytes.fromhex(vector["hex"])
        # No cuts, then a cut every 3 and 8 bytes with a hold behind the first frame.
        write("frame", vector["name"], b"\x00" + data)
        if vector.get("layer") != "frame":
            target = "body_json" if data[:2] == b"\x48\xf1" else "body_protobuf"
            write(target, vector["name"], data[10:])
    for vector in load("streams.json"):
        write("frame", "stream." + vector["name"], b"\x22\x03\x08" + bytes.fromhex(vector["hex"]) + bytes.fromhex(vector["rest"]))
    for vector in load("envelopes.json") + load("malformed_envelopes.json"):
        write("text_envelope", vector["name"], vector["text"].encode())


if __name__ == "__main__":
    main()
