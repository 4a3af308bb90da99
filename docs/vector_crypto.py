"""BLAKE3, SipHash, Ed25519 and ChaCha20-Poly1305 for check_vectors.py, since Python's standard library lacks them.

Short and slow, and not constant in time: for checking test vectors, never for secrets.
"""

import hashlib
import struct

# ----- BLAKE3 (its specification, section 2), one chunk after another

IV = [0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19]
PERMUTATION = [2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8]
CHUNK_START, CHUNK_END, PARENT, ROOT, KEYED_HASH = 1, 2, 4, 8, 16
DERIVE_KEY_CONTEXT, DERIVE_KEY_MATERIAL = 32, 64
U32_MASK = 0xFFFFFFFF
MIX = [(0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
       (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)]


def compress_block(chain, block, counter, length, flags):
    words = list(struct.unpack("<16I", block.ljust(64, b"\0")))
    s = [*chain, *IV[:4], counter & U32_MASK, counter >> 32, length, flags]
    for _ in range(7):
        for i, (a, b, c, d) in enumerate(MIX):
            for word, (turn_d, turn_b) in zip(words[2 * i:2 * i + 2], ((16, 12), (8, 7))):
                s[a] = s[a] + s[b] + word & U32_MASK
                x = s[d] ^ s[a]
                s[d] = (x >> turn_d | x << 32 - turn_d) & U32_MASK
                s[c] = s[c] + s[d] & U32_MASK
                x = s[b] ^ s[c]
                s[b] = (x >> turn_b | x << 32 - turn_b) & U32_MASK
        words = [words[i] for i in PERMUTATION]
    return [s[i] ^ s[i + 8] for i in range(8)] + [s[i + 8] ^ chain[i] for i in range(8)]


def blake3(data, key=None, flags=0, length=32):
    """At most 64 bytes of output."""
    start = list(struct.unpack("<8I", key)) if key else IV

    def node(data, counter):
        """What is to be compressed last for this subtree."""
        if len(data) <= 1024:
            blocks, chain = [data[i:i + 64] for i in range(0, len(data), 64)] or [b""], start
            for i, block in enumerate(blocks[:-1]):
                chain = compress_block(chain, block, counter, 64, flags | (CHUNK_START if i == 0 else 0))[:8]
            last = flags | CHUNK_END | (CHUNK_START if len(blocks) == 1 else 0)
            return chain, blocks[-1], counter, len(blocks[-1]), last
        left = 1024
        while left * 2 < len(data):
            left *= 2
        halves = node(data[:left], counter), node(data[left:], counter + left // 1024)
        block = b"".join(struct.pack("<8I", *compress_block(*half)[:8]) for half in halves)
        return start, block, 0, 64, flags | PARENT

    chain, block, _, size, last = node(data, 0)
    return struct.pack("<16I", *compress_block(chain, block, 0, size, last | ROOT))[:length]


# ----- SipHash-1-3 with 128 bits of output

def siphash(key, data):
    """The key has 16 bytes."""
    mask = (1 << 64) - 1
    k0, k1 = struct.unpack("<2Q", key)
    v = [k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D ^ 0xEE, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573]

    def rounds(count):
        for _ in range(count):
            for a, b, turn, c, d, other in ((0, 1, 13, 2, 3, 16), (2, 1, 17, 0, 3, 21)):
                for x, y, by in ((a, b, turn), (c, d, other)):
                    v[x] = v[x] + v[y] & mask
                    v[y] = (v[y] << by | v[y] >> 64 - by) & mask ^ v[x]
                v[a] = (v[a] << 32 | v[a] >> 32) & mask

    tail = len(data) % 8
    padded = data + bytes(7 - tail) + bytes([len(data) & 0xFF])
    for (word,) in struct.iter_unpack("<Q", padded):
        v[3] ^= word
        rounds(1)
        v[0] ^= word
    out = b""
    for at, mark in ((2, 0xEE), (1, 0xDD)):
        v[at] ^= mark
        rounds(3)
        out += struct.pack("<Q", v[0] ^ v[1] ^ v[2] ^ v[3])
    return out


# ----- Ed25519 (RFC 8032, section 5.1); points are in extended coordinates

P = (1 << 255) - 19
ORDER = (1 << 252) + 27742317777372353535851937790883648493
CURVE_D = -121665 * pow(121666, -1, P) % P


def add(p, q):
    a, b = (p[1] - p[0]) * (q[1] - q[0]) % P, (p[1] + p[0]) * (q[1] + q[0]) % P
    c, d = 2 * p[3] * q[3] * CURVE_D % P, 2 * p[2] * q[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P


def negate(p):
    return -p[0] % P, p[1], p[2], -p[3] % P


def multiply(scalar, p):
    q = (0, 1, 1, 0)
    while scalar:
        if scalar & 1:
            q = add(q, p)
        p, scalar = add(p, p), scalar >> 1
    return q


def compress(p):
    inverse = pow(p[2], -1, P)
    x, y = p[0] * inverse % P, p[1] * inverse % P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def decompress(data):
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, (y & (1 << 255) - 1) % P
    square = (y * y - 1) * pow(CURVE_D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * pow(2, (P - 1) // 4, P) % P
    if x * x % P != square:
        return None
    if x & 1 != sign:
        x = -x % P
    return x, y, 1, x * y % P


BASE = decompress((4 * pow(5, -1, P) % P).to_bytes(32, "little"))


def ed25519_public(secret):
    digest = hashlib.sha512(secret).digest()
    scalar = int.from_bytes(digest[:32], "little") & (1 << 254) - 8 | 1 << 254
    return compress(multiply(scalar, BASE))


def ed25519_verify(key, message, sig):
    """The one rule of section 2."""
    a, r, s = decompress(key), decompress(sig[:32]), int.from_bytes(sig[32:], "little")
    identity = compress((0, 1, 1, 0))
    if a is None or r is None or s >= ORDER:
        return False
    if identity in (compress(multiply(8, a)), compress(multiply(8, r))):
        return False
    k = int.from_bytes(hashlib.sha512(sig[:32] + key + message).digest(), "little") % ORDER
    return compress(add(multiply(s, BASE), negate(multiply(k, a)))) == sig[:32]


# ----- ChaCha20-Poly1305 (RFC 8439)

def chacha20_block(key, counter, nonce):
    start = [0x61707865, 0x3320646E, 0x79622D32, 0x6B206574, *struct.unpack("<8I", key), counter]
    start += struct.unpack("<3I", nonce)
    s = list(start)
    for _ in range(10):
        for a, b, c, d in MIX:
            for x, y, z, turn in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
                s[x] = s[x] + s[y] & U32_MASK
                w = s[z] ^ s[x]
                s[z] = (w << turn | w >> 32 - turn) & U32_MASK
    return struct.pack("<16I", *((x + y) & U32_MASK for x, y in zip(s, start)))


def chacha20_poly1305(key, nonce, plain, aad):
    stream = b"".join(chacha20_block(key, 1 + i, nonce) for i in range((len(plain) + 63) // 64))
    cipher = bytes(a ^ b for a, b in zip(plain, stream))
    padded = b"".join(part + bytes(-len(part) % 16) for part in (aad, cipher))
    padded += struct.pack("<QQ", len(aad), len(cipher))
    once = chacha20_block(key, 0, nonce)
    r = int.from_bytes(once[:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    total = 0
    for at in range(0, len(padded), 16):
        total = (total + int.from_bytes(padded[at:at + 16] + b"\1", "little")) * r % ((1 << 130) - 5)
    tag = total + int.from_bytes(once[16:32], "little") & (1 << 128) - 1
    return cipher + tag.to_bytes(16, "little")
