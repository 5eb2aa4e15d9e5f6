/**
 * What the agents of a world have: mail, messages, sessions, devices, prekeys, usage. What is the victim's own is known by its secrets.
 */
import { randomUUID } from "node:crypto";
import { encodeBase64Url } from "../../protocol/base64url.ts";
import { decodeEnvelope } from "../../protocol/envelope.ts";
import type { Identity } from "../../protocol/identity.ts";
import { makeMessageId } from "../../protocol/message-id.ts";
import { createKemPrekey, createOneTimePrekey, createSignedPrekey, signPrekey } from "../../protocol/prekeys.ts";
import { nodePrimitives, nodeRandom } from "../../protocol/primitives/node.ts";
import type { ContactState } from "../../store/contacts.ts";
import type { Device } from "../../store/devices.ts";
import type { StoredItem } from "../../store/mailbox.ts";
import type { SessionFacts } from "../../store/session-facts.ts";
import type { SigningKey } from "../../store/signing-keys.ts";
import type { UsagePeriod } from "../../store/usage.ts";
import { bytesOf, someEnvelope } from "../in-memory-service.ts";
import { newIdentity } from "../signing.ts";
import { ownerOf } from "./owner-tokens.ts";
import type { Signer, World } from "./world.ts";

export interface Belongings {
  /** What waits for the caller, for the victim, and for the agents of server custody. */
  readonly mail: Readonly<Record<"caller" | "victim" | "held" | "heldVictim", StoredItem>>;
  readonly devices: Readonly<Record<"caller" | "victim", Device>>;
  /** Ids of messages: by the caller to the victim, by the victim to the caller, by the third to the victim. */
  readonly messages: Readonly<Record<"sent" | "received" | "foreign", string>>;
  readonly hour: number;
  /** That sign for them. */
  readonly keys: Readonly<Record<"caller" | "victim", SigningKey>>;
  /** On the caller's allow list. */
  readonly listed: string;
  /** What must never be shown to the caller. */
  readonly secrets: readonly string[];
}

/** Numbers in which the victim's usage is known again. */
const VICTIM_COUNT = 7_654_321;

export function belongings(
  world: Pick<World, "service" | "caller" | "victim" | "third" | "held" | "heldVictim">,
): Belongings {
  const { service, caller, victim, third, held, heldVictim } = world;
  const { ports } = service;
  const mail = {
    caller: waiting(world, caller, victim),
    victim: waiting(world, victim, third),
    held: waiting(world, held, caller),
    heldVictim: waiting(world, heldVictim, third),
  };
  const devices = { caller: device(caller), victim: device(victim) };
  for (const one of Object.values(devices)) ports.devices.set(one.agentId, [one]);
  const messages = { sent: told(caller, victim), received: told(victim, caller), foreign: told(third, victim) };
  const foreignSession = facts(third, victim);
  ports.sessionFacts.push(facts(caller, victim), facts(victim, caller), foreignSession, facts(victim, third));
  for (const { identity } of [caller, victim, third]) ports.prekeys.set(identity.agentId, stock(identity));
  const hour = Math.floor(Date.now() / 3_600_000) * 3_600_000;
  ports.usage.push(usage(caller, hour, 1), usage(victim, hour, VICTIM_COUNT));
  const { hidden, listed } = letIn(world);
  ports.owned.owners.set(caller.keyid, ownerOf("team-1")).set(victim.keyid, ownerOf("team-2"));
  const keys = { caller: signingKey(caller), victim: signingKey(victim) };
  for (const key of Object.values(keys)) ports.owned.signingKeys.set(key.keyId, key);
  return {
    ...{ mail, devices, messages, hour, listed, keys },
    secrets: [
      ...[hidden, keys.victim.keyId],
      ...[mail.victim, mail.heldVictim].flatMap(({ itemId, body }) => [
        itemId,
        encodeBase64Url(decodeEnvelope(body).ciphertext),
      ]),
      ...[devices.victim.deviceId, devices.victim.address, devices.victim.secret ?? ""],
      ...[messages.foreign, foreignSession.messageId, encodeBase64Url(foreignSession.sessionId)],
      ...[encodeBase64Url(foreignSession.dhPublicKey), String(VICTIM_COUNT), third.keyid],
    ],
  };

  function told(sender: Signer, recipient: Signer): string {
    const at = Date.now();
    const messageId = makeMessageId(at, nodeRandom);
    ports.messages.push({
      ...{ messageId, senderId: sender.keyid, recipientId: recipient.keyid, status: "delivered" },
      ...{ digest: nodeRandom(32), code: null, acceptedAt: at, queuedAt: at, undeliverableAt: null },
      ...{ deliveredAt: at, endedAt: null },
    });
    return messageId;
  }
}

