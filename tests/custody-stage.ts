/**
 * Server custody over real servers, without the service's processes: agents whose keys lie in a keyring of their own, steps of the encryption
 * consumer, mailboxes and their opening.
 */
import { randomUUID } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { encryption } from "../consumers/encryption/encryption.ts";
import type { EncryptionDeps } from "../consumers/encryption/sending.ts";
import { decodeEnvelope, type Envelope, encodeEnvelope } from "../protocol/envelope.ts";
import { encodeFrame } from "../protocol/frame.ts";
import { sealIngress } from "../protocol/ingress.ts";
import { makePrekeys } from "../protocol/prekey-stock.ts";
import { nodePrimitives, nodeRandom } from "../protocol/primitives/node.ts";
import type { MessageEncrypted, MessageSend } from "../schemas/values.ts";
import { registerAgent } from "../store/agents.ts";
import { openAtRest } from "../store/at-rest.ts";
import { type CustodyKeys, openCustodyKeys } from "../store/custody/custody-keys.ts";
import { type OpenedMailbox, openMailbox } from "../store/custody/open-mailbox.ts";
import { openIngressKeys } from "../store/ingress.ts";
import { createKeyring, openKeyring } from "../store/keyring/keyring-file.ts";
import { openRootFile } from "../store/keyring/root-file.ts";
import { openMessageDays } from "../store/message-days.ts";
import type { Postgres } from "../store/postgres.ts";
import { findClaim, takeBundle } from "../store/prekey-claims.ts";
import { uploadPrekeys } from "../store/prekey-uploads.ts";
import type { Arrival } from "../store/queuing.ts";
import type { Tx } from "../store/tx.ts";
import { messageEncrypted, messageSend } from "../streams/catalogue.ts";
import type { Emit, Inbound, StepConsumer } from "../streams/consumer.ts";
import { inStep, placeAll, sampleItemId } from "./messaging.ts";
import { openPrekeyStore } from "./prekeys.ts";

export interface CustodyStage {
  readonly postgres: Postgres;
  readonly keys: CustodyKeys;
  readonly consumer: StepConsumer<MessageSend, Tx>;
  /** Registers an agent; its id. */
  agent(options?: { readonly prekeys: boolean }): Promise<string>;
  /** A command as the API appends it; offsets grow. */
  command(
    from: string,
    to: string,
    text: string,
    messageId?: string,
    contentType?: string,
  ): Promise<Inbound<MessageSend>>;
  /** The answer to a rekey request, as a reader's call appends it. */
  rekey(from: string, to: string, sessionId: Uint8Array): Inbound<MessageSend>;
  step(batch: readonly Inbound<MessageSend>[]): Promise<readonly Emit[]>;
  /** Puts what was emitted into mailboxes, as queuing does. */
  deliver(emits: readonly Emit[]): Promise<void>;
  /** The same of one envelope, whatever it is. */
  deliverEnvelope(envelope: Envelope): Promise<void>;
  open(recipientId: string): Promise<OpenedMailbox>;
  close(): Promise<void>;
}

const range = { afterSeq: 0, limit: 100, maxBytes: 1 << 22 };

