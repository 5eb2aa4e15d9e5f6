import { expect, test } from "vitest";
import { AgentForTests } from "../../protocol/agent-for-tests.ts";
import { decodeEnvelope } from "../../protocol/envelope.ts";
import { encodeFrame } from "../../protocol/frame.ts";
import { CHAIN_MESSAGES_MAX, DAY_MS, SIGNED_PREKEY_AGE_MS_MAX } from "../../protocol/limits.ts";
import { unknownPeer } from "../../protocol/peer.ts";
import { decodePeer, encodePeer } from "../../protocol/peer-record.ts";
import { nodePrimitives, nodeRandom } from "../../protocol/primitives/node.ts";
import type { MessageDiscarded, MessageEncrypted, MessageSend } from "../../schemas/values.ts";
import type { Tx } from "../../store/tx.ts";
import { messageDiscarded, messageEncrypted, messageSend } from "../../streams/catalogue.ts";
import type { Emit, Inbound } from "../../streams/consumer.ts";
import { sampleItemId } from "../../tests/messaging.ts";
import { type EncryptionDeps, encryptAll } from "./sending.ts";

const START = Date.UTC(2026, 5, 1);
const hello = Buffer.from("hello");

function newAgent(): AgentForTests {
  return new AgentForTests(nodePrimitives, nodeRandom, START);
}

function command(from: AgentForTests, to: AgentForTests, now: number): Inbound<MessageSend> {
  const value: MessageSend = {
    kind: "message",
    ...{ messageId: sampleItemId(now), senderId: from.id, recipientId: to.id },
    sealed: encodeFrame({ contentType: "text/plain", body: hello }),
    ...{ hmac: new Uint8Array(), sessionId: new Uint8Array(), aboutId: null, sentAt: now },
  };
  const key = `${from.id}:${to.id}`;
  return { topic: messageSend, partition: 0, offset: 1, key, value, headers: {}, timestamp: now };
}

/** A step in memory: what its sender knows of its recipient lies open, and so does what it says. */
function step(from: AgentForTests, to: AgentForTests, now: number, count: number): Promise<readonly Emit[]> {
  const state = { ownerId: from.id, peerId: to.id, version: 1, generation: 1, isOutdated: false };
  const stored = { ...state, state: encodePeer(from.peer(to.id)) };
  const deps: EncryptionDeps = {
    keys: {
      openIdentity: () => from.identity,
      openState: (found) => (found.state === null ? unknownPeer(found.peerId) : decodePeer(found.state)),
      sealState: (_ownerId, peer) => encodePeer(peer),
      sealSaid: (_command, content) => content,
      openSaid: (_command, sealed) => sealed,
      commandMac: () => new Uint8Array(32),
    },
    ingress: { open: async (_command, sealed) => sealed },
    states: { find: async () => [], prepare: () => undefined },
    claim: async () => to.bundle(),
    observeSeconds: () => undefined,
    countStates: () => undefined,
    now: () => now,
  };
  const nothing = async () => undefined;
  const none = async () => [];
  const custody: Tx["custody"] = {
    findDecisions: async (asks) => asks.map(() => ({ allowed: true as const })),
    ...{ findCommands: none, writeCommands: nothing, writeDiscarded: nothing, recallCommands: nothing },
    ...{ lockKept: none, changeKept: nothing, findFailed: none, findRequests: none },
    findIdentityKeys: async () => new Map(),
    findIdentities: async () => new Map([[from.id, new Uint8Array()]]),
    findStates: async () => [stored],
    lockStates: async () => [{ ...stored, isKnown: false }],
    writeStates: nothing,
  };
  const batch = Array.from({ length: count }, () => command(from, to, now));
  return encryptAll(deps, batch, { custody });
}

const valuesOf = <Value>(emits: readonly Emit[], { name }: { readonly name: string }) =>
  emits.filter(({ topic }) => topic.name === name).map((emit) => emit.value("event") as Value);

const discardedCodes = (emits: readonly Emit[]) =>
  valuesOf<MessageDiscarded>(emits, messageDiscarded).map(({ code }) => code);

const envelopesOf = (emits: readonly Emit[]) =>
  valuesOf<MessageEncrypted>(emits, messageEncrypted).map(({ body }) => decodeEnvelope(body));

test("a chain that has reached its end goes on where the recipient's bundle does not hold", async () => {
  const [alice, bob] = [newAgent(), newAgent()];
  bob.receive(alice.send(bob, hello, START), START);
  alice.receive(bob.send(alice, hello, START), START);
  for (let sent = 0; sent < CHAIN_MESSAGES_MAX; sent++) alice.send(bob, hello, START + sent);
  const session = alice.peer(bob.id).active?.id;
  // Bob reads, and has not come to rotate.
  const now = START + SIGNED_PREKEY_AGE_MS_MAX + DAY_MS;
  const emits = await step(alice, bob, now, 2);
  expect(discardedCodes(emits)).toEqual([]);
  const envelopes = envelopesOf(emits);
  expect(envelopes.map(({ sendCounter }) => sendCounter)).toEqual([CHAIN_MESSAGES_MAX + 1, CHAIN_MESSAGES_MAX + 2]);
  for (const envelope of envelopes) {
    expect(envelope.sessionId).toEqual(session);
    expect(bob.receive(envelope, now)).toMatchObject({ kind: "opened", frame: { contentType: "text/plain" } });
  }
});

test("where there is no session to go on in, a bundle that does not hold ends the message with its code", async () => {
  const [alice, bob] = [newAgent(), newAgent()];
  const emits = await step(alice, bob, START + SIGNED_PREKEY_AGE_MS_MAX + DAY_MS, 1);
  expect([discardedCodes(emits), envelopesOf(emits)]).toEqual([["prekey-stale"], []]);
});
