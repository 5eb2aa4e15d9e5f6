/**
 * What streams say about items on their way to Kafka: written to the client, acknowledged, refused.
 *
 * Promise: reports leave within a few milliseconds, many in one record. While Kafka is away answers wait here and are tried again, in
 * bounded memory; beyond it, and at the end of the process, they are lost. A lost answer costs the client the item once more on its
 * next connection, never a message; a lost report of delivery costs nothing, as the answer implies it.
 */

import { Unavailable } from "../../protocol/refusal.ts";
import type { StreamItemId } from "../../protocol/stream-frames.ts";
import { type AcknowledgeDeps, type Answer, acknowledge } from "../operations/acknowledge.ts";
import { type ReportDeliveredDeps, reportDelivered } from "../operations/report-delivered.ts";

/** One record's worth (architecture: ≤ 256 items a record). */
const REPORT_ITEMS_MAX = 256;

/** Longer delays what senders see; shorter makes more records of the same reports. */
const LINGER_MS = 25;

/** Waiting and under way, of all streams together; some 200 bytes each. A tenth of it is a second of a busy process. */
const ITEMS_MAX = 50_000;

const RETRY_MS_MIN = 250;
const RETRY_MS_MAX = 5_000;

export interface ReporterDeps extends AcknowledgeDeps, ReportDeliveredDeps {
  /** A failure that is no outage: a bug of ours. */
  readonly onBug: (error: unknown) => void;
}

interface Pending {
  answers: Answer[];
  delivered: StreamItemId[];
}

export class Reporter {
  readonly #deps: ReporterDeps;
  readonly #itemsMax: number;
  #pending = new Map<string, Pending>();
  /** Answers that Kafka did not take, by agent. */
  #failed: { agentId: string; answers: Answer[] }[] = [];
  #held = 0;
  #dropped = 0;
  #linger: NodeJS.Timeout | undefined;
  #retry: NodeJS.Timeout | undefined;
  #retryMs = RETRY_MS_MIN;
  readonly #underWay = new Set<Promise<void>>();

  constructor(deps: ReporterDeps, itemsMax = ITEMS_MAX) {
    this.#deps = deps;
    this.#itemsMax = itemsMax;
  }

  /** Answers that were lost because too many waited. */
  get dropped(): number {
    return this.#dropped;
  }

  delivered(agentId: string, items: readonly StreamItemId[]): void {
    if (this.#held + items.length > this.#itemsMax) return;
    const pending = this.#pendingOf(agentId, items.length);
    for (const item of items) pending.delivered.push(item);
    this.#schedule(agentId, pending);
  }

  answered(agentId: string, answers: readonly Answer[]): void {
    if (this.#held + answers.length > this.#itemsMax) {
      this.#dropped += answers.length;
      return;
    }
    const pending = this.#pendingOf(agentId, answers.length);
    for (const answer of answers) pending.answers.push(answer);
    this.#schedule(agentId, pending);
  }

  /** Sends what waits, tries once more what failed, and is done with it either way. */
  async close(): Promise<void> {
    clearTimeout(this.#retry);
    this.#retry = undefined;
    this.#retryFailed();
    while (this.#underWay.size > 0) await Promise.all(this.#underWay);
    clearTimeout(this.#retry);
    clearTimeout(this.#linger);
  }

  #pendingOf(agentId: string, added: number): Pending {
    this.#held += added;
    let pending = this.#pending.get(agentId);
    if (pending === undefined) {
      pending = { answers: [], delivered: [] };
      this.#pending.set(agentId, pending);
    }
    return pending;
  }

  #schedule(agentId: string, pending: Pending): void {
    if (Math.max(pending.answers.length, pending.delivered.length) >= REPORT_ITEMS_MAX) {
      this.#pending.delete(agentId);
      this.#send(agentId, pending);
      return;
    }
    this.#linger ??= setTimeout(() => this.#flush(), LINGER_MS);
  }

  #flush(): void {
    clearTimeout(this.#linger);
    this.#linger = undefined;
    const pending = this.#pending;
    this.#pending = new Map();
    for (const [agentId, reports] of pending) this.#send(agentId, reports);
  }

  #send(agentId: string, { answers, delivered }: Pending): void {
    for (const some of slices(delivered)) this.#track(this.#sendDelivered(agentId, some));
    for (const some of slices(answers)) this.#track(this.#sendAnswers(agentId, some));
  }

  async #sendDelivered(agentId: string, items: readonly StreamItemId[]): Promise<void> {
    try {
      await reportDelivered(this.#deps, agentId, items, "stream");
    } catch (error) {
      this.#deps.onBug(error);
    } finally {
      this.#held -= items.length;
    }
  }

  async #sendAnswers(agentId: string, answers: Answer[]): Promise<void> {
    try {
      await acknowledge(this.#deps, { agentId }, answers, "stream");
      this.#held -= answers.length;
      this.#retryMs = RETRY_MS_MIN;
    } catch (error) {
      if (error instanceof Unavailable) {
        this.#failed.push({ agentId, answers });
        this.#retryLater();
      } else {
        this.#held -= answers.length;
        this.#deps.onBug(error);
      }
    }
  }

  #retryLater(): void {
    if (this.#retry !== undefined) return;
    this.#retry = setTimeout(() => this.#retryFailed(), this.#retryMs);
    this.#retryMs = Math.min(this.#retryMs * 2, RETRY_MS_MAX);
  }

  /** What many small records did not take goes into few. */
  #retryFailed(): void {
    this.#retry = undefined;
    const failed = this.#failed;
    this.#failed = [];
    for (const { agentId, answers } of failed) {
      const pending = this.#pendingOf(agentId, 0);
      for (const answer of answers) pending.answers.push(answer);
    }
    this.#flush();
  }

  #track(work: Promise<void>): void {
    const tracked = work.finally(() => this.#underWay.delete(tracked));
    this.#underWay.add(tracked);
  }
}

function slices<Item>(items: readonly Item[]): Item[][] {
  const parts: Item[][] = [];
  for (let start = 0; start < items.length; start += REPORT_ITEMS_MAX) {
    parts.push(items.slice(start, start + REPORT_ITEMS_MAX));
  }
  return parts;
}
