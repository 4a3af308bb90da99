// A stock js-libp2p node meets a daemon. `node client.mjs '{"address", "seed", "cert", "role"}'`, in hexadecimal where it is
// bytes; `cert` is a certificate in the form of a body. As a `member` it is let in, asks for all commits, comes back and joins
// the gossip of its account; as a `stranger` it is refused. What it found is printed, a JSON object a line.
import './node20.mjs'
import { randomBytes } from 'node:crypto'
import { createLibp2p } from 'libp2p'
import { tcp } from '@libp2p/tcp'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { identify } from '@libp2p/identify'
import { ping } from '@libp2p/ping'
import { gossipsub } from '@libp2p/gossipsub'
import { generateKeyPairFromSeed } from '@libp2p/crypto/keys'
import { multiaddr } from '@multiformats/multiaddr'
import {
  Frames, KIND, Reader, frame, hello, hex, have, readError, readHave, readHello, readOps, topic, unframe, unhex, varint, want
} from './protocol.mjs'

const { address, seed, cert, role } = JSON.parse(process.argv[2])
const say = (found) => console.log(JSON.stringify(found))
setTimeout(() => { console.error('it took more than 50 s'); process.exit(1) }, 50_000).unref()

const privateKey = await generateKeyPairFromSeed('Ed25519', unhex(seed))
const key = privateKey.publicKey.raw
const peer = multiaddr(address)

const node = await createLibp2p({
  privateKey,
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: { identify: identify(), ping: ping(), pubsub: gossipsub() }
})

async function connect () {
  const identified = new Promise((resolve) =>
    node.addEventListener('peer:identify', (event) => resolve(event.detail), { once: true }))
  const connection = await node.dial(peer)
  const { protocolVersion, agentVersion, protocols } = await identified
  return { connection, protocolVersion, agentVersion, protocols }
}

// Opens the sync stream, greets, and returns what both sides said first.
async function greet (connection) {
  const frames = new Frames(await connection.newStream('/ahenk/sync/1'))
  frames.send(randomBytes(8))
  const nonce = await frames.next()
  if (nonce === undefined || nonce.length < 8 || nonce.length > 64) throw new Error('no greeting')
  const session = randomBytes(4).readUInt32BE() | 1
  frames.send(frame(session >>> 0, KIND.hello, hello(key, unhex(cert), 7n, 0)))
  return { frames, session: session >>> 0 }
}

async function next (frames) {
  const bytes = await frames.next()
  return bytes === undefined ? undefined : unframe(bytes)
}

async function beRefused () {
  const { connection } = await connect()
  const { frames } = await greet(connection)
  const seen = []
  for (let message; (message = await next(frames)) !== undefined;) {
    seen.push(message.kind)
    if (message.kind === KIND.error) return say({ refused: readError(message.body), seen })
  }
  throw new Error(`no refusal, only ${seen}`)
}

// Closing waits for the streams to be closed as well, and fails if one of them is cut off meanwhile: by the other side, which
// may be gone first, or by the closing of the connection itself. The connection is over either way.
async function close (connection) {
  try { await connection.close() } catch (error) { connection.abort(new Error('closed', { cause: error })) }
}

// As a device of the account: is let in, and asks for everything.
async function sync () {
  const { connection, protocolVersion, agentVersion, protocols } = await connect()
  say({ identify: { protocolVersion, agentVersion, sync: protocols.includes('/ahenk/sync/1') } })
  say({ ping: await node.services.ping.ping(peer) })
  const { frames, session } = await greet(connection)
  let account, accepted = false, asked = false
  for (let message; (message = await next(frames)) !== undefined;) {
    const { kind, body } = message
    if (kind === KIND.hello) {
      const theirs = readHello(body)
      account = theirs.account
      if (!accepted) say({ hello: { account: hex(account), key: hex(theirs.key), name: theirs.name } })
      if (theirs.echo !== session) frames.send(frame(session, KIND.hello, hello(key, unhex(cert), 7n, message.session)))
      if (!accepted) frames.send(frame(session, KIND.have, have(new Uint8Array(16))))
      accepted = true
    } else if (kind === KIND.ping) {
      const nonce = new Reader(body).varint()
      const pong = Buffer.concat([varint(nonce), varint(Date.now())])
      frames.send(frame(session, KIND.pong, pong))
    } else if (kind === KIND.have && !asked) {
      asked = true
      const { knowledge, commits } = readHave(body)
      say({ have: { commits: Number(commits) } })
      frames.send(frame(session, KIND.want, want(1, knowledge, 4194304)))
    } else if (kind === KIND.ops) {
      const { want, done, runs } = readOps(body)
      if (want !== 1n) continue
      say({ ops: { runs: Number(runs), done } })
      if (done === 1) break
    } else if (kind === KIND.error) {
      throw new Error(`refused: ${JSON.stringify(readError(body))}`)
    }
  }
  await close(connection)
  return account
}

// A member takes part in gossip from its next connection on.
async function gossip (account) {
  const { pubsub } = node.services
  const heard = new Promise((resolve) =>
    pubsub.addEventListener('message', (event) => resolve(event.detail)))
  const name = topic(account)
  const { connection, protocols } = await connect()
  pubsub.subscribe(name)
  while (!pubsub.getSubscribers(name).some((id) => id.equals(connection.remotePeer))) {
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
  say({ gossip: { offered: protocols.some((each) => each.startsWith('/meshsub/')), subscribed: true } })
  const message = await heard
  const { kind, session } = await unframe(message.data)
  say({ hint: { kind, session, signed: message.type === 'signed', from: message.from?.toString() } })
}

try {
  if (role === 'stranger') await beRefused()
  else await gossip(await sync())
  await node.stop()
  process.exit(0)
} catch (error) {
  console.error(error)
  process.exit(1)
}
