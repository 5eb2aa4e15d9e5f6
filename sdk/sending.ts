/**
 * Brings stored envelopes to the service, in order, over the agent's stream.
 *
 * One batch is unconfirmed at a time. What was not confirmed is sent again as the same bytes: after a new connection, and after a problem of the
 * service's own. Of a batch that was refused, the envelopes it names are set aside, and the rest goes at once; where a mailbox is full they are kept, and go
 * when there is room.
 */
import { DAY_MS } from "../protocol/limits.ts";
import { type AcceptedFrame, type RejectedFrame, SEND_ENVELOPES_MAX } from "../protocol/stream-frames.ts";
import { AgentError, AgentStopped, SendRejected, ServiceRefused, STOPPING_CODES } from "./errors.ts";
import { FullMailboxes } from "./full-mailboxes.ts";
import type { Outcome, Outcomes } from "./outcomes.ts";
import { Backoff } from "./patience.ts";
import { readProblem } from "./problem.ts";
import type { Sealing } from "./sealing.ts";
import type { Service, StreamConnection } from "./service.ts";
import type { PendingEnvelope } from "./store/outbox.ts";
import type { Store } from "./store/store.ts";

/** Bytes of one batch: enough that 100 ordinary messages go together, and little enough that a lost batch costs little. */
const BATCH_BYTES_MAX = 1_048_576;

/** An answer that takes longer is lost: the service gives up its own appends before. */
const ANSWER_MS_MAX = 30_000;

const RETRY_MS = { firstMs: 200, lastMs: 10_000 };

/** An envelope without an answer is given up before the service stops taking its id (protocol.md §4). */
const ENVELOPE_AGE_MS_MAX = 6 * DAY_MS;

const TOO_OLD = "message-id-too-old";

/** Only a control message, of which nobody hears, or one whose content is not kept. */
const ROLLED_BACK = "store-rolled-back";

/** Refusals that are not about the envelopes. */
const AGENT_CODES: ReadonlySet<string> = new Set([...STOPPING_CODES, "agent-unknown"]);

interface SendingPorts {
  readonly store: Store;
  readonly service: Service;
  readonly sealing: Pick<Sealing, "sealAnew">;
  readonly outcomes: Outcomes;
  readonly onTrouble: (error: AgentError) => void;
  /** For what nobody awaits: a rejection stops the agent. */
  readonly background: (work: Promise<unknown>) => void;
}

interface Batch {
  readonly id: number;
  readonly envelopes: readonly PendingEnvelope[];
  /** Everything up to this place is done with when it is accepted. */
  doneN: number;
  readonly timer: NodeJS.Timeout;
}

