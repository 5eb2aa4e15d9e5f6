/**
 * Server custody over real servers, without the service's processes: agents whose keys lie in a keyring of their own, steps of the encryption
 * consumer, mailboxes and their opening.
 */
import { randomUUID } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { encryption } from "../consumers/encryption/encryption.ts";
import type { EncryptionDeps, StateSource } from "../consumers/encryption/sending.ts";
import { decodeEnvelope, type Envelope, encodeEnvelope } from "../protocol/envelope.ts";
import { encodeFrame } from "../protocol/frame.ts";
import { sealIngress } from "../protocol/ingress.ts";
import { initiate, sealMessage, sendingSession } from "../protocol/peer.ts";
import { makePrekeys } from "../protocol/prekey-stock.ts";
import { nodePrimitives, nodeRandom } from "../protocol/primitives/node.ts";
import { makeRetryRequest, retryRequestToJson } from "../protocol/retry-request.ts";
import type { MessageEncrypted, MessageReceipt, MessageSend, ReceiptItem } from "../schemas/values.ts";
import type { End } from "../store/acks.ts";
import { findSealedIdentities, registerAgent } from "../store/agents.ts";
import { openAtRest } from "../store/at-rest.ts";
import { type BegunSession, beginSession } from "../store/custody/begin-session.ts";
import { type CustodyKeys, openCustodyKeys } from "../store/custody/custody-keys.ts";
import { type Asking, type OpenedMailbox, openMailbox } from "../store/custody/open-mailbox.ts";
import { type RequestKey, type TakenRequests, takeRequests } from "../store/custody/requests.ts";
import { openStateCache } from "../store/custody/state-cache.ts";
import { lockStates, writeStates } from "../store/custody/states.ts";
import { openIngressKeys } from "../store/ingress.ts";
import type { Keyring } from "../store/keyring/keyring.ts";
import { createKeyring, openKeyring } from "../store/keyring/keyring-file.ts";
import { openRootFile } from "../store/keyring/root-file.ts";
import { openMessageDays } from "../store/message-days.ts";
import type { MessageKey } from "../store/messages.ts";
import { inTransaction, type Postgres } from "../store/postgres.ts";
import { findClaim, takeBundle } from "../store/prekey-claims.ts";
import { uploadPrekeys } from "../store/prekey-uploads.ts";
import type { Arrival } from "../store/queuing.ts";
import type { RedisDoor } from "../store/redis.ts";
import type { Tx } from "../store/tx.ts";
import { messageEncrypted, messageReceipt, messageSend } from "../streams/catalogue.ts";
import { protocolCommand } from "../streams/command-events.ts";
import type { Emit, Inbound, StepConsumer } from "../streams/consumer.ts";
import { inStep, placeAll, sampleItemId } from "./messaging.ts";
import { openPrekeyStore } from "./prekeys.ts";

export interface CustodyStage {
  readonly postgres: Postgres;
  readonly redis: RedisDoor;
  readonly keys: CustodyKeys;
  readonly keyring: Keyring;
  readonly consumer: StepConsumer<MessageSend, Tx>;
  /** As another process would go on: with nothing of states in its memory. */
  startAnew(): void;
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
  /** One for each text, in order. */
  commands(from: string, to: string, texts: readonly string[]): Promise<Inbound<MessageSend>[]>;
  /** A command whose sender sealed these bytes itself, whatever they are. */
  sealed(from: string, to: string, content: Uint8Array, messageId?: string): Promise<Inbound<MessageSend>>;
  /** Begins a session ahead of the first message. */
  begin(from: string, to: string): Promise<BegunSession | null>;
  step(batch: readonly Inbound<MessageSend>[]): Promise<readonly Emit[]>;
  /** Where the states of the steps since the last call were found. */
  found(): readonly StateSource[];
  /** Puts what was emitted into mailboxes, as queuing does. */
  deliver(emits: readonly Emit[]): Promise<void>;
  /** The same of one envelope, whatever it is. */
  deliverEnvelope(envelope: Envelope): Promise<void>;
  /** A message under a content type that no command may name: as a peer with its own keys would say it. Delivered; its id. */
  sayAs(from: string, to: string, contentType: string, text: string): Promise<string>;
  /** From the start, or from behind a cursor. */
  open(recipientId: string, afterSeq?: number): Promise<OpenedMailbox>;
  /** Ends items as the acks consumer does. */
  end(emits: readonly Emit[]): Promise<void>;
  /** A command as a reader's call or the job appends it. */
  asking(from: string, { senderId, messageId, requestId }: Asking): Inbound<MessageSend>;
  answering(key: RequestKey): Inbound<MessageSend>;
  /** Puts this record, sealed, in the place of what an agent keeps of a peer. */
  overwriteState(ownerId: string, peerId: string, record: Uint8Array): Promise<void>;
  /** Agents of whom no bundle can be had. */
  readonly withoutBundles: Set<string>;
  /** A retry request in the mailbox of a message's sender, in the name of one agent and with the keys of another; its item id. */
  forgeRequest(request: { readonly by: string; readonly as: string; readonly about: MessageKey }): Promise<string>;
  takeRequests(ownerId: string, now?: number): Promise<TakenRequests>;
  close(): Promise<void>;
}