export async function openCustodyStage(): Promise<CustodyStage> {
  const folder = mkdtempSync(path.join(tmpdir(), "sealpost-custody-"));
  const roots = openRootFile(path.join(folder, "root"));
  createKeyring(path.join(folder, "keyring"), roots);
  const keyring = openKeyring(path.join(folder, "keyring"), roots);
  const atRest = openAtRest(keyring);
  const keys = openCustodyKeys(keyring, atRest);
  const ingress = openIngressKeys(keyring);
  const store = await openPrekeyStore();
  const { postgres } = store;
  const claim: EncryptionDeps["claim"] = async (wanted) => {
    const dated = { ...wanted, now: Date.now() };
    const earlier = await findClaim(postgres, dated);
    return (earlier ?? (await takeBundle(postgres, store.deps, dated, { oneTime: true })))?.bundle ?? null;
  };
  const consumer = encryption({ keys, ingress, claim, observeSeconds: () => undefined, now: Date.now });
  const days = openMessageDays(postgres);
  let offset = 0;

  async function publish(agentId: string, identity: ReturnType<CustodyKeys["makeIdentity"]>["identity"]) {
    const [now, newId] = [Date.now(), () => randomUUID()];
    const due = { rotation: true, oneTime: 4, kem: 4 };
    const made = makePrekeys(nodePrimitives, identity, due, { now, random: nodeRandom, newId });
    const sealed = <Public extends { readonly id: string }>(own: {
      readonly prekey: Public;
      readonly pair: { readonly privateKey: Uint8Array };
    }) => ({ ...own.prekey, privateKeyEncrypted: keys.sealPrekey(agentId, own.prekey.id, own.pair.privateKey) });
    if (made.signed === null || made.lastResort === null) throw new Error("a rotation makes both");
    const upload = {
      signedPrekey: sealed(made.signed),
      lastResortKemPrekey: sealed(made.lastResort),
      oneTimePrekeys: made.oneTime.map(sealed),
      kemPrekeys: made.kem.map(sealed),
    };
    await uploadPrekeys(postgres, store.deps, agentId, upload, now);
  }

  function recordOf(value: MessageSend): Inbound<MessageSend> {
    const key = `${value.senderId}:${value.recipientId}`;
    return { topic: messageSend, partition: 0, offset: offset++, key, value, headers: {}, timestamp: value.sentAt };
  }

  return {
    postgres,
    keys,
    consumer,
    agent: async ({ prekeys } = { prekeys: true }) => {
      const { identity, sealed } = keys.makeIdentity();
      const { agentId } = identity;
      await registerAgent(postgres, {
        agentId,
        identityKey: identity.signing.publicKey,
        custody: "server",
        held: { accessKey: nodeRandom(32), identitySealed: sealed },
        now: Date.now(),
        fact: { id: randomUUID(), topic: "agent.changed.v1", key: agentId, value: Uint8Array.of(1), headers: {} },
      });
      if (prekeys) await publish(agentId, identity);
      return agentId;
    },
    command: async (senderId, recipientId, text, messageId = sampleItemId(), contentType = "text/plain") => {
      const frame = encodeFrame({ contentType, body: Buffer.from(text) });
      const ids = { senderId, recipientId, messageId };
      const sealed = await sealIngress(nodePrimitives, nodeRandom, ingress.currentKey(), ids, frame);
      const hmac = keys.commandMac(ids, frame);
      return recordOf({ kind: "message", ...ids, sealed, hmac, sessionId: new Uint8Array(), sentAt: Date.now() });
    },
    rekey: (senderId, recipientId, sessionId) => {
      const empty = { sealed: new Uint8Array(), hmac: new Uint8Array() };
      const ids = { senderId, recipientId, messageId: sampleItemId() };
      return recordOf({ kind: "rekey", ...ids, ...empty, sessionId, sentAt: Date.now() });
    },
    step: (batch) => inStep(postgres, (tx) => consumer.step(batch, tx)),
    deliver: async (emits) => {
      await placeAll(postgres, encryptedItems(emits).map(arrivalOf));
    },
    deliverEnvelope: async (envelope) => {
      const { messageId: itemId, senderId, recipientId } = envelope;
      const body = encodeEnvelope(envelope);
      await placeAll(postgres, [
        arrivalOf({ kind: "message", itemId, senderId, recipientId, custody: "server", body }),
      ]);
    },
    open: (recipientId) => openMailbox({ postgres, days, keys }, recipientId, range, Date.now()),
    close: async () => {
      for (const door of [ingress, keys, atRest, keyring, roots]) door.close();
      await store.close();
      rmSync(folder, { recursive: true });
    },
  };
}

function arrivalOf(item: MessageEncrypted): Arrival {
  const { sessionId, sendCounter, ciphertext } = decodeEnvelope(item.body);
  return { ...item, sessionId, sendCounter, size: ciphertext.length, acceptedAt: Date.now() };
}

export function encryptedItems(emits: readonly Emit[]): readonly MessageEncrypted[] {
  return emits
    .filter(({ topic }) => topic.name === messageEncrypted.name)
    .map((emit) => emit.value(randomUUID()) as MessageEncrypted);
}

export function envelopesOf(emits: readonly Emit[]): readonly Envelope[] {
  return encryptedItems(emits).map(({ body }) => decodeEnvelope(body));
}

/** The codes of what was discarded. */
export function discardedCodes(emits: readonly Emit[]): readonly string[] {
  return emits
    .filter(({ topic }) => topic.name === "message.discarded.v1")
    .map((emit) => (emit.value(randomUUID()) as { readonly code: string }).code);
}

export function textsOf({ messages }: OpenedMailbox): readonly string[] {
  return messages.map(({ body }) => Buffer.from(body).toString("utf8"));
}

/** Message keys that two different ciphertexts were made with; what leaves must have none. */
export function keysUsedTwice(envelopes: readonly Envelope[]): readonly string[] {
  const seen = new Map<string, string>();
  const twice: string[] = [];
  const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex");
  for (const { sessionId, dhPublicKey, sendCounter, nonce, ciphertext } of envelopes) {
    const place = `${hex(sessionId)} ${hex(dhPublicKey)} ${sendCounter}`;
    const made = `${hex(nonce)} ${hex(ciphertext)}`;
    if ((seen.get(place) ?? made) !== made) twice.push(place);
    seen.set(place, made);
  }
  return twice;
}
