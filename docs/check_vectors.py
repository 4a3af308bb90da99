#!/usr/bin/env python3
"""Reads vectors.json by the rules of protocol.md, and says where the two disagree.

Written from the document alone, as a second opinion: it shares nothing with the Rust code. It needs only
Python's standard library, and vector_crypto.py beside it. Section numbers in comments are those of protocol.md.
"""

import hashlib
import hmac
import json
import struct
import sys
import unicodedata
import zlib
from pathlib import Path

sys.dont_write_bytecode = True
from vector_crypto import (  # noqa: E402
    BASE, DERIVE_KEY_CONTEXT, DERIVE_KEY_MATERIAL, KEYED_HASH, ORDER, add, blake3, chacha20_poly1305, compress,
    decompress, ed25519_public, ed25519_verify, multiply, negate, siphash,
)

FRAME_BYTES_MAX, CONTROL_BYTES_MAX, INFLATED_BYTES_MAX = 1 << 20, 1 << 16, 1 << 21
COMMIT_BYTES_MAX, RUNS_BYTES_MAX, RUN_COMMITS_MAX = 983_040, 1 << 22, 1 << 12
COMMIT_OPS_MAX, ROW_FIELDS_MAX, REPLICAS_MAX, RANGES_MAX, HEADS_MAX = 1 << 16, 4096, 1024, 64, 1024
TABLE_BYTES_MAX, ROW_KEY_BYTES_MAX, FIELD_BYTES_MAX, DEVICE_NAME_BYTES_MAX = 128, 512, 128, 64
REASON_BYTES_MAX = 256
RECORD_ADDRESSES_MAX, RECORD_ADDRESS_BYTES_MAX, RECORD_BYTES_MAX, RECORDS_MAX = 16, 256, 5120, 256
VALUE_DEPTH_MAX, STAMP_MS_MAX, SEQ_MAX = 32, 70_368_744_177_663, (1 << 63) - 1
U64 = (1 << 64) - 1


class Refused(Exception):
    """Input that must be refused, and as what (section 9)."""

    def __init__(self, why, kind="malformed"):
        super().__init__(why)
        self.kind = kind


def need(condition, why, kind="malformed"):
    if not condition:
        raise Refused(why, kind)


# ----- section 2: primitives

def put_varint(value):
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out) + bytes([value])


def put_zigzag(value):
    return put_varint((value << 1 ^ value >> 63) & U64)


def put_bytes(data):
    return put_varint(len(data)) + data


def put_list(items):
    return put_varint(len(items)) + b"".join(items)


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def left(self):
        return len(self.data) - self.at

    def raw(self, length):
        need(length <= self.left(), "cut short")
        self.at += length
        return self.data[self.at - length:self.at]

    def u8(self):
        return self.raw(1)[0]

    def be(self, length):
        return int.from_bytes(self.raw(length), "big")

    def varint(self, bits=64):
        value, shift = 0, 0
        while True:
            byte = self.u8()
            value |= (byte & 0x7F) << shift
            need(value < 1 << bits and shift < 64, "an integer too large")
            shift += 7
            if byte < 0x80:
                need(byte or shift == 7, "an integer longer than needed")
                return value

    def zigzag(self):
        value = self.varint()
        return value >> 1 ^ -(value & 1)

    def flag(self):
        value = self.u8()
        need(value < 2, "neither 0 nor 1")
        return value == 1

    def count(self, maximum):
        count = self.varint()
        need(count <= maximum, "a list too long")
        need(count <= self.left(), "a list longer than the input")
        return count

    def bytes(self, maximum=U64):
        length = self.varint()
        need(length <= maximum, "too long")
        return self.raw(length)

    def text(self, maximum=U64):
        return utf8(self.bytes(maximum))

    def end(self):
        need(self.left() == 0, "bytes left over")


def utf8(data):
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise Refused("not UTF-8") from None


def ascending(items, what):
    need(all(a < b for a, b in zip(items, items[1:])), what + " do not ascend")


def has_control(text):
    return any(unicodedata.category(c) == "Cc" for c in text)


def name(reader, maximum, control=False):
    """A checked name, as bytes, so that it compares as the document says."""
    text = reader.text(maximum)
    need(text and (control or not has_control(text)), "a bad name")
    return text.encode()


# ----- section 3: identities

def device_of(key):
    device = bytearray(blake3(b"ahenk device 1" + key)[:16])
    device[6] = device[6] & 0x0F | 0x80
    device[8] = device[8] & 0x3F | 0x80
    return bytes(device)


def replica(reader):
    return reader.raw(16), reader.be(8)


def put_replica(of):
    return of[0] + of[1].to_bytes(8, "big")


def check_cert(cert, account):
    need(cert["account"] == account, "a certificate of another account")
    text = cert["name"]
    size = len(text.encode())
    need(text.strip() and size <= DEVICE_NAME_BYTES_MAX and not has_control(text), "a bad device name")
    message = b"ahenk device certificate 1" + account + cert["key"] + cert["issued_ms"].to_bytes(8, "big")
    message += bytes([cert["admin"]]) + text.encode()
    need(ed25519_verify(account, message, cert["sig"]), "a certificate that is not signed")


# ----- section 5: values. Here a value is (name of its kind, content).

def read_value(reader, left=VALUE_DEPTH_MAX):
    tag = reader.u8()
    need(tag <= 8, "an unknown tag")
    need(tag < 7 or left > 0, "nested too deep")
    if tag == 0:
        return ("null",)
    if tag < 3:
        return ("bool", tag == 2)
    if tag == 3:
        return ("int", reader.zigzag())
    if tag == 4:
        return ("float", reader.raw(8)[::-1])
    if tag == 5:
        return ("text", reader.text())
    if tag == 6:
        return ("bytes", reader.bytes())
    count = reader.count(U64)
    if tag == 7:
        return ("list", [read_value(reader, left - 1) for _ in range(count)])
    entries = [(reader.text().encode(), read_value(reader, left - 1)) for _ in range(count)]
    ascending([key for key, _ in entries], "map keys")
    return ("map", entries)