const range = { afterSeq: 0, limit: 100, maxBytes: 1 << 22 };

/** `clock`: of the step and of openings; `sealedAt`: the one by which rows are sealed. Both in ms since the epoch. */
export async function openCustodyStage({
  clock = Date,
  sealedAt = Date.now,
}: {
  readonly clock?: { readonly now: () => number };
  readonly sealedAt?: () => number;
} = {}): Promise<CustodyStage> {
  const folder = mkdtempSync(path.join(tmpdir(), "sealpost-custody-"));
  const roots = openRootFile(path.join(folder, "root"));
  createKeyring(path.join(folder, "keyring"), roots);
  const keyring = openKeyring(path.join(folder, "keyring"), roots);
  const atRest = openAtRest(keyring, sealedAt);
  const keys = openCustodyKeys(keyring, atRest);
  const ingress = openIngressKeys(keyring);
  const store = await openPrekeyStore();
  const { postgres } = store;
  const withoutBundles = new Set<string>();
  const claim: EncryptionDeps["claim"] = async (wanted) => {
    if (withoutBundles.has(wanted.targetId)) return null;
    const dated = { ...wanted, now: Date.now() };
    const earlier = await findClaim(postgres, dated);
    return (earlier ?? (await takeBundle(postgres, store.deps, dated, { oneTime: true })))?.bundle ?? null;
  };
  const found: StateSource[] = [];
  function openProcess() {
    const states = openStateCache({ redis: store.redis, keyring, keys });
    const consumer = encryption({
      ...{ keys, ingress, states, claim, observeSeconds: () => undefined, now: () => clock.now() },
      countStates: (source, pairs) => found.push(...Array.from({ length: pairs }, () => source)),
    });
    return { states, consumer };
  }
  let process = openProcess();
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

  async function identityOf(agentId: string) {
    const sealed = (await findSealedIdentities(postgres, [agentId])).get(agentId);
    if (sealed === undefined) throw new Error("no agent");
    return keys.openIdentity(agentId, sealed);
  }

  async function sealed(senderId: string, recipientId: string, content: Uint8Array, messageId = sampleItemId()) {
    const ids = { senderId, recipientId, messageId };
    const bytes = await sealIngress(nodePrimitives, nodeRandom, ingress.currentKey(), ids, content);
    const empty = { hmac: new Uint8Array(), sessionId: new Uint8Array() };
    return recordOf({ kind: "message", ...ids, ...empty, sealed: bytes, aboutId: null, sentAt: Date.now() });
  }

  function recordOf(value: MessageSend): Inbound<MessageSend> {
    const key = `${value.senderId}:${value.recipientId}`;
    return { topic: messageSend, partition: 0, offset: offset++, key, value, headers: {}, timestamp: value.sentAt };
  }

  const command: CustodyStage["command"] = async (
    senderId,
    recipientId,
    text,
    messageId,
    contentType = "text/plain",
  ) => {
    keys.require(senderId);
    return sealed(senderId, recipientId, encodeFrame({ contentType, body: Buffer.from(text) }), messageId);
  };

  return {
    postgres,
    redis: store.redis,
    keys,
    keyring,
    get consumer() {
      return process.consumer;
    },
    startAnew: () => {
      process.states.close();
      process = openProcess();
    },
    withoutBundles,
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
    command,
    commands: (from, to, texts) => Promise.all(texts.map((text) => command(from, to, text))),
    sealed,
    begin: (ownerId, peerId) =>
      beginSession({ postgres, keys, claim }, { ownerId, peerId }, `session:${randomUUID()}`, Date.now()),
    rekey: (senderId, recipientId, sessionId) => {
      const empty = { sealed: new Uint8Array(), hmac: new Uint8Array() };
      const ids = { senderId, recipientId, messageId: sampleItemId() };
      return recordOf({ kind: "rekey", ...ids, ...empty, sessionId, aboutId: null, sentAt: Date.now() });
    },
    step: async (batch) => {
      const emits = await inStep(postgres, (tx) => process.consumer.step(batch, tx));
      process.states.committed();
      return emits;
    },
    found: () => found.splice(0),
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
    sayAs: async (ownerId, peerId, contentType, text) => {
      const [me, own] = [await identityOf(ownerId), { now: Date.now(), random: nodeRandom }];
      const message = { messageId: sampleItemId(), contentType, body: Buffer.from(text) };
      const { envelope } = await inTransaction(postgres, async (client) => {
        const [stored] = await lockStates(client, [{ ownerId, peerId }], { areThere: false });
        if (stored === undefined) throw new Error("no row");
        let peer = keys.openState(stored);
        if (sendingSession(peer, own.now) === null) {
          const bundle = await claim({ claimerId: ownerId, targetId: peerId, requestId: message.messageId });
          if (bundle === null) throw new Error("no bundle");
          peer = initiate(nodePrimitives, me, peer, bundle, own);
        }
        const sealed = sealMessage(nodePrimitives, me, peer, message, own);
        const { version: readVersion, generation } = stored;
        const state = keys.sealState(ownerId, sealed.peer, readVersion + 1);
        await writeStates(client, [{ ownerId, peerId, readVersion, generation, state }]);
        return sealed;
      });
      await placeAll(postgres, [
        arrivalOf({
          ...{ kind: "message", itemId: message.messageId, senderId: ownerId, recipientId: peerId },
          ...{ custody: "server", body: encodeEnvelope(envelope) },
        }),
      ]);
      return message.messageId;
    },
    open: (recipientId, afterSeq = 0) =>
      openMailbox({ postgres, days, keys }, recipientId, { ...range, afterSeq }, clock.now()),
    end: async (emits) => {
      const receipts = emits.filter(({ topic }) => topic.name === messageReceipt.name);
      const changes = receipts
        .map((emit) => emit.value(randomUUID()) as MessageReceipt)
        .flatMap(({ recipientId, items }) =>
          items.map(({ senderId, itemId, outcome, at, code }) => ({
            ...{ recipientId, senderId, itemId, deliveredAt: null, undeliverableAt: null, asideAt: null },
            end: { outcome: outcome as End, at, code },
          })),
        );
      await inStep(postgres, (tx) => tx.acks.settle(changes));
    },
    asking: (senderId, { senderId: recipientId, messageId: aboutId, requestId }) =>
      recordOf(
        protocolCommand({ kind: "retry", messageId: requestId, senderId, recipientId, aboutId, sentAt: clock.now() }),
      ),
    answering: ({ ownerId, peerId, itemId }) =>
      recordOf(
        protocolCommand({
          ...{ kind: "repair", messageId: sampleItemId(clock.now()), senderId: ownerId, recipientId: peerId },
          ...{ aboutId: itemId, sentAt: clock.now() },
        }),
      ),
    overwriteState: async (ownerId, peerId, record) => {
      const { rows } = await postgres.query<{ version: number }>({
        text: "SELECT version FROM messaging_sessions WHERE owner_id = $1 AND peer_id = $2",
        values: [ownerId, peerId],
      });
      const version = rows[0]?.version ?? 0;
      const state = atRest.seal(
        { agentId: ownerId, table: "messaging_sessions", row: [ownerId, peerId], version },
        record,
      );
      await postgres.query({
        text: "UPDATE messaging_sessions SET state = $3 WHERE owner_id = $1 AND peer_id = $2",
        values: [ownerId, peerId, state],
      });
    },
    forgeRequest: async ({ by, as: senderId, about }) => {
      const facts = { ...about, recipientId: senderId, sessionId: nodeRandom(16), dhPublicKey: nodeRandom(32) };
      const request = makeRetryRequest(nodePrimitives, await identityOf(by), facts, clock.now());
      const body = Buffer.from(JSON.stringify(retryRequestToJson(request)));
      const itemId = sampleItemId();
      const recipientId = about.senderId;
      await placeAll(postgres, [arrivalOf({ kind: "retry", itemId, senderId, recipientId, custody: "server", body })]);
      return itemId;
    },
    takeRequests: (ownerId, now = clock.now()) => takeRequests(postgres, ownerId, now),
    close: async () => {
      for (const door of [process.states, ingress, keys, atRest, keyring, roots]) door.close();
      await store.close();
      rmSync(folder, { recursive: true });
    },
  };
}

