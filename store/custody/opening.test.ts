import { expect, test } from "vitest";
import { AgentForTests, seededRandom } from "../../protocol/agent-for-tests.ts";
import { type Envelope, encodeEnvelope } from "../../protocol/envelope.ts";
import { JUMP_MAX } from "../../protocol/limits.ts";
import type { PrekeyLookup } from "../../protocol/peer.ts";
import { nodePrimitives, nodeRandom } from "../../protocol/primitives/node.ts";
import { generateX25519 } from "../../protocol/primitives/primitives.ts";
import { CountedPrimitives, openItem } from "./opening.ts";

const now = Date.UTC(2026, 5, 1);
const clock = { now, random: nodeRandom };
const noPrekeys: PrekeyLookup = {
  signedPrekey: () => null,
  oneTimePrekey: () => null,
  kemPrekey: () => null,
  kemPublished: false,
};

/** Two agents with a session in which one message has come, and how an envelope of it is opened. */
function given() {
  const random = seededRandom(nodePrimitives, 7);
  const [alice, bob] = [new AgentForTests(nodePrimitives, random, now), new AgentForTests(nodePrimitives, random, now)];
  const first = alice.send(bob, Uint8Array.of(1), now);
  bob.receive(first, now);
  const counted = new CountedPrimitives();
  const open = (envelope: Envelope) => {
    const body = encodeEnvelope(envelope);
    const item = { seq: 1, kind: "message", senderId: alice.id, itemId: envelope.messageId, body } as const;
    return openItem(counted.primitives, bob.identity, noPrekeys, bob.peer(alice.id), item, clock).verdict;
  };
  return { alice, bob, first, counted, open };
}

test("what an envelope asks for is counted, also when its tag does not hold", () => {
  const { first, counted, open } = given();
  const { publicKey: dhPublicKey } = generateX25519(nodePrimitives, nodeRandom);
  const asked = { dhPublicKey, previousCounter: 1 + JUMP_MAX, sendCounter: 1 + JUMP_MAX };
  const forged = { ...first, ...asked, initiation: new Uint8Array() };
  expect(open(forged)).toMatchObject({ type: "failed", code: "auth-failed" });
  expect(counted.derivations).toBeGreaterThan(2 * JUMP_MAX);
  expect(counted.derivations).toBeLessThan(2 * JUMP_MAX + 10);
});

test("what asks for too much, or comes in its order, costs next to nothing", () => {
  const { alice, bob, first, counted, open } = given();
  const tooFar = { ...first, sendCounter: 2 + 2 * JUMP_MAX, initiation: new Uint8Array() };
  expect(open(tooFar)).toMatchObject({ code: "counter-too-far" });
  expect(counted.derivations).toBe(0);
  expect(open(alice.send(bob, Uint8Array.of(2), now))).toMatchObject({ type: "content" });
  expect(counted.derivations).toBe(1);
});