def tag_of(value):
    if value[0] == "bool":
        return 2 if value[1] else 1
    return ["null", "", "", "int", "float", "text", "bytes", "list", "map"].index(value[0])


def put_value(value):
    kind, tag = value[0], bytes([tag_of(value)])
    if kind == "int":
        return tag + put_zigzag(value[1])
    if kind == "float":
        return tag + value[1][::-1]
    if kind == "text":
        return tag + put_bytes(value[1].encode())
    if kind == "bytes":
        return tag + put_bytes(value[1])
    if kind == "list":
        return tag + put_list([put_value(item) for item in value[1]])
    if kind == "map":
        return tag + put_list([put_bytes(key) + put_value(item) for key, item in value[1]])
    return tag


# ----- section 6: commits

KINDS = ["put", "update", "delete", "replace"]


def read_cert(reader, account):
    cert = {"account": account, "key": reader.raw(32), "issued_ms": reader.varint(), "admin": reader.flag()}
    cert["name"] = reader.text(DEVICE_NAME_BYTES_MAX)
    cert["sig"] = reader.raw(64)
    check_cert(cert, account)
    return cert


def read_introduction(reader, account):
    return read_cert(reader, account) if reader.flag() else None


def put_introduction(cert):
    return b"\0" if cert is None else b"\1" + put_cert(cert)


def read_fence(reader):
    seq = reader.varint()
    need(0 < seq <= SEQ_MAX, "a bad fence")
    return seq, reader.raw(32), reader.raw(64)


def put_fence(fence):
    return put_varint(fence[0]) + fence[1] + fence[2]


def read_statement(reader, account):
    kind = reader.u8()
    if kind == 1:
        return {"kind": "certify", "cert": read_cert(reader, account)}
    if kind == 2:
        said = {"kind": "revoke", "device": reader.raw(16), "issued_ms": reader.varint()}
        said["reason"] = reader.text(REASON_BYTES_MAX)
        need(not any(unicodedata.category(c) == "Cc" for c in said["reason"]), "a reason of more than a line")
        said["fences"] = [(reader.be(8), read_fence(reader)) for _ in range(reader.count(REPLICAS_MAX))]
        ascending([of for of, _ in said["fences"]], "fences")
        return said
    need(kind == 3, "an unknown statement")
    said = {"kind": "fork", "author": read_cert(reader, account), "incarnation": reader.be(8)}
    said["seq"] = reader.varint()
    need(said["seq"] <= SEQ_MAX, "a bad end")
    said["end"] = reader.raw(32) if said["seq"] else bytes(32)
    said["branches"] = []
    for _ in range(2):
        contents = [reader.raw(32) for _ in range(reader.count(RUN_COMMITS_MAX))]
        said["branches"].append((contents, reader.raw(64)))
    return said


def put_statement(said):
    if said["kind"] == "certify":
        return b"\1" + put_cert(said["cert"])
    if said["kind"] == "revoke":
        fences = [of.to_bytes(8, "big") + put_fence(fence) for of, fence in said["fences"]]
        start = b"\2" + said["device"] + put_varint(said["issued_ms"]) + put_bytes(said["reason"].encode())
        return start + put_list(fences)
    out = b"\3" + put_cert(said["author"]) + said["incarnation"].to_bytes(8, "big")
    out += put_varint(said["seq"]) + (said["end"] if said["seq"] else b"")
    for contents, sig in said["branches"]:
        out += put_list(contents) + sig
    return out


def fork_holds(said, account):
    check_cert(said["author"], account)
    author, (one, other) = said["author"]["key"], said["branches"]
    of = (device_of(author), said["incarnation"])
    signed = b"ahenk signed commit 1" + account
    if not one[0] or not other[0] or one[0][0] >= other[0][0]:
        return False
    for contents, sig in said["branches"]:
        number, digest = said["seq"], said["end"]
        for content in contents:
            number += 1
            digest = link(of, number, digest, content)
        if span(said["seq"] + 1) != span(number) or not ed25519_verify(author, signed + digest, sig):
            return False
    return True


def put_cert(cert):
    start = cert["key"] + put_varint(cert["issued_ms"]) + bytes([cert["admin"]])
    return start + put_bytes(cert["name"].encode()) + cert["sig"]


def read_op(reader):
    kind = reader.u8()
    need(kind < 4, "an unknown kind of operation")
    table, row = name(reader, TABLE_BYTES_MAX), name(reader, ROW_KEY_BYTES_MAX, control=True)
    count = reader.count(ROW_FIELDS_MAX)
    fields = [(name(reader, FIELD_BYTES_MAX), read_value(reader)) for _ in range(count)]
    return {"kind": KINDS[kind], "table": table, "row": row, "fields": fields}


def read_commit(data, account):
    need(len(data) <= COMMIT_BYTES_MAX, "a commit too long")
    reader = Reader(data)
    commit = {"replica": replica(reader), "seq": reader.varint(), "prev": reader.raw(32)}
    commit["stamp"] = reader.be(8)
    commit["deps"] = [(replica(reader), reader.varint()) for _ in range(reader.count(REPLICAS_MAX))]
    beginning = reader.u8()
    need(beginning < 3, "an unknown beginning of a commit")
    commit["introduces"] = read_cert(reader, account) if beginning == 1 else None
    commit["statement"] = read_statement(reader, account) if beginning == 2 else None
    commit["ops"] = [read_op(reader) for _ in range(reader.count(COMMIT_OPS_MAX))]
    reader.end()
    check_commit(commit)
    of_account = commit["replica"][0] == device_of(account)
    need(of_account == (commit["statement"] is not None), "a commit in the account's name")
    return commit


