/**
 * What streams say about items on their way to Kafka: written to the client, acknowledged, refused.
 *
 * Promise: reports leave within a few milliseconds, many in one record. What is said of an agent's items reaches Kafka in the order in which it was said,
 * deliveries and answers in one row: one append of them is under way at a time. While Kafka is away they wait here and are tried again, in bounded memory;
 * beyond it, and at the end of the process, they are lost. A lost answer costs the client the item once more on its next connection, which the gateway sees to, never
 * a message; a lost report of delivery costs nothing, as the answer implies it, and whoever made it makes no more (docs/decisions/0043-the-order-of-deliveries.md).
 */

import { Unavailable } from "../../protocol/refusal.ts";
import type { StreamItemId } from "../../protocol/stream-frames.ts";
import type { ReceiptItem } from "../../schemas/values.ts";
import { RECEIPT_ITEMS_MAX, receiptEvents } from "../../streams/receipt-events.ts";
import { type AcknowledgeDeps, type Answer, answerItems } from "../operations/acknowledge.ts";
import { API_SOURCE } from "../operations/events.ts";
import { deliveredItems } from "../operations/report-delivered.ts";

/** Of one append. Four records, as a call over HTTP may have: an agent that is given and answers thousands of items a second is not held up by Kafka's answers. */
const APPEND_ITEMS_MAX = 4 * RECEIPT_ITEMS_MAX;

/** Longer delays what senders see; shorter makes more records of the same reports. */
const LINGER_MS = 25;

/** Waiting and under way, of all streams together; some 200 bytes each. A tenth of it is a second of a busy process. */
const ITEMS_MAX = 100_000;

/** The part of them that deliveries may take: there is always as much room again for answers, of which a lost one costs more. */
const DELIVERIES_PART_MAX = 1 / 2;

const RETRY_MS_MIN = 250;
const RETRY_MS_MAX = 5_000;

export interface ReporterDeps extends AcknowledgeDeps {
  /** A failure that is no outage: a bug of ours. */
  readonly onBug: (error: unknown) => void;
}

/** What one agent's streams have to say. */
interface Reports {
  /** In the order in which it was said. */
  readonly items: ReceiptItem[];
  /** An append is under way, or is to be tried again: the others wait behind it. */
  isAppending: boolean;
}

export class Reporter {
  readonly #deps: ReporterDeps;
  readonly #itemsMax: number;
  /** By agent; none that has nothing to say. */
  readonly #reports = new Map<string, Reports>();
  /** Those of which Kafka did not take some. */
  #failed: Reports[] = [];
  #held = 0;
  #dropped = 0;
  /** Agents of whom answers were lost: at most those that were connected during an outage. */
  readonly #unheard = new Set<string>();
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

  /** Whether it will be told. Where it will not, nothing may be told of what the same stream is given later: it would come before this. */
  delivered(agentId: string, items: readonly StreamItemId[]): boolean {
    if (this.#held + items.length > this.#itemsMax * DELIVERIES_PART_MAX) {
      this.#deps.counted("delivery_reports_lost", items.length);
      return false;
    }
    this.#add(agentId, deliveredItems(items, this.#deps.now(), "stream"));
    return true;
  }

  answered(agentId: string, answers: readonly Answer[]): void {
    if (this.#held + answers.length > this.#itemsMax) {
      this.#dropped += answers.length;
      this.#unheard.add(agentId);
      return;
    }
    this.#add(agentId, answerItems(answers, this.#deps.now(), "stream"));
  }

  /** Of whom answers were lost, once there is room for new ones; each agent is told once. Their items wait, and nothing else would bring them to an open stream again. */
  takeUnheard(): readonly string[] {
    if (this.#failed.length > 0 || this.#held > this.#itemsMax * DELIVERIES_PART_MAX) return [];
    const unheard = [...this.#unheard];
    this.#unheard.clear();
    return unheard;
  }

  /** Sends what waits, tries once more what failed, and is done with it either way. */
  async close(): Promise<void> {
    this.#retryFailed();
    while (this.#underWay.size > 0) {
      await Promise.all(this.#underWay);
      this.#flush();
    }
    clearTimeout(this.#retry);
    this.#retry = undefined;
  }

  #add(agentId: string, items: readonly ReceiptItem[]): void {
    this.#held += items.length;
    let reports = this.#reports.get(agentId);
    if (reports === undefined) {
      reports = { items: [], isAppending: false };
      this.#reports.set(agentId, reports);
    }
    for (const item of items) reports.items.push(item);
    this.#sendOrLinger(agentId, reports);
  }

  #sendOrLinger(agentId: string, reports: Reports): void {
    if (reports.items.length >= RECEIPT_ITEMS_MAX) this.#send(agentId, reports);
    this.#linger ??= setTimeout(() => this.#flush(), LINGER_MS);
  }

  #flush(): void {
    clearTimeout(this.#linger);
    this.#linger = undefined;
    for (const [agentId, reports] of this.#reports) {
      this.#send(agentId, reports);
      if (!reports.isAppending) this.#reports.delete(agentId);
    }
  }

  #send(agentId: string, reports: Reports): void {
    if (reports.isAppending || reports.items.length === 0) return;
    reports.isAppending = true;
    this.#track(this.#append(agentId, reports, reports.items.splice(0, APPEND_ITEMS_MAX)));
  }

  async #append(agentId: string, reports: Reports, items: readonly ReceiptItem[]): Promise<void> {
    const { receipts, counted, now, onBug } = this.#deps;
    try {
      await receipts.append(receiptEvents(API_SOURCE, agentId, items, now()));
      counted("answers_accepted", items.filter(({ outcome }) => outcome !== "delivered").length);
      this.#retryMs = RETRY_MS_MIN;
    } catch (error) {
      if (error instanceof Unavailable) {
        reports.items.unshift(...items);
        this.#retryLater(reports);
        return;
      }
      onBug(error);
    }
    this.#held -= items.length;
    reports.isAppending = false;
    this.#sendOrLinger(agentId, reports);
  }

  #retryLater(reports: Reports): void {
    this.#failed.push(reports);
    if (this.#retry !== undefined) return;
    this.#retry = setTimeout(() => this.#retryFailed(), this.#retryMs);
    this.#retryMs = Math.min(this.#retryMs * 2, RETRY_MS_MAX);
  }

  #retryFailed(): void {
    clearTimeout(this.#retry);
    this.#retry = undefined;
    for (const reports of this.#failed) reports.isAppending = false;
    this.#failed = [];
    this.#flush();
  }

  #track(work: Promise<void>): void {
    const tracked = work.finally(() => this.#underWay.delete(tracked));
    this.#underWay.add(tracked);
  }
}
