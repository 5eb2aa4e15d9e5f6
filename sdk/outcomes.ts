/**
 * What became of the messages sent: writes it into the outbox, and tells whoever waits for it or listens.
 *
 * It comes from answers to batches, from receipts and from asking, in any order and repeatedly; each step forward is told once.
 */

import { DAY_MS } from "../protocol/limits.ts";
import { isRepairable } from "../protocol/retry-request.ts";
import { Channel } from "./channel.ts";
import { AgentError, MessageDiscarded, SendRejected } from "./errors.ts";
import { abandonable } from "./patience.ts";
import type { MessageOutcome, Questions } from "./service.ts";
import type { Moved, OutboxState, UnansweredMessage } from "./store/outbox.ts";
import type { Store } from "./store/store.ts";

/** One call asks for as many as the service takes. */
const ASKED_MAX = 100;

/**
 * The service remembers a message for so long from the time of its id (docs/api.md). One that is younger and unknown may be late, however long that takes: the log
 * has it, and said anew it could arrive twice.
 */
const REMEMBERED_MS = 40 * DAY_MS;

/** Held for a listener that is slower; what it misses is in the outbox. */
const RECEIPTS_BUFFERED_MAX = 10_000;

export interface Receipt {
  readonly messageId: string;
  readonly recipientId: string;
  /** `undeliverable`: it waits, and its recipient could not be woken; it may be delivered all the same. */
  readonly state: "delivered" | "acknowledged" | "discarded" | "undeliverable";
  /** Why it was discarded; null otherwise. */
  readonly code: string | null;
  /** When this agent learned of it. */
  readonly at: number;
}

export interface Outcome {
  readonly messageId: string;
  readonly state: Exclude<OutboxState, "pending">;
  readonly code?: string | null;
  /** Its recipient will not ask for it: it never had it, or nobody answers such a request any more. */
  readonly isFinal?: boolean;
}

/** A message that has moved, and to where. */
interface Step {
  readonly moved: Moved;
  readonly state: Outcome["state"];
  readonly code: string | null;
}

interface Waiter {
  readonly milestone: Milestone;
  readonly isSettledBy: (state: OutboxState) => boolean;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

/** What may be awaited of a message. */
type Milestone = "accepted" | "delivered" | "acknowledged";

const REACHED: Readonly<Record<Milestone, ReadonlySet<OutboxState>>> = {
  // A message that was discarded had been accepted before.
  accepted: new Set(["accepted", "delivered", "acknowledged", "discarded"]),
  delivered: new Set(["delivered", "acknowledged"]),
  acknowledged: new Set(["acknowledged"]),
};

const FAILED: ReadonlySet<OutboxState> = new Set(["discarded", "rejected"]);

export class Outcomes {
  readonly #receipts = new Channel<Receipt>({ bufferedMax: RECEIPTS_BUFFERED_MAX, replayedMax: 0 });
  readonly #store: Store;
  /** By the first message that said what is waited for. */
  readonly #waiters = new Map<string, Waiter[]>();
  #stopped: unknown = null;
  #onAwaited: () => void = () => {};

  constructor(store: Store) {
    this.#store = store;
  }

  /** Does somebody wait to hear more of a message that the service has, or listen to receipts? */
  get isAwaited(): boolean {
    return (
      this.#receipts.isHeard ||
      [...this.#waiters.values()].some((waiters) => waiters.some(({ milestone }) => milestone !== "accepted"))
    );
  }

  /** For who has to ask: calls it when somebody begins to wait. */
  onAwaited(work: () => void): void {
    this.#onAwaited = work;
  }

  /** From now on. */
  listen(signal?: AbortSignal): AsyncGenerator<Receipt, void, undefined> {
    const receipts = this.#receipts.subscribe(signal);
    this.#onAwaited();
    return receipts;
  }

  /** All in one transaction. */
  async record(outcomes: readonly Outcome[]): Promise<void> {
    if (outcomes.length === 0) return;
    const at = Date.now();
    const steps = await this.#store.commit(() => outcomes.map((outcome) => this.#move(outcome, at)));
    for (const step of steps) if (step !== null) this.#tell(step, at);
  }

  /** The recipient could not be woken. Nothing moves: the message waits for it. */
  tellUndeliverable(messageId: string): void {
    const message = this.#store.outbox.repairable(messageId);
    if (message === null || message.isControl) return;
    const { recipientId, repairs } = message;
    const known = { messageId: repairs?.firstId ?? messageId, recipientId };
    this.#receipts.emit({ ...known, state: "undeliverable", code: null, at: Date.now() });
  }

  /** Ends the messages that their recipients could not open and for which no request came. */
  async endUnrepaired(): Promise<void> {
    const at = Date.now();
    const ended = await this.#store.commit(() => this.#store.outbox.endUnrepaired(at));
    for (const { moved, code } of ended) this.#tell({ moved, state: "discarded", code }, at);
  }

  /** Null when nothing has moved. What its recipient could not open, and may ask for, has not ended. */
  #move({ messageId, state, code = null, isFinal = false }: Outcome, at: number): Step | null {
    const { outbox } = this.#store;
    if (state === "discarded" && !isFinal && code !== null && isRepairable(code)) {
      // Whatever became of the answer: what reached its recipient the service has taken, and it does not leave again.
      const accepted = outbox.move(messageId, "accepted", { at });
      if (outbox.awaitRepair(messageId, code)) return stepOf(accepted, "accepted", null);
    }
    return stepOf(outbox.move(messageId, state, { at, code }), state, code);
  }