def check_commit(commit):
    seq, cert, deps = commit["seq"], commit["introduces"], commit["deps"]
    need(1 <= seq <= SEQ_MAX, "a bad number")
    if commit["statement"]:
        need(seq == 1 and not cert and commit["prev"] == bytes(32) and not deps, "a bad statement")
        need(not commit["ops"], "a statement with operations")
        bare = put_commit(commit | {"replica": (commit["replica"][0], 0)})
        digest = blake3(b"ahenk statement 1" + bare)
        need(commit["replica"][1] == int.from_bytes(digest[:8], "big"), "a bad name of a statement")
        need(commit["stamp"] and commit["stamp"] >> 16 <= STAMP_MS_MAX, "a bad stamp")
        return
    need((seq == 1) == (cert is not None) == (commit["prev"] == bytes(32)), "a bad start of a log")
    need(cert is None or device_of(cert["key"]) == commit["replica"][0], "another's certificate")
    need(commit["stamp"] and commit["stamp"] >> 16 <= STAMP_MS_MAX, "a bad stamp")
    ascending([of for of, _ in deps], "dependencies")
    need(all(of != commit["replica"] and number for of, number in deps), "a bad dependency")
    ascending([(op["table"], op["row"]) for op in commit["ops"]], "operations")
    for op in commit["ops"]:
        ascending([field for field, _ in op["fields"]], "fields")
        need(op["kind"] != "delete" or not op["fields"], "a delete with fields")


def put_commit(commit):
    out = put_replica(commit["replica"]) + put_varint(commit["seq"]) + commit["prev"]
    out += commit["stamp"].to_bytes(8, "big")
    out += put_list([put_replica(of) + put_varint(number) for of, number in commit["deps"]])
    if commit["statement"]:
        out += b"\2" + put_statement(commit["statement"])
    else:
        out += put_introduction(commit["introduces"])
    ops = []
    for op in commit["ops"]:
        fields = [put_bytes(field) + put_value(value) for field, value in op["fields"]]
        start = bytes([KINDS.index(op["kind"])]) + put_bytes(op["table"]) + put_bytes(op["row"])
        ops.append(start + put_list(fields))
    return out + put_list(ops)


def content_of(data):
    reader = Reader(data)
    replica(reader), reader.varint(), reader.raw(32)
    return blake3(b"ahenk content 2" + reader.raw(reader.left()))


def link(of, seq, prev, content):
    return blake3(b"ahenk commit 2" + put_replica(of) + seq.to_bytes(8, "big") + prev + content)


def hash_commit(data):
    reader = Reader(data)
    of, seq, prev = replica(reader), reader.varint(), reader.raw(32)
    return link(of, seq, prev, content_of(data))


def span(seq):
    return (seq - 1) // RUN_COMMITS_MAX


# ----- section 7: rows

class Row:
    """Registers of write stamps: tuples of stamp, replica, number; `()` is below them all."""

    def __init__(self):
        self.ins, self.deleted, self.fields = (), (), {}

    def apply(self, stamp, op):
        if op["kind"] in ("delete", "replace"):
            self.deleted = max(self.deleted, stamp)
        if op["kind"] in ("put", "replace"):
            self.ins = max(self.ins, stamp)
        for field, value in op["fields"]:
            if self.fields.get(field, ((), None))[0] < stamp:
                self.fields[field] = (stamp, value)
        if self.ins < self.deleted:
            self.ins = ()
        self.fields = {f: cell for f, cell in self.fields.items() if cell[0] >= self.deleted}

    def encode(self):
        out = bytes([bool(self.ins) + 2 * bool(self.deleted)])
        out += b"".join(put_stamp(stamp) for stamp in (self.ins, self.deleted) if stamp)
        cells = sorted(self.fields.items())
        return out + put_list([put_bytes(f) + put_stamp(stamp) + put_value(v) for f, (stamp, v) in cells])

    def digest(self, start):
        marks = [(0, self.ins), (1, self.deleted)]
        parts = [bytes([kind]) + put_stamp(stamp) for kind, stamp in marks if stamp]
        for field, (stamp, value) in self.fields.items():
            parts.append(b"\2" + put_bytes(field) + put_stamp(stamp) + put_value(value))
        return sum(int.from_bytes(siphash(b"ahenk row part 3", start + part), "little") for part in parts) & (1 << 128) - 1


def put_stamp(stamp):
    return stamp[0].to_bytes(8, "big") + put_replica(stamp[1]) + put_varint(stamp[2])


# ----- section 8: knowledge, as a list of (replica, list of (first, last))

def check_knowledge(knowledge):
    need(len(knowledge) <= REPLICAS_MAX, "too many replicas")
    ascending([of for of, _ in knowledge], "replicas")
    for _, ranges in knowledge:
        need(1 <= len(ranges) <= RANGES_MAX, "a bad number of ranges")
        need(all(1 <= first <= last <= SEQ_MAX for first, last in ranges), "a bad range")
        need(all(a[1] + 1 < b[0] for a, b in zip(ranges, ranges[1:])), "ranges that are not apart")


def knowledge_digest(knowledge):
    out = b"ahenk knowledge 1"
    for of, ranges in knowledge:
        out += put_replica(of) + struct.pack(">Q", len(ranges))
        out += b"".join(struct.pack(">QQ", first, last) for first, last in ranges)
    return blake3(out)[:16]


# ----- section 9: frames

def crc(start, body):
    return struct.pack("<I", zlib.crc32(start + body))


def unpack(frame):
    """The sender's session number, whether deflated, and the payload."""
    need(len(frame) <= FRAME_BYTES_MAX, "a frame too long", "too large")
    need(len(frame) >= 11, "a frame too short", "damaged")
    need(frame[2:6] == crc(frame[:2], frame[6:]), "a wrong checksum", "damaged")
    need(frame[0] == 4, "another major version", "version")
    need(frame[1] in (0, 1), "unknown flags")
    reader = Reader(frame[6:])
    session = reader.be(4)
    if not frame[1]:
        payload = reader.raw(reader.left())
    else:
        length = reader.varint()
        need(length <= INFLATED_BYTES_MAX, "too long when inflated", "too large")
        try:
            inflater = zlib.decompressobj(-15)
            payload = inflater.decompress(reader.raw(reader.left()), length + 1)
        except zlib.error:
            raise Refused("a bad DEFLATE stream", "inflate") from None
        need(inflater.eof and len(payload) == length, "not the stated length", "inflate")
    need(payload, "no payload")
    longest = max(len(frame), len(payload))
    need(payload[0] == 4 or longest <= CONTROL_BYTES_MAX, "a control message too long", "too large")
    return session, frame[1] == 1, payload


