/**
 * An agent for load: the protocol, HTTP and stream of the SDK without its store, so that the service is measured and not a disk here.
 *
 * Not for use: keys and ratchets live in memory, and nothing is resent.
 */
import { randomUUID } from "node:crypto";
import { decodeEnvelope, encodeEnvelope } from "../protocol/envelope.ts";
import { createIdentity, type Identity } from "../protocol/identity.ts";
import { makeMessageId } from "../protocol/message-id.ts";
import {
  initiate,
  type OwnKemPrekey,
  openEnvelope,
  type Peer,
  sealMessage,
  sealRekeyAnswer,
  sendingSession,
  unknownPeer,
} from "../protocol/peer.ts";
import { makePrekeys } from "../protocol/prekey-stock.ts";
import { nodePrimitives, nodeRandom } from "../protocol/primitives/node.ts";
import type { KeyPair, Random } from "../protocol/primitives/primitives.ts";
import { REKEY_CONTENT_TYPE } from "../protocol/session.ts";
import { SEND_ENVELOPES_MAX, type ServerFrame, type StreamItemId } from "../protocol/stream-frames.ts";
import type { StreamConnection } from "../sdk/service.ts";
import { ServiceClient } from "../sdk/service-client.ts";

interface Arrival {
  readonly messageId: string;
  readonly senderId: string;
  readonly body: Uint8Array;
}

interface BenchAgentHandlers {
  readonly onMessage: (arrival: Arrival) => void;
  readonly onAccepted: (count: number) => void;
  /** A message was sealed and put on its way; accepted ones are reported in this order. */
  readonly onSent: (intendedMs: number) => void;
  readonly onRefused: (problem: Readonly<Record<string, unknown>>) => void;
  /** Given: sees what arrives as it is, and answers items itself; nothing is opened. */
  readonly onFrames?: (frames: readonly ServerFrame[]) => void;
}

export class BenchAgent {
  readonly id: string;
  readonly #random: Random;
  readonly #me: Identity;
  readonly #client: ServiceClient;
  readonly #ending = new AbortController();
  readonly #peers = new Map<string, Peer>();
  readonly #signedPrekeys = new Map<string, KeyPair>();
  readonly #oneTimePrekeys = new Map<string, KeyPair>();
  readonly #kemPrekeys = new Map<string, OwnKemPrekey>();
  readonly #outgoing: Uint8Array[] = [];
  readonly #batchSizes = new Map<number, number>();
  readonly #handlers: BenchAgentHandlers;
  #connection: StreamConnection | null = null;
  #batch = 0;
  #flushing = false;

  /** `random`: where keys and nonces come from; a test may want to know them. */
  constructor(url: string, handlers: BenchAgentHandlers, random: Random = nodeRandom) {
    this.#random = random;
    this.#me = createIdentity(nodePrimitives, random);
    this.id = this.#me.agentId;
    this.#client = new ServiceClient(new URL(url), this.#me, this.#ending.signal);
    this.#handlers = handlers;
  }

  /** Registers, publishes prekeys, opens the stream. */
  async start(): Promise<void> {
    await this.#client.register();
    const now = Date.now();
    const births = { now, random: this.#random, newId: randomUUID };
    const due = { rotation: true, oneTime: 10, kem: 10 };
    const { signed, lastResort, oneTime, kem } = makePrekeys(nodePrimitives, this.#me, due, births);
    if (signed === null || lastResort === null) throw new Error("a rotation makes both");
    this.#signedPrekeys.set(signed.prekey.id, signed.pair);
    for (const { prekey, pair } of oneTime) this.#oneTimePrekeys.set(prekey.id, pair);
    for (const { prekey, pair } of [lastResort, ...kem]) {
      this.#kemPrekeys.set(prekey.id, { pair, lastResort: prekey.lastResort });
    }
    await this.#client.uploadPrekeys({
      signedPrekey: signed.prekey,
      lastResortKemPrekey: lastResort.prekey,
      oneTimePrekeys: oneTime.map(({ prekey }) => prekey),
      kemPrekeys: kem.map(({ prekey }) => prekey),
      replace: false,
    });
    await this.connect();
  }

  async connect(): Promise<void> {
    const handlers = {
      onOpen: (connection: StreamConnection) => {
        this.#connection = connection;
      },
      onFrames: (frames: readonly ServerFrame[]) => this.#onFrames(frames),
      onClose: () => undefined,
    };
    await this.#client.openStream(handlers);
  }

