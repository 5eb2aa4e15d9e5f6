/**
 * A sender for filling mailboxes: registered and connected, with envelopes that nobody can open. The service does not look inside, so it costs no keys.
 */
import { randomBytes } from "node:crypto";
import { type Envelope, encodeEnvelope } from "../protocol/envelope.ts";
import { createIdentity, type Identity } from "../protocol/identity.ts";
import { makeMessageId } from "../protocol/message-id.ts";
import { nodePrimitives, nodeRandom } from "../protocol/primitives/node.ts";
import { type ReceiptFrame, SEND_ENVELOPES_MAX, type ServerFrame } from "../protocol/stream-frames.ts";
import { ServiceUnavailable } from "../sdk/errors.ts";
import type { StreamConnection } from "../sdk/service.ts";
import { ServiceClient } from "../sdk/service-client.ts";

type Answer = Extract<ServerFrame, { type: "accepted" | "rejected" }>;

/** Between two attempts at what is to be asked again. */
const RETRY_MS = 250;

const ATTEMPTS_MAX = 40;

/** Again while the service cannot: a machine that has just started everything is slow. */
export async function patiently(work: () => Promise<void>): Promise<void> {
  for (let attempts = 1; ; attempts++) {
    try {
      return await work();
    } catch (error) {
      if (!(error instanceof ServiceUnavailable) || attempts === ATTEMPTS_MAX) throw error;
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }
}

export class Flooder {
  readonly me: Identity = createIdentity(nodePrimitives, nodeRandom);
  /** What it heard of its messages. */
  readonly receipts: ReceiptFrame[] = [];
  /** Batches that had to be sent again. */
  refusals = 0;
  readonly #client: ServiceClient;
  readonly #ending = new AbortController();
  readonly #answers = new Map<number, (answer: Answer) => void>();
  #connection: StreamConnection | null = null;
  #batch = 0;

  constructor(url: string) {
    this.#client = new ServiceClient(new URL(url), this.me, this.#ending.signal);
  }

  /** Registers, and opens the stream. */
  async start(): Promise<void> {
    const handlers = {
      onOpen: (connection: StreamConnection) => {
        this.#connection = connection;
      },
      onFrames: (frames: readonly ServerFrame[]) => this.#onFrames(frames),
      onClose: () => undefined,
    };
    await patiently(() => this.#client.register());
    await patiently(() => this.#client.openStream(handlers));
  }

  envelope(recipientId: string, ciphertextBytes: number): Envelope {
    const timestamp = Date.now();
    return {
      messageId: makeMessageId(timestamp, nodeRandom),
      senderId: this.me.agentId,
      recipientId,
      sessionId: new Uint8Array(16).fill(1),
      sendCounter: 1,
      previousCounter: 0,
      dhPublicKey: new Uint8Array(32).fill(2),
      nonce: randomBytes(12),
      ciphertext: randomBytes(ciphertextBytes),
      authTag: randomBytes(16),
      timestamp,
      flags: 0,
      initiation: new Uint8Array(0),
    };
  }

  /** Sends in batches, one after the other; one that may be sent again is, until it is taken. @throws Error for any other refusal */
  async send(envelopes: readonly Envelope[]): Promise<void> {
    for (let start = 0; start < envelopes.length; start += SEND_ENVELOPES_MAX) {
      const some = envelopes.slice(start, start + SEND_ENVELOPES_MAX);
      for (;;) {
        const answer = await this.offer(some);
        if (answer.type === "accepted") break;
        if (answer.problem["retryable"] !== true) throw new Error(`a batch was refused: ${answer.problem["code"]}`);
        this.refusals += 1;
        await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
      }
    }
  }

  /** One batch, as it is answered. */
  offer(envelopes: readonly Envelope[]): Promise<Answer> {
    this.#batch += 1;
    const { promise, resolve } = Promise.withResolvers<Answer>();
    this.#answers.set(this.#batch, resolve);
    const bodies = envelopes.map((envelope) => encodeEnvelope(envelope));
    this.#connection?.send([{ type: "send", batch: this.#batch, envelopes: bodies }]);
    return promise;
  }

  /** Those of them that the service has stored, or had. */
  async stored(messageIds: readonly string[]): Promise<ReadonlySet<string>> {
    const found = new Set<string>();
    for (let start = 0; start < messageIds.length; start += SEND_ENVELOPES_MAX) {
      const some = await this.#client.messageOutcomes(messageIds.slice(start, start + SEND_ENVELOPES_MAX));
      for (const { messageId } of some) found.add(messageId);
    }
    return found;
  }

  /** What the service says became of these. */
  async outcomes(messageIds: readonly string[]): Promise<string[]> {
    const found: string[] = [];
    for (let start = 0; start < messageIds.length; start += SEND_ENVELOPES_MAX) {
      const some = await this.#client.messageOutcomes(messageIds.slice(start, start + SEND_ENVELOPES_MAX));
      found.push(...some.map(({ status }) => status));
    }
    return found;
  }

  close(): void {
    this.#connection?.close();
    this.#ending.abort();
  }

  #onFrames(frames: readonly ServerFrame[]): void {
    for (const frame of frames) {
      if (frame.type === "receipt") this.receipts.push(frame);
      if (frame.type !== "accepted" && frame.type !== "rejected") continue;
      this.#answers.get(frame.batch)?.(frame);
      this.#answers.delete(frame.batch);
    }
  }
}