def pack(session, payload):
    body = struct.pack(">I", session) + payload
    return b"\4\0" + crc(b"\4\0", body) + body


# ----- section 10: messages. Each type reads and writes one field.

class Type:
    def __init__(self, read, put):
        self.read, self.put = read, put


def fixed(length):
    return Type(lambda r: r.raw(length), lambda v: v)


def number(bits):
    return Type(lambda r: r.varint(bits), put_varint)


def listing(of, maximum=U64):
    return Type(
        lambda r: [of.read(r) for _ in range(r.count(maximum))], lambda v: put_list([of.put(x) for x in v])
    )


def pair(a, b):
    return Type(lambda r: (a.read(r), b.read(r)), lambda v: a.put(v[0]) + b.put(v[1]))


def triple(a, b, c):
    return Type(lambda r: (a.read(r), b.read(r), c.read(r)), lambda v: a.put(v[0]) + b.put(v[1]) + c.put(v[2]))


def optional(of):
    return Type(
        lambda r: of.read(r) if r.flag() else None, lambda v: b"\0" if v is None else b"\1" + of.put(v)
    )


def struct_of(**fields):
    return Type(
        lambda r: {f: of.read(r) for f, of in fields.items()},
        lambda v: b"".join(of.put(v[f]) for f, of in fields.items()),
    )


def checked(of, check):
    def read(reader):
        value = of.read(reader)
        check(value)
        return value
    return Type(read, of.put)


def read_device(reader):
    device = reader.bytes()
    need(len(device) == 16, "a bad device id")
    return device


def check_heads(heads):
    need(all(seq <= SEQ_MAX for _, seq in heads), "a bad head")


U32, U64_, FLAG = number(32), number(64), Type(lambda r: r.flag(), lambda v: bytes([v]))
TEXT = Type(lambda r: r.text(), lambda v: put_bytes(v.encode()))
BYTES = Type(lambda r: r.bytes(), put_bytes)
REPLICA = pair(Type(read_device, put_bytes), U64_)
HEADS = checked(listing(pair(REPLICA, U64_), HEADS_MAX), check_heads)
KNOWLEDGE = checked(listing(pair(REPLICA, listing(pair(U64_, U64_)))), check_knowledge)
CERT = struct_of(account=fixed(32), key=fixed(32), name=TEXT, issued_ms=U64_, admin=FLAG, sig=fixed(64))
FAULT = checked(U32, lambda fault: need(fault < 9, "an unknown fault"))
PLACE = optional(pair(TEXT, TEXT))
ROW_DIGEST = triple(TEXT, TEXT, fixed(16))
TIME = struct_of(nonce=U32, wall_ms=U64_)
CONTROL = {
    1: struct_of(minor=number(16), features=U64_, cert=CERT, replica=REPLICA, echo=U32, digest=fixed(16),
                 heads_digest=fixed(16)),
    2: struct_of(state=fixed(16), knowledge=KNOWLEDGE, reply=FLAG, tags=listing(fixed(8))),
    3: struct_of(id=U32, ranges=KNOWLEDGE, credit=U64_),
    5: struct_of(want=U32, credit=U64_, pushed=U64_, heads=HEADS),
    6: struct_of(heads=HEADS, tags=listing(fixed(8))),
    7: TIME,
    8: TIME,
    9: struct_of(fault=FAULT, text=TEXT),
    10: struct_of(text=TEXT),
    11: struct_of(key=fixed(32)),
    12: struct_of(digest=fixed(16), reply=FLAG),
    32: struct_of(id=U32, after=PLACE, detail=FLAG),
    33: struct_of(id=U32, digest=fixed(16), upto=PLACE, state=fixed(16), rows=listing(ROW_DIGEST)),
}


def read_message(frame, account):
    """The session number, the kind and the body; `None` for a kind that is to be skipped."""
    session, _, payload = unpack(frame)
    reader = Reader(payload[1:])
    if payload[0] == 4:
        return session, 4, read_ops(reader, account)
    if payload[0] not in CONTROL:
        return session, payload[0], None
    return session, payload[0], CONTROL[payload[0]].read(reader)


def read_ops(reader, account):
    ops = {"want": reader.varint(32), "offset": reader.varint(), "done": reader.flag(), "runs": []}
    for _ in range(reader.count(RUN_COMMITS_MAX)):
        form = reader.u8()
        need(form < 2, "an unknown form of a run")
        run = {"by_columns": form == 1, "commits": Head(reader, account) if form else read_rows(reader, account)}
        ops["runs"].append(run | {"sig": reader.raw(64)})
    heads = [run for run in ops["runs"] if run["by_columns"]]
    if heads:
        columns = Columns(reader)
        for run in heads:
            run["commits"] = columns.run(run["commits"])
        columns.end()
    for run in ops["runs"]:
        check_run(run["commits"])
    total = sum(len(put_commit(commit)) for run in ops["runs"] for commit in run["commits"])
    need(total <= RUNS_BYTES_MAX, "runs too long together")
    return ops


# ----- section 11: runs

def check_run(commits):
    need(commits, "a run without commits")
    for before, after in zip(commits, commits[1:]):
        need(before["replica"] == after["replica"] and before["seq"] + 1 == after["seq"], "a gap")
        need(after["prev"] == hash_commit(put_commit(before)), "a broken chain")
    need(span(commits[0]["seq"]) == span(commits[-1]["seq"]), "a run beyond the end of a span")