  /** Begins a session with another agent; its first message still has to go. */
  async meet(agentId: string): Promise<void> {
    const bundle = await this.#client.claimBundle(agentId, randomUUID());
    const clock = { now: Date.now(), random: this.#random };
    this.#peers.set(agentId, initiate(nodePrimitives, this.#me, this.#peerOf(agentId), bundle, clock));
  }

  /** Seals now; leaves with whatever else is sent in the same turn of the event loop. */
  send(to: string, body: Uint8Array, intendedMs: number): void {
    const clock = { now: Date.now(), random: this.#random };
    const peer = this.#peerOf(to);
    if (sendingSession(peer, clock.now) === null) {
      // A thousand messages without an answer: the service is behind by as many (or nobody called `meet`).
      this.#handlers.onRefused({ code: "chain-full" });
      return;
    }
    const messageId = makeMessageId(clock.now, this.#random);
    const message = { messageId, contentType: "application/octet-stream", body };
    const sealed = sealMessage(nodePrimitives, this.#me, peer, message, clock);
    this.#peers.set(to, sealed.peer);
    this.#outgoing.push(encodeEnvelope(sealed.envelope));
    this.#handlers.onSent(intendedMs);
    this.#flushSoon();
  }

  /** Acknowledges these items. */
  answer(items: readonly StreamItemId[]): void {
    this.#connection?.send([{ type: "ack", items: items.map(({ senderId, itemId }) => ({ senderId, itemId })) }]);
  }

  /** Ends the connection as a broken network does. */
  cut(): void {
    this.#connection?.terminate();
    this.#connection = null;
  }

  close(): void {
    this.#connection?.close();
    this.#ending.abort();
  }

  #flush(): void {
    this.#flushing = false;
    while (this.#outgoing.length > 0) {
      const envelopes = this.#outgoing.splice(0, SEND_ENVELOPES_MAX);
      this.#batch += 1;
      this.#batchSizes.set(this.#batch, envelopes.length);
      this.#connection?.send([{ type: "send", batch: this.#batch, envelopes }]);
    }
  }

  #onFrames(frames: readonly ServerFrame[]): void {
    if (this.#handlers.onFrames !== undefined) {
      this.#handlers.onFrames(frames);
      return;
    }
    let lastSeq = 0;
    for (const frame of frames) {
      if (frame.type === "item") {
        lastSeq = frame.seq;
        this.#open(frame.senderId, frame.body);
      } else if (frame.type === "accepted") {
        this.#handlers.onAccepted(this.#batchSizes.get(frame.batch) ?? 0);
        this.#batchSizes.delete(frame.batch);
      } else if (frame.type === "rejected") {
        this.#handlers.onRefused(frame.problem);
        this.#batchSizes.delete(frame.batch);
      }
    }
    if (lastSeq > 0) this.#connection?.send([{ type: "ack-up-to", seq: lastSeq }]);
  }

  #open(senderId: string, body: Uint8Array): void {
    const envelope = decodeEnvelope(body);
    const prekeys = {
      signedPrekey: (id: string) => this.#signedPrekeys.get(id) ?? null,
      oneTimePrekey: (id: string) => this.#oneTimePrekeys.get(id) ?? null,
      kemPrekey: (id: string) => this.#kemPrekeys.get(id) ?? null,
      kemPublished: true,
    };
    const clock = { now: Date.now(), random: this.#random };
    const opened = openEnvelope(nodePrimitives, this.#me, prekeys, this.#peerOf(senderId), envelope, clock);
    this.#peers.set(senderId, opened.peer);
    if (typeof opened.frame === "string") throw new Error("a message of the bench has a bad frame");
    if (opened.rekeyAnswerDue) this.#answerRekey(senderId, envelope.sessionId);
    if (opened.frame.contentType === REKEY_CONTENT_TYPE) return;
    this.#handlers.onMessage({ messageId: envelope.messageId, senderId, body: opened.frame.body });
  }

  /** Turns the ratchets, as an agent with nothing to say does (protocol.md §4). */
  #answerRekey(agentId: string, sessionId: Uint8Array): void {
    const clock = { now: Date.now(), random: this.#random };
    const names = { sessionId: sessionId.slice(), messageId: makeMessageId(clock.now, this.#random) };
    const sealed = sealRekeyAnswer(nodePrimitives, this.#me, this.#peerOf(agentId), names, clock);
    if (sealed === null) return;
    this.#peers.set(agentId, sealed.peer);
    this.#outgoing.push(encodeEnvelope(sealed.envelope));
    this.#flushSoon();
  }

  #flushSoon(): void {
    if (this.#flushing) return;
    this.#flushing = true;
    setImmediate(() => this.#flush());
  }

  #peerOf(agentId: string): Peer {
    return this.#peers.get(agentId) ?? unknownPeer(agentId);
  }
}