function arrivalOf(item: MessageEncrypted): Arrival {
  if (item.kind === "retry") {
    return { ...item, sessionId: new Uint8Array(), sendCounter: 0, size: item.body.length, acceptedAt: Date.now() };
  }
  const { sessionId, sendCounter, ciphertext } = decodeEnvelope(item.body);
  return { ...item, sessionId, sendCounter, size: ciphertext.length, acceptedAt: Date.now() };
}

export function encryptedItems(emits: readonly Emit[]): readonly MessageEncrypted[] {
  return emits
    .filter(({ topic }) => topic.name === messageEncrypted.name)
    .map((emit) => emit.value(randomUUID()) as MessageEncrypted);
}

export function envelopesOf(emits: readonly Emit[]): readonly Envelope[] {
  return encryptedItems(emits)
    .filter(({ kind }) => kind === "message")
    .map(({ body }) => decodeEnvelope(body));
}

/** What ends in mailboxes because of a step: outcome, item and code of each. */
export function endedItems(emits: readonly Emit[]): readonly Pick<ReceiptItem, "outcome" | "itemId" | "code">[] {
  return emits
    .filter(({ topic }) => topic.name === messageReceipt.name)
    .flatMap((emit) => (emit.value(randomUUID()) as MessageReceipt).items)
    .map(({ outcome, itemId, code }) => ({ outcome, itemId, code }));
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