class Head:
    """What stands in front of a run's columns."""

    def __init__(self, reader, account):
        self.count = reader.count(RUN_COMMITS_MAX)
        self.replica, self.seq = replica(reader), reader.varint()
        self.cert = read_introduction(reader, account) if self.seq == 1 else None
        self.prev = bytes(32) if self.seq == 1 else reader.raw(32)


def read_rows(reader, account):
    count = reader.count(RUN_COMMITS_MAX)
    return [read_commit(reader.bytes(COMMIT_BYTES_MAX), account) for _ in range(count)]


def read_places(reader, length):
    places, following = [], 0
    for _ in range(reader.count(U64)):
        places.append(following + reader.varint())
        need(places[-1] < length, "a place that is not there")
        following = places[-1] + 1
    return places


class Columns:
    """The columns of a frame's runs."""

    def __init__(self, reader):
        self.replicas = [replica(reader) for _ in range(reader.count(U64))]
        self.tables = [name(reader, TABLE_BYTES_MAX) for _ in range(reader.count(U64))]
        self.names = [name(reader, FIELD_BYTES_MAX) for _ in range(reader.count(U64))]
        for dictionary in (self.replicas, self.tables, self.names):
            ascending(dictionary, "entries of a dictionary")
        self.shapes = [self.read_shape(reader) for _ in range(reader.count(U64))]
        self.columns = {}
        for column in ("ms", "counter", "deps", "ops", "shape", "row", "shared", "rest", "keys"):
            self.columns[column] = Reader(reader.bytes())
        self.values = [[Reader(reader.bytes()) for _ in range(4)] for _ in self.names]
        self.ints, self.strings = [0] * len(self.names), [b""] * len(self.names)
        self.stamp, self.last_deps, self.rows = 0, [0] * len(self.replicas), []

    def run(self, head):
        self.replica, seq, prev, cert = head.replica, head.seq, head.prev, head.cert
        run = []
        for _ in range(head.count):
            run.append(self.commit(seq, prev, cert))
            prev, seq, cert = hash_commit(put_commit(run[-1])), seq + 1, None
        return run

    def end(self):
        for column in [*self.columns.values(), *(c for four in self.values for c in four)]:
            column.end()

    def read_shape(self, reader):
        kind, table = reader.u8(), reader.varint()
        need(kind < 4 and table < len(self.tables), "a bad shape")
        places = read_places(reader, len(self.names))
        need(len(places) <= ROW_FIELDS_MAX, "too many fields")
        return KINDS[kind], self.tables[table], places

    def commit(self, seq, prev, cert):
        column = self.columns
        ms = (self.stamp >> 16) + column["ms"].zigzag() & U64
        expected = (self.stamp & 0xFFFF) + 1 if ms == self.stamp >> 16 else 0
        counter = expected + column["counter"].zigzag()
        need(ms < 1 << 48 and 0 <= counter <= 0xFFFF, "a bad stamp")
        self.stamp = ms << 16 | counter
        deps = []
        for place in read_places(column["deps"], len(self.replicas)):
            self.last_deps[place] = self.last_deps[place] + column["deps"].zigzag() & U64
            deps.append((self.replicas[place], self.last_deps[place]))
        commit = {"replica": self.replica, "seq": seq, "prev": prev, "stamp": self.stamp, "deps": deps}
        commit["introduces"], commit["statement"] = cert, None
        ops = column["ops"].varint()
        need(ops <= COMMIT_OPS_MAX, "too many operations")
        commit["ops"] = [self.op() for _ in range(ops)]
        check_commit(commit)
        need(len(put_commit(commit)) <= COMMIT_BYTES_MAX, "a commit too long")
        return commit

    def op(self):
        shape = self.columns["shape"].varint()
        need(shape < len(self.shapes), "a shape that is not there")
        kind, table, places = self.shapes[shape]
        row = self.row()
        fields = [(self.names[place], self.value(place)) for place in places]
        return {"kind": kind, "table": table, "row": row, "fields": fields}

    def row(self):
        column = self.columns
        back = column["row"].varint()
        need(back <= len(self.rows), "a row key that is not there")
        if back:
            return self.rows[-back]
        last = self.rows[-1] if self.rows else b""
        shared, rest = column["shared"].varint(), column["rest"].varint()
        need(shared <= len(last) and shared + rest <= ROW_KEY_BYTES_MAX, "a bad row key")
        key = last[:shared] + column["keys"].raw(rest)
        need(key, "an empty row key")
        utf8(key)
        self.rows.append(key)
        return key

    def value(self, place):
        tags, numbers, _, contents = self.values[place]
        tag = tags.u8()
        need(tag <= 8, "an unknown tag")
        if tag == 0:
            return ("null",)
        if tag < 3:
            return ("bool", tag == 2)
        if tag == 3:
            value = self.ints[place] + numbers.zigzag() & U64
            self.ints[place] = value - (1 << 64) if value >> 63 else value
            return ("int", self.ints[place])
        if tag == 4:
            return ("float", contents.raw(8)[::-1])
        if tag == 5:
            return ("text", utf8(self.string(place)))
        if tag == 6:
            return ("bytes", self.string(place))
        value = read_value(contents)
        need(tag_of(value) == tag, "another tag than stated")
        return value

    def string(self, place):
        _, numbers, shares, contents = self.values[place]
        rest, shared, last = numbers.varint(), shares.varint(), self.strings[place]
        need(shared <= len(last), "a bad share")
        self.strings[place] = last[:shared] + contents.raw(rest)
        return self.strings[place]


# ----- section 14: pairing

def derive(context, material, length=32):
    context_key = blake3(context.encode(), flags=DERIVE_KEY_CONTEXT)
    return blake3(material, key=context_key, flags=DERIVE_KEY_MATERIAL, length=length)