  #tell({ moved, state, code }: Step, at: number): void {
    const { firstId: messageId, recipientId, isControl } = moved;
    this.#settle(messageId, state);
    if (state === "accepted" || state === "rejected" || isControl) return;
    this.#receipts.emit({ messageId, recipientId, state, code, at });
  }

  /** Rejects with `SendRejected` or `MessageDiscarded` when it will not be reached, with the signal's reason, and when the agent stops. */
  reached(messageId: string, milestone: Milestone, signal?: AbortSignal): Promise<void> {
    const reached = this.#await(messageId, milestone);
    this.#settle(messageId, this.#store.outbox.status(messageId)?.state ?? "pending");
    this.#onAwaited();
    return abandonable(reached, signal);
  }

  /** The same for a message that has just been stored and has not left: it cannot have reached anything. */
  accepted(messageId: string): Promise<void> {
    return this.#await(messageId, "accepted");
  }

  #await(messageId: string, milestone: Milestone): Promise<void> {
    if (this.#stopped !== null) return Promise.reject(this.#stopped);
    return new Promise<void>((resolve, reject) => {
      const isSettledBy = (state: OutboxState) => REACHED[milestone].has(state) || FAILED.has(state);
      const waiter: Waiter = {
        milestone,
        isSettledBy,
        resolve: () => this.#answer(messageId, milestone, { resolve, reject }),
        reject,
      };
      this.#waiters.set(messageId, [...(this.#waiters.get(messageId) ?? []), waiter]);
    });
  }

  /** Asks for every message whose end is not known: receipts are not repeated for who was away. Ends those that nobody knows any more. */
  async ask(service: Pick<Questions, "messageOutcomes">): Promise<void> {
    let afterN = 0;
    for (;;) {
      const asked = this.#store.outbox.unanswered(afterN, ASKED_MAX);
      const last = asked.at(-1);
      if (last === undefined) return;
      const unknown = new Set(
        await this.askFor(
          service,
          asked.map(({ messageId }) => messageId),
        ),
      );
      await this.#endForgotten(asked.filter(({ messageId }) => unknown.has(messageId)));
      afterN = last.n;
    }
  }

  /** Whatever became of them, nothing more of it will be heard. */
  async #endForgotten(unknown: readonly UnansweredMessage[]): Promise<void> {
    const before = Date.now() - REMEMBERED_MS;
    await this.record(
      unknown
        .filter(({ createdAt }) => createdAt < before)
        .map(({ messageId, code }) => ({ messageId, state: "discarded", code: code ?? "expired", isFinal: true })),
    );
  }

  /** At most 100. The ids that the service does not know. */
  async askFor(service: Pick<Questions, "messageOutcomes">, messageIds: readonly string[]): Promise<string[]> {
    const answers = await service.messageOutcomes(messageIds);
    const known = new Set(answers.map(({ messageId }) => messageId));
    await this.record(answers.map(({ messageId, status, code }) => ({ messageId, ...stateOf(status, code) })));
    return messageIds.filter((messageId) => !known.has(messageId));
  }

  /** Nothing more will be learned. */
  stop(error: unknown): void {
    this.#stopped = error;
    for (const waiters of this.#waiters.values()) for (const { reject } of waiters) reject(error);
    this.#waiters.clear();
    this.#receipts.end(error instanceof AgentError && error.code === "closed" ? null : error);
  }

  #settle(messageId: string, state: OutboxState): void {
    const waiters = this.#waiters.get(messageId);
    if (waiters === undefined) return;
    const left = waiters.filter((waiter) => !waiter.isSettledBy(state));
    if (left.length === 0) this.#waiters.delete(messageId);
    else this.#waiters.set(messageId, left);
    for (const waiter of waiters) if (waiter.isSettledBy(state)) waiter.resolve();
  }

  #answer(messageId: string, milestone: Milestone, promise: Pick<Waiter, "resolve" | "reject">): void {
    const status = this.#store.outbox.status(messageId);
    if (status === null || REACHED[milestone].has(status.state)) promise.resolve();
    else if (status.state === "discarded") promise.reject(new MessageDiscarded(status.code ?? "discarded", messageId));
    else promise.reject(new SendRejected(status.code ?? "rejected", status));
  }
}

function stepOf(moved: Moved | null, state: Outcome["state"], code: string | null): Step | null {
  return moved === null ? null : { moved, state, code };
}

/** Of an end without a code the word says how. */
function stateOf(status: MessageOutcome["status"], code: string | null): Omit<Outcome, "messageId"> {
  if (status === "queued" || status === "undeliverable") return { state: "accepted" };
  if (status === "delivered" || status === "acknowledged") return { state: status };
  return { state: "discarded", code: code ?? status, isFinal: status === "discarded" };
}
