// The bytes of docs/protocol.md that a client needs to be let in and to ask for commits. Written from the document.
import { blake3 } from '@noble/hashes/blake3.js'

const text = new TextEncoder()

export const hex = (bytes) => Buffer.from(bytes).toString('hex')
export const unhex = (digits) => new Uint8Array(Buffer.from(digits, 'hex'))
export const join = (...parts) => new Uint8Array(Buffer.concat(parts.map((part) => Uint8Array.from(part))))

// Section 2.
export function varint (number) {
  const bytes = []
  for (let rest = BigInt(number); ; rest >>= 7n) {
    const low = Number(rest & 0x7fn)
    if (rest < 0x80n) { bytes.push(low); return new Uint8Array(bytes) }
    bytes.push(low | 0x80)
  }
}

export class Reader {
  constructor (bytes) { this.bytes = bytes; this.at = 0 }

  take (count) {
    if (this.at + count > this.bytes.length) throw new Error('it ends too early')
    return this.bytes.subarray(this.at, this.at += count)
  }

  u8 () { return this.take(1)[0] }

  varint () {
    let value = 0n
    for (let shift = 0n; shift < 70n; shift += 7n) {
      const byte = this.u8()
      value |= BigInt(byte & 0x7f) << shift
      if (byte < 0x80) return value
    }
    throw new Error('a varint of more than 10 bytes')
  }

  text () { return new TextDecoder('utf-8', { fatal: true }).decode(this.take(Number(this.varint()))) }
  rest () { return this.bytes.subarray(this.at) }
}

// Section 3.
export function deviceId (key) {
  const id = blake3(join(text.encode('ahenk device 1'), key)).slice(0, 16)
  id[6] = (id[6] & 0x0f) | 0x80
  id[8] = (id[8] & 0x3f) | 0x80
  return id
}

export const topic = (account) =>
  hex(blake3(account, { context: text.encode('ahenk gossip topic 1') }))

// Section 9.
function crc32 (...parts) {
  let crc = 0xffffffff
  for (const part of parts) {
    for (const byte of part) {
      crc ^= byte
      for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0)
    }
  }
  return (crc ^ 0xffffffff) >>> 0
}

export function frame (session, kind, body) {
  const rest = join(new Uint8Array(4), [kind], body)
  new DataView(rest.buffer).setUint32(0, session)
  const head = new Uint8Array([4, 0, 0, 0, 0, 0])
  new DataView(head.buffer).setUint32(2, crc32(head.subarray(0, 2), rest), true)
  return join(head, rest)
}

export async function unframe (bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  if (bytes[0] !== 4) throw new Error(`major version ${bytes[0]}`)
  if (view.getUint32(2, true) !== crc32(bytes.subarray(0, 2), bytes.subarray(6))) throw new Error('a damaged frame')
  const reader = new Reader(bytes.subarray(10))
  let payload = reader.rest()
  if (bytes[1] === 1) {
    const length = Number(reader.varint())
    const { inflateRawSync } = await import('node:zlib')
    payload = new Uint8Array(inflateRawSync(reader.rest(), { maxOutputLength: 2097152 }))
    if (payload.length !== length) throw new Error('another length than was stated')
  }
  return { session: view.getUint32(6), kind: payload[0], body: payload.subarray(1) }
}

// Section 10.
export const KIND = { hello: 1, have: 2, want: 3, ops: 4, ack: 5, announce: 6, ping: 7, pong: 8, error: 9, bye: 10, summary: 12 }

// `cert` is in the form of a body.
export function hello (key, cert, incarnation, echo) {
  const nothing = blake3(text.encode('ahenk knowledge 1')).slice(0, 16)
  const noHeads = blake3(text.encode('ahenk heads 1')).slice(0, 16)
  return join(varint(0), varint(0), cert, [16], deviceId(key), varint(incarnation), varint(echo), nothing, noHeads)
}

export function readHello (body) {
  const reader = new Reader(body)
  const [minor, features] = [reader.varint(), reader.varint()]
  const [account, key] = [reader.take(32), reader.take(32)]
  const name = reader.text()
  const [issued, admin, sig] = [reader.varint(), reader.u8(), reader.take(64)]
  reader.take(1)
  const [device, incarnation] = [reader.take(16), reader.varint()]
  const [echo, digest, headsDigest] = [Number(reader.varint()), reader.take(16), reader.take(16)]
  return { minor, features, account, key, name, issued, admin, sig, device, incarnation, echo, digest, headsDigest }
}

// Of one that has nothing, and asks for the other's.
export const have = (state) => join(state, [0], [1], [0])
export const want = (id, knowledge, credit) => join(varint(id), knowledge, varint(credit))

export function readHave (body) {
  const reader = new Reader(body)
  reader.take(16)
  const from = reader.at
  let commits = 0n
  for (let replicas = reader.varint(); replicas > 0n; replicas--) {
    reader.take(17)
    reader.varint()
    for (let ranges = reader.varint(); ranges > 0n; ranges--) {
      const first = reader.varint()
      commits += reader.varint() - first + 1n
    }
  }
  return { knowledge: body.slice(from, reader.at), commits }
}

export function readOps (body) {
  const reader = new Reader(body)
  return { want: reader.varint(), offset: reader.varint(), done: reader.u8(), runs: reader.varint() }
}

export function readError (body) {
  const reader = new Reader(body)
  return { fault: Number(reader.varint()), text: reader.text() }
}

// Section 15: frames on a stream.
export class Frames {
  constructor (stream) { this.stream = stream; this.chunks = stream[Symbol.asyncIterator](); this.pending = new Uint8Array(0) }

  send (bytes) { this.stream.send(join(varint(bytes.length), bytes)) }

  // The next frame; undefined at the end.
  async next () {
    for (;;) {
      const reader = new Reader(this.pending)
      try {
        const found = reader.take(Number(reader.varint())).slice()
        this.pending = reader.rest()
        return found
      } catch { /* not whole yet */ }
      const { done, value } = await this.chunks.next()
      if (done) return undefined
      this.pending = join(this.pending, value.subarray())
    }
  }
}