PAIRING = {
    0: struct_of(nameplate=Type(lambda r: r.u8(), lambda v: bytes([v])), share=fixed(32)),
    1: struct_of(share=fixed(32), confirm=fixed(32)),
    2: struct_of(confirm=fixed(32), sealed=BYTES),
    3: struct_of(sealed=BYTES),
    4: struct_of(reason=checked(U32, lambda reason: need(reason < 7, "an unknown reason"))),
}
GRANTED = struct_of(
    account=fixed(32), cert=CERT, inviter=CERT, others=listing(CERT), addresses=listing(TEXT),
    root=optional(fixed(32)),
)
M = bytes.fromhex("15cfd18e385952982b6a8f8c7854963b58e34388c8e6dae891db756481a02312")
N = bytes.fromhex("f04f2e7eb734b2a8f8b472eaf9c3c632576ac64aea650b496a8a20ff00e583c3")


def read_pairing(data):
    need(len(data) <= 16_384, "a message too long")
    reader = Reader(data)
    need(reader.u8() == 1, "another version", "version")
    kind = reader.varint(32)
    need(kind in PAIRING, "an unknown message")
    message = PAIRING[kind].read(reader)
    reader.end()
    return kind, message


def hkdf_sha256(material, info, length):
    key, out, block, n = hmac.digest(bytes(32), material, "sha256"), b"", b"", 1
    while len(out) < length:
        block = hmac.digest(key, block + info + bytes([n]), "sha256")
        out, n = out + block, n + 1
    return out[:length]


class Spake2:
    """Both sides of the exchange, from their seeds."""

    def __init__(self, vector):
        code, joiner, inviter = (vector["code"].encode(), unhex(vector["joiner"]), unhex(vector["inviter"]))
        w = int.from_bytes(hkdf_sha256(code, b"SPAKE2 pw", 48), "big") % ORDER
        seed = derive("ahenk pairing session seed 1", unhex(vector["offer_seed"]) + (1).to_bytes(8, "little"))
        x, y = self.scalar(unhex(vector["joiner_seed"])), self.scalar(seed)
        m, n = multiply(w, decompress(M)), multiply(w, decompress(N))
        self.x_share = compress(add(multiply(x, BASE), m))
        self.y_share = compress(add(multiply(y, BASE), n))
        key = compress(multiply(x, add(decompress(self.y_share), negate(n))))
        assert key == compress(multiply(y, add(decompress(self.x_share), negate(m))))
        sides = b"".join(hashlib.sha256(s).digest() for s in (code, b"joiner " + joiner, b"inviter " + inviter))
        self.secret = hashlib.sha256(sides + self.x_share + self.y_share + key).digest()
        start = bytes([1, vector["nameplate"]]) + joiner + inviter
        self.transcript = derive("ahenk pairing transcript 1", start + self.x_share + self.y_share)

    @staticmethod
    def scalar(seed):
        return int.from_bytes(derive("ahenk pairing random 1", seed, 64), "little") % ORDER

    def key(self, purpose):
        return derive(purpose, self.secret + self.transcript)

    def confirm(self, role):
        return blake3(self.transcript, key=self.key(f"ahenk pairing confirm {role} 1"), flags=KEYED_HASH)

    def seal(self, role, plain):
        key = self.key(f"ahenk pairing seal {role} 1")
        return chacha20_poly1305(key, bytes(12), plain, self.transcript)


def fingerprint(key):
    bits = int.from_bytes(derive("ahenk pairing fingerprint 1", key)[:10], "big")
    digits = ["0123456789abcdefghjkmnpqrstvwxyz"[bits >> shift & 31] for shift in range(75, -1, -5)]
    return "-".join("".join(digits[at:at + 4]) for at in range(0, 16, 4))


# ----- the checks. What vectors.json says is turned into the forms above.

def unhex(text):
    return bytes.fromhex(text)


def value_of(v):
    kind, content = v[0], v[1:]
    if kind == "int":
        return ("int", int(content[0]))
    if kind in ("float", "bytes"):
        return (kind, unhex(content[0]))
    if kind == "list":
        return ("list", [value_of(item) for item in content[0]])
    if kind == "map":
        return ("map", [(key.encode(), value_of(item)) for key, item in content[0]])
    return tuple(v)


def replica_of(v):
    return unhex(v["device"]), int(v["incarnation"])


def cert_of(v):
    cert = {key: unhex(v[key]) for key in ("account", "key", "sig")}
    return cert | {"name": v["name"], "issued_ms": int(v["issued_ms"]), "admin": v["admin"]}


def heads_of(v):
    return [(replica_of(of), int(number)) for of, number in v]


def knowledge_of(v):
    return [(replica_of(of), [(int(first), int(last)) for first, last in ranges]) for of, ranges in v]


def statement_of(v):
    def fence_of(fence):
        return int(fence[0]), unhex(fence[1]), unhex(fence[2])

    if v["kind"] == "certify":
        return v | {"cert": cert_of(v["cert"])}
    if v["kind"] == "revoke":
        fences = [(int(of), fence_of(fence)) for of, fence in v["fences"]]
        return v | {"device": unhex(v["device"]), "issued_ms": int(v["issued_ms"]), "fences": fences}
    branches = [([unhex(content) for content in contents], unhex(sig)) for contents, sig in v["branches"]]
    start = {"author": cert_of(v["author"]), "incarnation": int(v["incarnation"])}
    return v | start | {"seq": int(v["seq"]), "end": unhex(v["end"]), "branches": branches}


def commit_of(v):
    ops = []
    for op in v["ops"]:
        fields = [(field.encode(), value_of(value)) for field, value in op["fields"]]
        ops.append(op | {"table": op["table"].encode(), "row": op["row"].encode(), "fields": fields})
    return {
        "replica": replica_of(v["replica"]),
        "seq": int(v["seq"]),
        "prev": unhex(v["prev"]),
        "stamp": int(v["ms"]) << 16 | v["counter"],
        "deps": heads_of(v["deps"]),
        "introduces": v["introduces"] and cert_of(v["introduces"]),
        "statement": v["statement"] and statement_of(v["statement"]),
        "ops": ops,
    }


