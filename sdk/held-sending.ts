/**
 * Brings stored messages to a service that encrypts them, in order: seals each to the service's key of the day, so that only its encryption tier reads it.
 *
 * One call is unanswered at a time. What was not answered is sent again under the same ids, sealed anew; the service knows it by them. Of a call that was refused the
 * messages it names are set aside, and the rest goes at once; where a mailbox is full they are kept, and go when there is room. Nothing else sets a message
 * aside: whatever may pass is waited for.
 */
import { encodeFrame } from "../protocol/frame.ts";
import { epochOf, type IngressKey, sealIngress } from "../protocol/ingress.ts";
import { nodePrimitives, nodeRandom } from "../protocol/primitives/node.ts";
import { SEND_ENVELOPES_MAX } from "../protocol/stream-frames.ts";
import { AgentError, AgentStopped, ServiceRefused, StoreError } from "./errors.ts";
import { FullMailboxes } from "./full-mailboxes.ts";
import type { HeldService, SealedMessage } from "./held-service.ts";
import type { Life } from "./life.ts";
import type { Outcomes } from "./outcomes.ts";
import { Backoff, delay, retryAfterOf } from "./patience.ts";
import type { Content } from "./store/content.ts";
import type { Store } from "./store/store.ts";

/** Bytes of content in one call: enough that 100 ordinary messages go together. */
const BATCH_BYTES_MAX = 1_048_576;

const RETRY_MS = { firstMs: 200, lastMs: 10_000 };

/** Sealed to a key that the service does not take any more: to be sealed to its new one. */
const EPOCH_REFUSED = "epoch-refused";

interface HeldSendingPorts {
  readonly agentId: () => string;
  readonly store: Store;
  readonly service: Pick<HeldService, "send" | "ingressKey">;
  readonly outcomes: Outcomes;
  readonly life: Life;
}

interface Waiting {
  /** Its place in the order of sending. */
  readonly n: number;
  readonly messageId: string;
  readonly recipientId: string;
  readonly content: Content;
}

export class HeldSending {
  readonly #ports: HeldSendingPorts;
  readonly #backoff = new Backoff(RETRY_MS);
  /** `day`: the one, by this machine's clock, on which it was asked for. */
  #key: { readonly key: IngressKey; readonly day: number } | null = null;
  #isRunning = false;
  /** What waits for room in mailboxes is not sent, and nothing to the same recipient behind it. */
  readonly #full = new FullMailboxes(() => this.pump());

  constructor(ports: HeldSendingPorts) {
    this.#ports = ports;
  }

  /** Sends what waits. Call it whenever something was stored. */
  pump(): void {
    if (this.#isRunning || this.#ports.life.signal.aborted) return;
    this.#isRunning = true;
    this.#ports.life.background(this.#run());
  }

  stop(): void {
    this.#full.clear();
  }

  async #run(): Promise<void> {
    try {
      for (let batch = this.#next(); batch.length > 0; batch = this.#next()) await this.#send(batch);
    } finally {
      // In the turn of the last look: nothing can have been stored in between.
      this.#isRunning = false;
    }
  }

  #next(): Waiting[] {
    const { outbox } = this.#ports.store;
    const batch: Waiting[] = [];
    let bytes = 0;
    const isHeld = (message: { recipientId: string; n: number }) => this.#full.holds(message);
    for (const { n, messageId, recipientId } of outbox.pending(0, SEND_ENVELOPES_MAX, BATCH_BYTES_MAX, isHeld)) {
      const content = outbox.repairable(messageId)?.content;
      if (content === undefined) throw new Error("a message that waits has no content");
      bytes += content.body.length;
      if (batch.length > 0 && bytes > BATCH_BYTES_MAX) break;
      batch.push({ n, messageId, recipientId, content });
    }
    return batch;
  }

  async #send(batch: readonly Waiting[]): Promise<void> {
    const { service, outcomes, life } = this.#ports;
    try {
      const key = await this.#keyOfToday();
      await service.send(await Promise.all(batch.map((message) => this.#seal(key, message))));
    } catch (error) {
      if (!(error instanceof AgentError) || error instanceof AgentStopped || error instanceof StoreError) throw error;
      life.signal.throwIfAborted();
      if (await this.#isSettled(error, batch)) return;
      life.trouble(error);
      await delay(this.#backoff.next(retryAfterOf(error)), life.signal);
      return;
    }
    this.#backoff.reset();
    for (const { recipientId } of batch) this.#full.hasTaken(recipientId);
    await outcomes.record(batch.map(({ messageId }) => ({ messageId, state: "accepted" as const })));
  }

  /** Sees to the messages that the refusal names, so that the others may go; false when it names none. */
  async #isSettled(error: AgentError, batch: readonly Waiting[]): Promise<boolean> {
    if (!(error instanceof ServiceRefused)) return false;
    if (error.itemFaults.some(({ code }) => code === EPOCH_REFUSED)) this.#key = null;
    const named = error.itemFaults.flatMap(({ index, code, rule }) => {
      const message = batch[index];
      return message === undefined || code === EPOCH_REFUSED ? [] : [{ message, code: rule ?? code }];
    });
    if (named.length === 0) return false;
    if (error.retryable) {
      this.#ports.life.trouble(error);
      for (const { message } of named) this.#full.add(message, retryAfterOf(error));
    } else {
      const { outcomes } = this.#ports;
      await outcomes.record(
        named.map(({ message: { messageId }, code }) => ({ messageId, state: "rejected" as const, code })),
      );
    }
    return true;
  }

  /** The service has a new one every day, and takes the old one for a day more. */
  async #keyOfToday(): Promise<IngressKey> {
    const day = epochOf(Date.now());
    if (this.#key?.day !== day) this.#key = { key: await this.#ports.service.ingressKey(), day };
    return this.#key.key;
  }

  async #seal(key: IngressKey, { messageId, recipientId, content }: Waiting): Promise<SealedMessage> {
    const command = { senderId: this.#ports.agentId(), recipientId, messageId };
    const sealed = await sealIngress(nodePrimitives, nodeRandom, key, command, encodeFrame(content));
    return { messageId, recipientId, sealed };
  }
}
