#!/usr/bin/env python3
"""Writes the corpus that the fuzz targets start from, out of the test vectors in docs/vectors.json.

Run it after the vectors have changed: fuzz/corpus.py. What a fuzzer finds itself is not kept here.
"""
import json
import pathlib
import struct
import zlib

HERE = pathlib.Path(__file__).resolve().parent
VECTORS = json.loads((HERE.parent / "docs" / "vectors.json").read_text())


def keep(target, name, data):
    folder = HERE / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.bin").write_bytes(data)


def payload(frame):
    """The payload of a frame: what follows its header of ten bytes, inflated if its flag says so."""
    body = frame[10:]
    if not frame[1] & 1:
        return body
    while body[0] & 0x80:
        body = body[1:]
    return zlib.decompress(body[1:], -15)


def framed(payloads):
    """What the targets `member` and `stranger` read: each payload after its length in two bytes."""
    return b"".join(struct.pack("<H", len(part)) + part for part in payloads)


def main():
    payloads = []
    for kind in ("control", "ops", "accepted"):
        for number, vector in enumerate(VECTORS[kind]):
            frame = bytes.fromhex(vector["bytes"])
            keep("frame", f"{kind}-{number}", frame[6:])
            keep("message", f"{kind}-{number}", payload(frame))
            payloads.append(payload(frame))
    for target in ("member", "stranger"):
        for number, part in enumerate(payloads):
            keep(target, f"one-{number}", framed([part]))
        keep(target, "all", framed(payloads))
    for kind in ("commits", "statements"):
        for number, vector in enumerate(VECTORS[kind]):
            keep("commit", f"{kind}-{number}", bytes.fromhex(vector["bytes"]))
    pairing = VECTORS["pairing"]
    for name in ("start", "reply", "join", "grant"):
        message = bytes.fromhex(pairing[name])
        keep("pairing", name, bytes([min(len(message), 255)]) + message)
    for name in ("code", "invitation"):
        keep("invitation", name, pairing[name].encode())
    for name, at in (("header", 9), ("first-page", 4096), ("middle", 130_000), ("end", 266_000)):
        keep("store_file", name, at.to_bytes(3, "little") + b"\x01")


if __name__ == "__main__":
    main()