FIELDS = {
    "cert": cert_of, "replica": replica_of, "knowledge": lambda v: v and knowledge_of(v),
    "key": unhex, "ranges": knowledge_of, "heads": heads_of, "digest": unhex, "state": unhex,
    "heads_digest": unhex, "tags": lambda v: [unhex(tag) for tag in v],
    "after": lambda v: v and tuple(v), "upto": lambda v: v and tuple(v),
    "rows": lambda v: [(table, row, unhex(digest)) for table, row, digest in v],
    "features": int, "credit": int, "pushed": int, "wall_ms": int,
}


def equal(found, expected, what):
    if found != expected:
        raise AssertionError(f"{what}:\n  found    {found}\n  expected {expected}")


def pairs(found, expected):
    equal(len(found), len(expected), "how many there are")
    return zip(found, expected)


def refuses(read, what, kind=None):
    try:
        read()
    except Refused as refused:
        if kind is not None:
            equal(refused.kind, kind, f"{what} ({refused})")
        return
    raise AssertionError(f"{what}: was not refused")


def whole(read, data):
    reader = Reader(data)
    value = read(reader)
    reader.end()
    return value


def check_primitives(vectors):
    for v in vectors["varints"]:
        equal(put_varint(int(v["value"])), unhex(v["bytes"]), v)
        equal(whole(Reader.varint, unhex(v["bytes"])), int(v["value"]), v)
    for v in vectors["varints_refused"]:
        refuses(lambda: whole(Reader.varint, unhex(v["bytes"])), v)
    for v in vectors["zigzag"]:
        equal(put_zigzag(int(v["value"])), unhex(v["bytes"]), v)
        equal(whole(Reader.zigzag, unhex(v["bytes"])), int(v["value"]), v)
    for v in vectors["values"]:
        equal(put_value(value_of(v["value"])), unhex(v["bytes"]), v)
        equal(whole(read_value, unhex(v["bytes"])), value_of(v["value"]), v)
    for v in vectors["values_refused"]:
        refuses(lambda: whole(read_value, unhex(v["bytes"])), v)


def check_identities(vectors):
    for v in vectors["devices"]:
        equal(ed25519_public(unhex(v["secret"])), unhex(v["key"]), v)
        equal(device_of(unhex(v["key"])), unhex(v["device"]), v)
        equal(v["uuid"].replace("-", ""), v["device"], v)
    cert = cert_of(vectors["certificate"]["cert"])
    equal(ed25519_public(unhex(vectors["certificate"]["root_secret"])), cert["account"], "the account")
    check_cert(cert, cert["account"])
    for change in ({"admin": not cert["admin"]}, {"name": "other"}, {"issued_ms": 1}, {"name": " "}):
        refuses(lambda: check_cert(cert | change, cert["account"]), f"a certificate with {change}")
    equal(cert["account"] + put_cert(cert), unhex(vectors["certificate"]["shown"]), "what a relay is shown")
    return cert["account"]


def check_signature(account, author, digest, sig):
    message = b"ahenk signed commit 1" + account + digest
    assert ed25519_verify(author, message, sig), "a commit's signature does not verify"
    assert not ed25519_verify(author, message + b"x", sig), "a signature of something else verifies"


def check_commits(vectors, account):
    commits = []
    for v in vectors["commits"]:
        commit, data, digest = commit_of(v["commit"]), unhex(v["bytes"]), unhex(v["hash"])
        equal(read_commit(data, account), commit, "a commit")
        equal(put_commit(commit), data, "a commit's canonical form")
        equal(content_of(data), unhex(v["content"]), "a content's hash")
        equal(hash_commit(data), digest, "a commit's hash")
        check_signature(account, unhex(v["author"]), digest, unhex(v["sig"]))
        equal(device_of(unhex(v["author"])), commit["replica"][0], "a commit's author")
        commits.append(commit)
    return commits


def check_statements(vectors, account):
    for v in vectors["statements"]:
        commit, data, digest = commit_of(v["commit"]), unhex(v["bytes"]), unhex(v["hash"])
        equal(read_commit(data, account), commit, "a statement")
        equal(put_commit(commit), data, "a statement's canonical form")
        equal(content_of(data), unhex(v["content"]), "a content's hash")
        equal(hash_commit(data), digest, "a statement's hash")
        said, sig = commit["statement"], unhex(v["sig"])
        if said["kind"] == "fork":
            equal(sig, bytes(64), "a proof's signature")
            assert fork_holds(said, account), "a proof of a fork does not hold"
            branches = said["branches"]
            longer = [(contents + contents, sig) for contents, sig in branches]
            others = [branches[:1] * 2, branches[::-1], longer, [([], sig) for _, sig in branches]]
            changes = [{"incarnation": 9}, {"seq": said["seq"] + 1}, {"end": bytes([9]) * 32}]
            for change in changes + [{"branches": other} for other in others]:
                assert not fork_holds(said | change, account), f"a proof holds with {change}"
        else:
            check_signature(account, account, digest, sig)
        refuses(lambda: read_commit(put_commit(commit | {"stamp": 77}), account), "a statement of another name")


def check_rows(vectors, commits):
    rows = {}
    for commit in reversed(commits):
        for op in commit["ops"]:
            stamp = (commit["stamp"], commit["replica"], commit["seq"])
            rows.setdefault((op["table"], op["row"]), Row()).apply(stamp, op)
    state = 0
    for (key, row), v in pairs(sorted(rows.items()), vectors["rows"]["rows"]):
        equal(key, (v["table"].encode(), v["row"].encode()), "a row's name")
        equal(row.encode(), unhex(v["bytes"]), f"row {key}")
        equal(bool(row.ins), v["visible"], f"whether row {key} is there")
        digest = row.digest(put_bytes(key[0]) + put_bytes(key[1]))
        equal(digest, int(v["digest"], 16), f"the digest of row {key}")
        state = state + digest & (1 << 128) - 1
    equal(state, int(vectors["rows"]["state"], 16), "the state digest")