/** Whom they let in: the victim has blocked somebody, and has a contact whom nobody else knows; it asks the caller to become one, and is asked by the third. */
function letIn({ service, caller, victim, third }: Pick<World, "service" | "caller" | "victim" | "third">) {
  const { contacts, listed: lists } = service.ports.policies;
  const [hidden, listed] = [newIdentity().agentId, newIdentity().agentId];
  const asks = (one: string, other: string, states: readonly [ContactState, ContactState]) => {
    contacts.set(`${one} ${other}`, { peerId: other, state: states[0], changedAt: 1 });
    contacts.set(`${other} ${one}`, { peerId: one, state: states[1], changedAt: 1 });
  };
  asks(victim.keyid, hidden, ["accepted", "accepted"]);
  asks(victim.keyid, caller.keyid, ["requested", "pending"]);
  asks(third.keyid, victim.keyid, ["requested", "pending"]);
  lists.add(`${victim.keyid} block ${hidden}`).add(`${caller.keyid} allow ${listed}`);
  return { hidden, listed };
}

function waiting({ service }: Pick<World, "service">, owner: Signer, sender: Signer): StoredItem {
  const envelope = someEnvelope(sender.keyid, owner.keyid);
  const item: StoredItem = {
    ...{ seq: 1, kind: "message", senderId: sender.keyid, itemId: envelope.messageId, body: bytesOf(envelope) },
  };
  service.ports.mailboxes.set(owner.keyid, [item]);
  return item;
}

function device({ keyid: agentId }: Signer): Device {
  const deviceId = randomUUID();
  return {
    ...{ agentId, deviceId, kind: "webhook", address: `https://${deviceId.slice(0, 8)}.example.com/wake` },
    ...{ environment: null, urgency: "background", secret: `whsec_${encodeBase64Url(nodeRandom(32))}` },
    ...{ createdAt: 1, refreshedAt: Date.now() },
  };
}

function signingKey({ keyid: agentId }: Signer) {
  const { agentId: keyId, signing } = newIdentity();
  const notAfter = Date.now() + 3_600_000;
  return { keyId, agentId, publicKey: signing.publicKey, notAfter, createdAt: 1, removed: false };
}

function facts(owner: Signer, peer: Signer): SessionFacts {
  const at = Date.now();
  return {
    ...{
      ownerId: owner.keyid,
      peerId: peer.keyid,
      sessionId: nodeRandom(16),
      messageId: makeMessageId(at, nodeRandom),
    },
    ...{ dhPublicKey: nodeRandom(32), sendCounter: 3, previousCounter: 2, messages: 5, firstAt: 1_000, lastAt: at },
    initiation: null,
  };
}

function birth() {
  return { id: randomUUID(), now: Date.now(), random: nodeRandom };
}

/** Making one takes as long as an attack does. */
const kemPublicKey = createKemPrekey(nodePrimitives, newIdentity(), { ...birth(), lastResort: true }).prekey.publicKey;

function stock(owner: Identity) {
  const kem = { id: randomUUID(), createdAt: Date.now(), publicKey: kemPublicKey };
  return {
    signedPrekey: createSignedPrekey(nodePrimitives, owner, birth()).prekey,
    lastResortKemPrekey: {
      ...{ ...kem, lastResort: true },
      signature: signPrekey(nodePrimitives, owner, "kem-prekey", kem),
    },
    oneTimePrekeys: [1, 2].map(() => createOneTimePrekey(nodePrimitives, randomUUID(), nodeRandom).prekey),
    kemPrekeys: [],
  };
}

function usage({ keyid: agentId }: Signer, at: number, count: number): UsagePeriod {
  return {
    ...{ agentId, at, messagesSent: count, bytesSent: count, messagesReceived: count, bytesReceived: count },
    ...{ messagesAcknowledged: count, bytesAcknowledged: count, messagesDiscarded: 0, bytesDiscarded: 0 },
    ...{ messagesStored: count, bytesStored: count },
  };
}
