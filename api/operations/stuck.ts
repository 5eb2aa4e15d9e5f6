/**
 * What operators do about mail that is stuck: they see it, have it tried again, or delete it.
 *
 * Promise: nothing is changed here. What an operator decides is an item on `message.receipt.v1` for *acks*, where the first end wins and a repetition
 * changes nothing; each deletion leaves `message.discarded.v1`. Who decided is not known (there is one token); that it was decided is told, metadata only.
 */
import type { ItemName, StuckCount, StuckFilter, StuckPage, StuckPlace, StuckState } from "../../store/stuck.ts";
import { receiptEvents, retriedEvents } from "../../streams/receipt-events.ts";
import type { Appender } from "./events.ts";
import { forgetUnanswered, type ReportUnansweredDeps } from "./report-unanswered.ts";

/** What an operator did, for the log and for audits: ids and counts. */
export type OperatorAct =
  | { readonly act: "retried"; readonly recipientId: string; readonly items: readonly Omit<ItemName, "recipientId">[] }
  | {
      readonly act: "deleted";
      readonly recipientId: string;
      readonly items: readonly Omit<ItemName, "recipientId">[];
      readonly reason: string;
    }
  | {
      readonly act: "replayed";
      readonly topic: string;
      readonly letters: readonly { readonly partition: number; readonly offset: number; readonly id: string | null }[];
    };

export interface StuckDeps extends Pick<ReportUnansweredDeps, "limits"> {
  /** `store/stuck.ts`. All throw `Unavailable`. */
  readonly findStuck: (filter: StuckFilter, after: StuckPlace | null, limit: number) => Promise<StuckPage>;
  readonly countStuck: (filter: StuckFilter, countMax: number) => Promise<StuckCount>;
  readonly whichStuck: (items: readonly ItemName[]) => Promise<readonly ItemName[]>;
  readonly receipts: Appender;
  readonly onAct: (act: OperatorAct) => void;
  /** ms since the epoch. */
  readonly now: () => number;
}

/** What brings an item into a state; one each, so far. */
export const STUCK_REASONS = { undeliverable: "not-woken", "set-aside": "connections-broke" } as const satisfies Record<
  StuckState,
  string
>;

export const STUCK_STATES = Object.keys(STUCK_REASONS) as readonly StuckState[];

/** Of a page, and of what a call names. */
export const STUCK_ITEMS_MAX = 1_000;

/** Of a call with a filter: some seconds of work. Counted no further, for nobody looks at more. */
const STUCK_BULK_MAX = 10_000;

/** `ce_source` of what operators ask for. */
const OPS_SOURCE = "/sealpost/ops";

export interface StuckGroup extends StuckCount {
  readonly state: StuckState;
  readonly reason: string;
}

/** How many there are of each kind, at most `STUCK_BULK_MAX` counted. @throws Unavailable */
export function countGroups(
  deps: Pick<StuckDeps, "countStuck">,
  states: readonly StuckState[],
  filter: Omit<StuckFilter, "state">,
): Promise<readonly StuckGroup[]> {
  return Promise.all(
    states.map(async (state) => {
      const counted = await deps.countStuck({ ...filter, state }, STUCK_BULK_MAX);
      return { state, reason: STUCK_REASONS[state], ...counted };
    }),
  );
}

export type StuckDecision = { readonly kind: "retry" } | { readonly kind: "delete"; readonly reason: string };

/** Items by name, or all that a filter takes. */
export type StuckTarget = { readonly items: readonly ItemName[] } | { readonly filter: StuckFilter };

export interface Decided {
  /** How many it is about: those that are stuck. */
  readonly count: number;
  /** There are more; the same call again takes them. */
  readonly more: boolean;
}

/**
 * What is named and not stuck (any more) is left out; with `isDryRun` it is only counted.
 *
 * @throws Unavailable: some of it may have been asked for; the same again does no harm
 */
export async function decideStuck(
  deps: StuckDeps,
  decision: StuckDecision,
  target: StuckTarget,
  isDryRun: boolean,
): Promise<Decided> {
  if ("items" in target) {
    const items = await deps.whichStuck(target.items);
    if (!isDryRun) await ask(deps, decision, items);
    return { count: items.length, more: false };
  }
  if (isDryRun) {
    const { count } = await deps.countStuck(target.filter, STUCK_BULK_MAX + 1);
    return { count: Math.min(count, STUCK_BULK_MAX), more: count > STUCK_BULK_MAX };
  }
  let after: StuckPlace | null = null;
  let count = 0;
  do {
    const page: StuckPage = await deps.findStuck(target.filter, after, STUCK_ITEMS_MAX);
    await ask(deps, decision, page.items);
    count += page.items.length;
    after = page.next;
  } while (after !== null && count < STUCK_BULK_MAX);
  return { count, more: after !== null };
}

async function ask(deps: StuckDeps, decision: StuckDecision, items: readonly ItemName[]): Promise<void> {
  const at = deps.now();
  const byRecipient = Map.groupBy(items, ({ recipientId }) => recipientId);
  if (decision.kind === "retry") await Promise.all(items.map((item) => forgetUnanswered(deps, item)));
  const events = [...byRecipient].flatMap(([recipientId, own]) => {
    if (decision.kind === "retry") {
      const retried = own.map(({ senderId, itemId }) => ({ senderId, itemId, at }));
      return retriedEvents(OPS_SOURCE, recipientId, retried, at);
    }
    const deleted = own.map(({ senderId, itemId }) => {
      return { outcome: "deleted", senderId, itemId, at, door: "none", code: decision.reason } as const;
    });
    return receiptEvents(OPS_SOURCE, recipientId, deleted, at);
  });
  await deps.receipts.append(events);
  for (const [recipientId, own] of byRecipient) {
    const named = own.map(({ senderId, itemId }) => ({ senderId, itemId }));
    if (decision.kind === "retry") deps.onAct({ act: "retried", recipientId, items: named });
    else deps.onAct({ act: "deleted", recipientId, items: named, reason: decision.reason });
  }
}