def check_frames(vectors, account):
    for v in vectors["knowledge"]:
        equal(knowledge_digest(knowledge_of(v["knowledge"])), unhex(v["digest"]), "a digest of knowledge")
    for v in vectors["control"]:
        expected = {key: FIELDS.get(key, lambda v: v)(value) for key, value in v["message"].items()}
        session, kind, body = read_message(unhex(v["bytes"]), account)
        equal((session, kind, body), (v["session"], v["kind"], expected), v["name"])
        equal(pack(session, bytes([kind]) + CONTROL[kind].put(body)), unhex(v["bytes"]), v["name"])
        if kind == 2:
            whole = knowledge_digest(body["knowledge"]) + body["state"]
            of_the_have = blake3(b"ahenk summary 1" + whole)[:16]
        if kind == 12:
            equal(body["digest"], of_the_have, v["name"])
        if kind == 1:
            check_cert(body["cert"], account)
    for v in vectors["ops"]:
        frame = unhex(v["bytes"])
        equal(unpack(frame)[1], v["deflated"], v["name"] + ": deflated")
        _, kind, ops = read_message(frame, account)
        equal(kind, 4, v["name"])
        equal((ops["want"], ops["offset"], ops["done"]), (v["want"], int(v["offset"]), v["done"]), v["name"])
        for run, expected in pairs(ops["runs"], v["runs"]):
            equal(run["by_columns"], expected["by_columns"], v["name"] + ": by columns")
            equal([put_commit(c).hex() for c in run["commits"]], expected["commits"], v["name"])
            equal(run["sig"], unhex(expected["sig"]), v["name"])
            digest = hash_commit(put_commit(run["commits"][-1]))
            equal(digest, unhex(expected["hash"]), v["name"] + ": the hash")
            check_signature(account, unhex(expected["author"]), digest, run["sig"])
        equal(sum(len(put_commit(c)) for r in ops["runs"] for c in r["commits"]), ops["offset"], v["name"])
    for v in vectors["accepted"]:
        equal(read_message(unhex(v["bytes"]), account)[1], v["kind"], v["name"])
    for v in vectors["refused"]:
        refuses(lambda: read_message(unhex(v["bytes"]), account), v["name"], v["refusal"])


def check_pairing(vectors, account):
    v = vectors["pairing"]
    spake = Spake2(v)
    start = {"nameplate": v["nameplate"], "share": spake.x_share}
    reply = {"share": spake.y_share, "confirm": spake.confirm("inviter")}
    request = put_bytes(v["request"]["name"].encode())
    join = {"confirm": spake.confirm("joiner"), "sealed": spake.seal("joiner", request)}
    granted = {key: cert_of(v["granted"][key]) for key in ("cert", "inviter")}
    granted["others"] = [cert_of(cert) for cert in v["granted"]["others"]]
    for cert in (granted["cert"], granted["inviter"], *granted["others"]):
        check_cert(cert, account)
    granted |= {key: unhex(v["granted"][key]) for key in ("account", "root")}
    granted["addresses"] = v["granted"]["addresses"]
    grant = {"sealed": spake.seal("inviter", GRANTED.put(granted))}
    for kind, (step, message) in enumerate(zip(("start", "reply", "join", "grant"), (start, reply, join, grant))):
        equal(read_pairing(unhex(v[step])), (kind, message), f"pairing: {step}")
        equal(bytes([1, kind]) + PAIRING[kind].put(message), unhex(v[step]), f"pairing: {step}")
    for refusal in v["refusals"]:
        equal(read_pairing(unhex(refusal["answer"]))[0], 4, refusal["name"])
        if refusal["name"] != "no such offer":
            refuses(lambda: read_pairing(unhex(refusal["message"])), refusal["name"])
    equal(fingerprint(unhex(v["joiner"])), v["joiner_fingerprint"], "a fingerprint")
    equal(v["invitation"], v["code"] + "@" + ",".join(granted["addresses"]), "an invitation")


def read_record(reader):
    need(reader.u8() == 1, "another version")
    key, at_ms = reader.raw(32), reader.be(8)
    addresses = [reader.text(RECORD_ADDRESS_BYTES_MAX) for _ in range(reader.count(RECORD_ADDRESSES_MAX))]
    signed = b"ahenk addresses 1" + reader.data[:reader.at]
    need(ed25519_verify(key, signed, reader.raw(64)), "a forged record")
    return {"key": key, "at_ms": at_ms, "addresses": addresses}


def put_record(record, sig):
    addresses = put_list([put_bytes(address.encode()) for address in record["addresses"]])
    return b"\x01" + record["key"] + record["at_ms"].to_bytes(8, "big") + addresses + sig


def read_records(reader):
    return [reader.bytes(RECORD_BYTES_MAX) for _ in range(reader.count(RECORDS_MAX))]


def check_addresses(vectors):
    for v in vectors["records"]:
        data = unhex(v["bytes"])
        record = {"key": unhex(v["key"]), "at_ms": int(v["at_ms"]), "addresses": v["addresses"]}
        equal(whole(read_record, data), record, "a record")
        equal(put_record(record, data[-64:]), data, "a record's bytes")
    for v in vectors["messages"]:
        records = [unhex(record) for record in v["records"]]
        equal(whole(read_records, unhex(v["bytes"])), records, "a message of records")
        equal(put_list([put_bytes(record) for record in records]), unhex(v["bytes"]), "a message's bytes")
    for v in vectors["records_refused"]:
        refuses(lambda: whole(read_record, unhex(v["bytes"])), v["name"])
    for v in vectors["messages_refused"]:
        refuses(lambda: whole(read_records, unhex(v["bytes"])), v["name"])


def main():
    vectors = json.loads(Path(__file__).with_name("vectors.json").read_text(encoding="utf-8"))
    check_primitives(vectors)
    account = check_identities(vectors)
    commits = check_commits(vectors, account)
    check_statements(vectors, account)
    check_rows(vectors, commits)
    check_frames(vectors, account)
    check_pairing(vectors, account)
    check_addresses(vectors["addresses"])
    print("all vectors agree")


if __name__ == "__main__":
    sys.exit(main())
