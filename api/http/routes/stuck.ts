/** What operators see of mail that is stuck, and have done about it (docs/operations.md). */
import { formatTimestamp } from "../../../protocol/timestamp.ts";
import type { ItemName, StuckItem, StuckPlace, StuckState } from "../../../store/stuck.ts";
import { countGroups, decideStuck, STUCK_REASONS, STUCK_STATES, type StuckDecision } from "../../operations/stuck.ts";
import { decidedAnswer, deleteStuckBody, retryStuckBody, stuckAnswer, stuckQuery } from "../operator-schemas.ts";
import { type HttpDeps, type Reply, route } from "../route.ts";

const PAGE_DEFAULT = 100;

export const listStuck = route({
  method: "GET",
  path: "/ops/messages",
  operationId: "listStuck",
  summary: "See what is set aside or undeliverable",
  description: "How many there are by state and reason; with a state also a page of them.",
  signedBy: "operator",
  request: { query: stuckQuery },
  answers: { 200: { description: "Who has waited longest first", schema: stuckAnswer } },
  refuses: [],
  handle: async (deps, { query: { state, after, limit = PAGE_DEFAULT, ...who } }) => {
    const filter = { recipientId: who.recipient_id, senderId: who.sender_id };
    const groups = await countGroups(deps, state === undefined ? STUCK_STATES : [state], filter);
    const json = {
      groups: groups.map(({ oldest, ...group }) => ({
        ...group,
        ...(oldest === null ? {} : { oldest_since: formatTimestamp(oldest) }),
      })),
    };
    if (state === undefined) return { status: 200, json };
    const { items, next } = await deps.findStuck({ ...filter, state }, placeOf(after), limit);
    const page = {
      items: items.map((item) => itemToWire(state, item)),
      ...(next === null ? {} : { cursor: cursorOf(next) }),
    };
    return { status: 200, json: { ...json, ...page } };
  },
});

const decidedAnswers = {
  200: { description: "Of a dry run", schema: decidedAnswer },
  202: { description: "In the log", schema: decidedAnswer },
};

export const retryStuck = route({
  method: "POST",
  path: "/ops/messages/retry",
  operationId: "retryStuck",
  summary: "Have what is stuck tried again",
  description:
    "Takes the marks: it is handed out on the recipient's next connection, which is asked for. Again, it changes nothing.",
  signedBy: "operator",
  request: { body: retryStuckBody },
  answers: decidedAnswers,
  refuses: ["too-many"],
  handle: (deps, { body }) => decide(deps, { kind: "retry" }, body),
});

export const deleteStuck = route({
  method: "POST",
  path: "/ops/messages/delete",
  operationId: "deleteStuck",
  summary: "Delete what is stuck",
  description: "For good. Each leaves message.discarded.v1 with the reason; its sender is told that it was deleted.",
  signedBy: "operator",
  request: { body: deleteStuckBody },
  answers: decidedAnswers,
  refuses: ["too-many"],
  handle: (deps, { body: { reason, ...target } }) => decide(deps, { kind: "delete", reason }, target),
});

interface TargetBody {
  readonly items?:
    | readonly { readonly recipient_id: string; readonly sender_id: string; readonly item_id: string }[]
    | undefined;
  readonly filter?:
    | {
        readonly state: StuckState;
        readonly recipient_id?: string | undefined;
        readonly sender_id?: string | undefined;
      }
    | undefined;
  readonly dry_run?: boolean | undefined;
}

async function decide(deps: HttpDeps, decision: StuckDecision, body: TargetBody): Promise<Reply> {
  const { items, filter, dry_run: isDryRun = false } = body;
  const target =
    filter === undefined
      ? { items: distinct(items ?? []) }
      : { filter: { state: filter.state, recipientId: filter.recipient_id, senderId: filter.sender_id } };
  const decided = await decideStuck(deps, decision, target, isDryRun);
  return { status: isDryRun ? 200 : 202, json: { ...decided, dry_run: isDryRun } };
}

function distinct(items: NonNullable<TargetBody["items"]>): readonly ItemName[] {
  const named = items.map((item): [string, ItemName] => {
    const { recipient_id: recipientId, sender_id: senderId, item_id: itemId } = item;
    return [`${recipientId}.${senderId}.${itemId}`, { recipientId, senderId, itemId }];
  });
  return [...new Map(named).values()];
}

function itemToWire(state: StuckState, item: StuckItem): Record<string, unknown> {
  return {
    ...{ recipient_id: item.recipientId, sender_id: item.senderId, item_id: item.itemId },
    ...{ kind: item.kind, seq: item.seq, since: formatTimestamp(item.since), reason: STUCK_REASONS[state] },
  };
}

function cursorOf({ since, recipientId, senderId, itemId }: StuckPlace): string {
  return `${since}.${recipientId}.${senderId}.${itemId}`;
}

/** Of a text that the schema let through. */
function placeOf(text: string | undefined): StuckPlace | null {
  if (text === undefined) return null;
  const [since, recipientId = "", senderId = "", itemId = ""] = text.split(".");
  return { since: Number(since), recipientId, senderId, itemId };
}
