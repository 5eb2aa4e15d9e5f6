/**
 * Agents of server custody for load, and sessions between them as they are after a while: answered, with all the ratchet keys that are remembered.
 *
 * Made by the protocol itself and written into PostgreSQL as encryption leaves them; no mailbox and no claims, so that thousands of pairs take seconds.
 */
import { randomUUID } from "node:crypto";
import { encodeFrame } from "../protocol/frame.ts";
import type { Identity } from "../protocol/identity.ts";
import { sealIngress } from "../protocol/ingress.ts";
import { RATCHET_KEYS_REMEMBERED_MAX } from "../protocol/limits.ts";
import { makeMessageId } from "../protocol/message-id.ts";
import { initiate, openEnvelope, type Peer, sealMessage, unknownPeer } from "../protocol/peer.ts";
import { makePrekeys, type NewPrekeys } from "../protocol/prekey-stock.ts";
import type { Bundle } from "../protocol/prekeys.ts";
import { nodePrimitives, nodeRandom } from "../protocol/primitives/node.ts";
import type { MessageSend } from "../schemas/values.ts";
import { registerAgent } from "../store/agents.ts";
import type { CustodyKeys } from "../store/custody/custody-keys.ts";
import { lockStates, type Pair, writeStates } from "../store/custody/states.ts";
import type { Ingress } from "../store/ingress.ts";
import { inTransaction, type Postgres } from "../store/postgres.ts";

export interface WorldDeps {
  readonly postgres: Postgres;
  readonly keys: CustodyKeys;
  readonly ingress: Ingress;
}

export interface HeldWorld {
  readonly pairs: readonly Pair[];
  readonly bundles: ReadonlyMap<string, Bundle>;
  /** Every pair's row as it was in the beginning, in a new version. */
  reset(): Promise<void>;
}

interface Resident {
  readonly me: Identity;
  readonly own: NewPrekeys;
  readonly bundle: Bundle;
}

const agentsMax = 200;
/** Rows written in one transaction. */
const rowsMax = 500;

/** So many pairs (owner, peer) of up to 200 agents. */
export async function makeHeldWorld(deps: WorldDeps, pairCount: number): Promise<HeldWorld> {
  const residents: Resident[] = [];
  for (let n = 0; n < agentsMax; n += 1) residents.push(await settle(deps));
  const ways = residents.flatMap((from, at) => residents.slice(at + 1).map((to) => ({ from, to })));
  if (pairCount > ways.length) throw new Error(`there are ${ways.length} pairs at most`);
  // Spread over all agents, and not the first one's first.
  const step = Math.floor(ways.length / pairCount);
  const chosen = Array.from({ length: pairCount }, (_, n) => ways[n * step] as (typeof ways)[number]);
  const states = chosen.map(({ from, to }) => ({
    ownerId: from.me.agentId,
    peerId: to.me.agentId,
    peer: acquainted(from, to),
  }));
  return {
    pairs: states.map(({ ownerId, peerId }) => ({ ownerId, peerId })),
    bundles: new Map(residents.map(({ me, bundle }) => [me.agentId, bundle])),
    reset: async () => {
      for (let at = 0; at < states.length; at += rowsMax) await write(deps, states.slice(at, at + rowsMax));
    },
  };
}

/** What the API makes of a text. */
export async function makeCommand({ keys, ingress }: WorldDeps, pair: Pair, body: Uint8Array): Promise<MessageSend> {
  const now = Date.now();
  const messageId = makeMessageId(now, nodeRandom);
  const ids = { senderId: pair.ownerId, recipientId: pair.peerId, messageId };
  const frame = encodeFrame({ contentType: "application/octet-stream", body });
  const sealed = await sealIngress(nodePrimitives, nodeRandom, ingress.currentKey(), ids, frame);
  return {
    kind: "message",
    ...ids,
    sealed,
    hmac: keys.commandMac(ids, frame),
    sessionId: new Uint8Array(),
    aboutId: null,
    sentAt: now,
  };
}

async function settle({ postgres, keys }: WorldDeps): Promise<Resident> {
  const { identity: me, sealed } = keys.makeIdentity();
  const now = Date.now();
  const { agentId } = me;
  const fact = { id: randomUUID(), topic: "agent.changed.v1", key: agentId, value: Uint8Array.of(1), headers: {} };
  const held = { accessKey: nodeRandom(32), identitySealed: sealed };
  await registerAgent(postgres, { agentId, identityKey: me.signing.publicKey, custody: "server", held, now, fact });
  const due = { rotation: true, oneTime: 0, kem: 0 };
  const own = makePrekeys(nodePrimitives, me, due, { now, random: nodeRandom, newId: randomUUID });
  if (own.signed === null || own.lastResort === null) throw new Error("a rotation makes both");
  const { prekey: signedPrekey } = own.signed;
  const { prekey: kemPrekey } = own.lastResort;
  return {
    me,
    own,
    bundle: { agentId, identityKey: me.signing.publicKey, signedPrekey, oneTimePrekey: null, kemPrekey },
  };
}

/** What `from` keeps of `to` after a message there and one back. */
function acquainted(from: Resident, to: Resident): Peer {
  const clock = { now: Date.now(), random: nodeRandom };
  const begun = initiate(nodePrimitives, from.me, unknownPeer(to.me.agentId), to.bundle, clock);
  const there = sealMessage(nodePrimitives, from.me, begun, message(), clock);
  const heard = openEnvelope(nodePrimitives, to.me, lookup(to), unknownPeer(from.me.agentId), there.envelope, clock);
  const back = sealMessage(nodePrimitives, to.me, heard.peer, message(), clock);
  const { peer } = openEnvelope(nodePrimitives, from.me, lookup(from), there.peer, back.envelope, clock);
  if (peer.active === null) throw new Error("a session that was answered is active");
  const earlierPeerKeys = Array.from({ length: RATCHET_KEYS_REMEMBERED_MAX }, () => nodeRandom(32));
  return { ...peer, active: { ...peer.active, ratchet: { ...peer.active.ratchet, earlierPeerKeys } } };
}

function message() {
  const messageId = makeMessageId(Date.now(), nodeRandom);
  return { messageId, contentType: "text/plain", body: nodeRandom(1) };
}

function lookup({ own: { signed, lastResort } }: Resident) {
  return {
    signedPrekey: () => signed?.pair ?? null,
    oneTimePrekey: () => null,
    kemPrekey: () => (lastResort === null ? null : { pair: lastResort.pair, lastResort: true }),
    kemPublished: true,
  };
}

async function write(
  { postgres, keys }: WorldDeps,
  states: readonly (Pair & { readonly peer: Peer })[],
): Promise<void> {
  await inTransaction(postgres, async (client) => {
    const locked = await lockStates(client, states, { areThere: false });
    const rows = new Map(locked.map((row) => [`${row.ownerId} ${row.peerId}`, row]));
    const written = states.map(({ ownerId, peerId, peer }) => {
      const { version: readVersion = 0, generation = 0 } = rows.get(`${ownerId} ${peerId}`) ?? {};
      return { ownerId, peerId, readVersion, generation, state: keys.sealState(ownerId, peer, readVersion + 1) };
    });
    await writeStates(client, written);
  });
}