export class Sending {
  readonly #ports: SendingPorts;
  readonly #backoff = new Backoff(RETRY_MS);
  #connection: StreamConnection | null = null;
  #batch: Batch | null = null;
  #nextBatchId = 1;
  /** Everything up to this place was answered, or is not to be sent on this connection. */
  #doneN = 0;
  /** Up to this place one by one: some batch was refused without a word on which envelope it was. */
  #singlyUpToN = 0;
  /** Nothing leaves: after a refusal that may pass, or while one that will not is written down. */
  #isHeld = false;
  #holdTimer: NodeJS.Timeout | null = null;
  /** What waits for room in mailboxes is not sent, and nothing to the same recipient behind it. */
  readonly #full = new FullMailboxes((fromN) => {
    // What was taken since and is not written down yet may go once more: the service has it, and says so.
    this.#doneN = Math.min(this.#doneN, fromN - 1);
    // Nor are they skipped by the answer to a batch that left while they waited.
    if (this.#batch !== null) this.#batch.doneN = Math.min(this.#batch.doneN, fromN - 1);
    this.pump();
  });
  /** Nothing leaves while envelopes too old to be sent are seen to. */
  #isGivingUp = false;

  constructor(ports: SendingPorts) {
    this.#ports = ports;
  }

  onOpen(connection: StreamConnection): void {
    this.#connection = connection;
    this.#doneN = 0;
    this.#full.clear();
    this.#release();
    this.pump();
  }

  onClose(): void {
    this.#connection = null;
    this.#dropBatch();
  }

  /** Sends what waits, if it may. Call it whenever something was stored. */
  pump(): void {
    const connection = this.#connection;
    if (connection === null || this.#batch !== null || this.#isHeld || this.#isGivingUp) return;
    const countMax = this.#doneN < this.#singlyUpToN ? 1 : SEND_ENVELOPES_MAX;
    const isHeld = (message: { recipientId: string; n: number }) => this.#full.holds(message);
    const envelopes = this.#ports.store.outbox.pending(this.#doneN, countMax, BATCH_BYTES_MAX, isHeld);
    const old = envelopes.filter(isTooOld);
    const last = envelopes.at(-1);
    if (old.length > 0) {
      this.#ports.background(this.#giveUp(old));
    } else if (last !== undefined) {
      const timer = setTimeout(() => connection.terminate(), ANSWER_MS_MAX);
      this.#batch = { id: this.#nextBatchId, envelopes, doneN: last.n, timer };
      this.#nextBatchId = (this.#nextBatchId + 1) >>> 0;
      const bodies = envelopes.map(({ envelope }) => envelope);
      connection.send([{ type: "send", batch: this.#batch.id, envelopes: bodies }]);
    }
  }

  async onAccepted({ batch: id }: AcceptedFrame): Promise<void> {
    const batch = this.#take(id);
    if (batch === null) return;
    this.#backoff.reset();
    this.#doneN = batch.doneN;
    for (const { recipientId } of batch.envelopes) this.#full.hasTaken(recipientId);
    this.pump();
    await this.#ports.outcomes.record(
      batch.envelopes.map(({ messageId }) => ({ messageId, state: "accepted" as const })),
    );
  }

  async onRejected({ batch: id, problem: json }: RejectedFrame): Promise<void> {
    const batch = this.#take(id);
    if (batch === null) return;
    const problem = readProblem(json);
    const named = problem.itemFaults.flatMap(({ index, code, rule }) => {
      const envelope = batch.envelopes[index];
      return envelope === undefined ? [] : [{ envelope, code: rule ?? code }];
    });
    // One that grew too old on its way (the machine slept) is not at fault: it is given up like any other of its age.
    const faults = named.filter(({ envelope, code }) => code !== TOO_OLD || !isTooOld(envelope));
    if (faults.length > 0 && !problem.retryable) {
      await this.#setAside(
        faults.map(({ envelope: { messageId }, code }) => ({ messageId, state: "rejected" as const, code })),
      );
    } else if (named.length > faults.length) {
      this.pump();
    } else if (problem.retryable && named.length > 0) {
      this.#ports.onTrouble(
        new AgentError(problem.code, "messages to some recipients have to wait", { retryable: true }),
      );
      for (const { envelope } of named) this.#full.add(envelope, problem.retryAfterMs ?? 0);
      this.pump();
    } else if (AGENT_CODES.has(problem.code)) {
      throw new AgentStopped(problem.code, new ServiceRefused(problem));
    } else if (problem.retryable) {
      this.#ports.onTrouble(new AgentError(problem.code, "the service cannot take messages now", { retryable: true }));
      this.#hold(this.#backoff.next(problem.retryAfterMs ?? 0));
    } else if (batch.envelopes.length === 1) {
      const [{ messageId }] = batch.envelopes as [PendingEnvelope];
      await this.#setAside([{ messageId, state: "rejected", code: problem.rule ?? problem.code }]);
    } else {
      this.#singlyUpToN = batch.envelopes.at(-1)?.n ?? 0;
      this.pump();
    }
  }

  /** Says anew what was held in sessions that send no more (rollback.ts); each waits for its own peer's bundle only. */
  async sayHeldAnew(): Promise<void> {
    await Promise.all(this.#ports.store.outbox.held().map((message) => this.#sayAnew(message, ROLLED_BACK)));
    this.pump();
  }

  stop(): void {
    this.onClose();
    this.#full.clear();
    this.#release();
  }

  /** The rest goes when it is written that these do not. */
  async #setAside(faults: readonly Outcome[]): Promise<void> {
    this.#isHeld = true;
    await this.#ports.outcomes.record(faults);
    this.#release();
    this.pump();
  }

  /**
   * The service may no longer take these ids. Those it has are as good as sent; the others are said anew under new ids, so that at most
   * one of the two arrives as a message of its own.
   */
  async #giveUp(old: readonly PendingEnvelope[]): Promise<void> {
    const { service, outcomes } = this.#ports;
    this.#isGivingUp = true;
    try {
      const unknown = new Set(
        await outcomes.askFor(
          service,
          old.map(({ messageId }) => messageId),
        ),
      );
      for (const message of old) if (unknown.has(message.messageId)) await this.#sayAnew(message, TOO_OLD);
    } catch (error) {
      // What was to be said anew stays where it is, for the next open.
      if (!(error instanceof AgentError) || error instanceof AgentStopped) throw error;
      this.#ports.onTrouble(error);
      this.#hold(this.#backoff.next());
    } finally {
      this.#isGivingUp = false;
    }
    this.pump();
  }

  /** `code`: what is told when there is nothing left to say. */
  async #sayAnew(
    { messageId, recipientId }: Pick<PendingEnvelope, "messageId" | "recipientId">,
    code: string,
  ): Promise<void> {
    const { sealing, outcomes } = this.#ports;
    let told = code;
    try {
      if ((await sealing.sealAnew(recipientId, messageId, null)) !== null) return;
    } catch (error) {
      if (!(error instanceof SendRejected) || error.retryable) throw error;
      told = error.rule ?? error.code;
    }
    await outcomes.record([{ messageId, state: "rejected", code: told }]);
  }

  #take(id: number): Batch | null {
    const batch = this.#batch;
    if (batch === null || batch.id !== id) return null;
    this.#dropBatch();
    return batch;
  }

  #dropBatch(): void {
    if (this.#batch !== null) clearTimeout(this.#batch.timer);
    this.#batch = null;
  }

  #hold(ms: number): void {
    this.#release();
    this.#isHeld = true;
    this.#holdTimer = setTimeout(() => {
      this.#release();
      this.pump();
    }, ms);
  }

  #release(): void {
    if (this.#holdTimer !== null) clearTimeout(this.#holdTimer);
    this.#holdTimer = null;
    this.#isHeld = false;
  }
}

function isTooOld({ createdAt }: PendingEnvelope): boolean {
  return createdAt < Date.now() - ENVELOPE_AGE_MS_MAX;
}
