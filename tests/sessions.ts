/**
 * What tests of sessions need: records with envelopes that show what a test is about.
 */
import { randomUUID } from "node:crypto";
import { type Envelope, encodeEnvelope } from "../protocol/envelope.ts";
import { encodeInitiation, type Initiation } from "../protocol/initiation.ts";
import { nodeRandom } from "../protocol/primitives/node.ts";
import type { MessageEncrypted } from "../schemas/values.ts";
import { messageEncrypted } from "../streams/catalogue.ts";
import type { Inbound } from "../streams/consumer.ts";
import { sampleItemId } from "./messaging.ts";
import { newIdentity } from "./signing.ts";

/** Two agents, and a session that Alice begins with Bob. */
export function sampleSession() {
  const [alice, bob] = [newIdentity(), newIdentity()];
  const sessionId = nodeRandom(16);
  const initiation: Initiation = {
    suite: 1,
    identityKey: alice.signing.publicKey,
    ephemeralKey: nodeRandom(32),
    signedPrekeyId: randomUUID(),
    oneTimePrekeyId: randomUUID(),
  };
  const from = (sender: typeof alice, recipient: typeof alice, ms: number, fields: Partial<Envelope>): Envelope => ({
    messageId: sampleItemId(ms),
    senderId: sender.agentId,
    recipientId: recipient.agentId,
    sessionId,
    sendCounter: 1,
    previousCounter: 0,
    dhPublicKey: nodeRandom(32),
    nonce: nodeRandom(12),
    ciphertext: nodeRandom(40),
    authTag: nodeRandom(16),
    timestamp: ms,
    flags: 0,
    initiation: new Uint8Array(0),
    ...fields,
  });
  return {
    alice,
    bob,
    sessionId,
    initiation,
    initiationBytes: encodeInitiation(initiation),
    /** From Alice to Bob, made at `ms`. */
    sent: (ms: number, fields: Partial<Envelope> = {}) => from(alice, bob, ms, fields),
    /** From Bob to Alice. */
    answered: (ms: number, fields: Partial<Envelope> = {}) => from(bob, alice, ms, fields),
  };
}

/** The record of an envelope. */
export function recordOf(
  envelope: Envelope,
  fields: Partial<Omit<Inbound<MessageEncrypted>, "topic">> = {},
): Inbound<MessageEncrypted> {
  const { messageId: itemId, senderId, recipientId, timestamp } = envelope;
  const value: MessageEncrypted = {
    kind: "message",
    itemId,
    senderId,
    recipientId,
    custody: "agent",
    body: encodeEnvelope(envelope),
  };
  return {
    ...{ topic: messageEncrypted, partition: 0, offset: 0, headers: {}, timestamp: timestamp + 5 },
    ...{ key: recipientId, value },
    ...fields,
  };
}
