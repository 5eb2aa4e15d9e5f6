/**
 * Mailboxes, what waits in them, and what became of every message: `messaging_mailboxes`, `messaging_mailbox_ends`, `messaging_queue` and
 * `messaging_messages`, folded from what was queued and what was told of it. Pure.
 *
 * Of a message its facts are enough, in any order. Nothing is told of the end of a retry request, nor that it was set aside: there the reports count, in their order.
 */
import { createHash } from "node:crypto";
import { isAgentId } from "../protocol/identity.ts";
import { DAY_MS } from "../protocol/limits.ts";
import { messageIdTime } from "../protocol/message-id.ts";
import { isTimestamp } from "../protocol/timestamp.ts";
import type { MessageQueued, MessageReceipt, Outcome } from "../schemas/values.ts";
import {
  messageAcknowledged,
  messageDelivered,
  messageDiscarded,
  messageQueued,
  messageReceipt,
  messageRetried,
  messageSetAside,
  messageUndeliverable,
} from "../streams/catalogue.ts";
import type { Inbound } from "../streams/consumer.ts";
import { type Columns, type Fold, type FoldedRow, type FoldedTable, hex, on, onlyOnce } from "./folding.ts";

/** An item waits for 30 days from the time in its id (architecture §4). */
const WAIT_MS_MAX = 30 * DAY_MS;

/** A place of a mailbox, and what was put there. */
interface Place extends Omit<MessageQueued, "body" | "sessionId" | "delegation"> {
  readonly bodySha256: string;
  readonly bodyBytes: number;
  readonly sessionId: string;
}

/** A mark that can be taken, and set again. */
interface Mark {
  set: number;
  taken: number;
  at: number;
}

/** What was told of a message. */
interface Told {
  deliveredAt: number | null;
  end: { readonly outcome: string; readonly at: number; readonly code: string | null } | null;
  readonly aside: Mark;
  readonly undeliverable: Mark;
}

/** A report on an item. `retried`: an operator had it tried again. */
interface Report {
  readonly what: Outcome | "retried";
  readonly at: number;
  readonly reportedAt: number;
}

const passing: ReadonlySet<Report["what"]> = new Set(["delivered", "undeliverable", "aside", "retried"]);

export function foldMailboxes(): Fold {
  /** By recipient and seq: a retry request that has ended may be stored once more, at another place. */
  const places = new Map<string, Place>();
  const told = new Map<string, Told>();
  const reports = new Map<string, Report[]>();
  const isNew = onlyOnce();

  const toldOf = ({ senderId, messageId }: { readonly senderId: string; readonly messageId: string }): Told => {
    const name = `${senderId}/${messageId}`;
    const found = told.get(name) ?? { deliveredAt: null, end: null, aside: noMark(), undeliverable: noMark() };
    told.set(name, found);
    return found;
  };

  const handlers = [
    on(messageQueued, ({ value }) => void places.set(`${value.recipientId}/${value.seq}`, placeOf(value))),
    on(messageDelivered, ({ value }) => {
      toldOf(value).deliveredAt ??= value.deliveredAt;
    }),
    on(messageAcknowledged, ({ value }) => {
      toldOf(value).end ??= { outcome: "acknowledged", at: value.acknowledgedAt, code: null };
    }),
    on(messageDiscarded, ({ value }) => {
      // What was never stored ended no row; its id may be that of a message that goes on.
      if (typeof value.seq !== "number") return;
      toldOf(value).end ??= { outcome: value.code, at: value.discardedAt, code: value.detail };
    }),
    on(messageUndeliverable, (record) => {
      if (isNew(record)) setMark(toldOf(record.value).undeliverable, record.value.undeliverableAt);
    }),
    on(messageSetAside, (record) => {
      if (isNew(record)) setMark(toldOf(record.value).aside, record.value.setAsideAt);
    }),
    on(messageRetried, (record) => {
      const { itemId: messageId, senderId, kind, wasSetAside, wasUndeliverable } = record.value;
      if (kind !== "message" || !isNew(record)) return;
      const { aside, undeliverable } = toldOf({ senderId, messageId });
      if (wasSetAside) aside.taken += 1;
      if (wasUndeliverable) undeliverable.taken += 1;
    }),
    on(messageReceipt, (record) => takeReports(record, reports)),
  ];

  return { handlers, tables: () => tablesOf(places, told, reports) };
}

function placeOf({ body, sessionId, delegation: _, ...item }: MessageQueued): Place {
  const bodySha256 = createHash("sha256").update(body).digest("hex");
  return { ...item, sessionId: hex(sessionId), bodySha256, bodyBytes: body.length };
}

function noMark(): Mark {
  return { set: 0, taken: 0, at: 0 };
}

function setMark(mark: Mark, at: number): void {
  mark.set += 1;
  mark.at = at;
}

/** Each taking takes what was set before it, whichever topic is read first. */
function markedAt({ set, taken, at }: Mark): number | null {
  return set > taken ? at : null;
}

function takeReports({ key, value, timestamp: reportedAt }: Inbound<MessageReceipt>, reports: Map<string, Report[]>) {
  const { recipientId, items, retried, undeliverable } = value;
  const all = [
    ...items.map(({ senderId, itemId, outcome: what, at }) => ({ senderId, itemId, what, at })),
    ...(retried ?? []).map(({ senderId, itemId, at }) => ({ senderId, itemId, what: "retried" as const, at })),
  ];
  // Refused by its reader, too.
  if (key !== recipientId || !isAgentId(recipientId) || (undeliverable && !isTimestamp(undeliverable.at))) return;
  if (!all.every(({ senderId, at }) => isAgentId(senderId) && isTimestamp(at))) return;
  for (const { senderId, itemId, what, at } of all) {
    const name = `${recipientId}/${senderId}/${itemId}`;
    const before = reports.get(name);
    if (before === undefined) reports.set(name, [{ what, at, reportedAt }]);
    else before.push({ what, at, reportedAt });
  }
}

/** How an item stands. */
interface State {
  readonly place: Place;
  readonly hasEnded: boolean;
  readonly asideAt: number | null;
  readonly wasEvicted: boolean;
}

function tablesOf(
  places: ReadonlyMap<string, Place>,
  told: ReadonlyMap<string, Told>,
  reports: ReadonlyMap<string, readonly Report[]>,
): readonly FoldedTable[] {
  const byItem = Map.groupBy(places.values(), (place) => `${place.recipientId}/${place.senderId}/${place.itemId}`);
  const states = Array.from(byItem, ([name, own]) => {
    const ordered = own.toSorted((a, b) => a.seq - b.seq);
    const itemReports = reports.get(name) ?? [];
    return ordered.map((place, n) => stateOf(place, ordered[n + 1], told, itemReports));
  }).flat();
  const messages = states.flatMap(({ place }) => (place.kind === "message" ? [place] : []));
  const facts = [messageDelivered, messageAcknowledged, messageDiscarded, messageUndeliverable, messageRetried];
  const all = [messageQueued, messageReceipt, messageSetAside, ...facts];
  return [
    table("messaging_queue", all, states.filter(({ hasEnded }) => !hasEnded).map(waitingRow)),
    table(
      "messaging_messages",
      [messageQueued, ...facts],
      messages.map((place) => messageRow(place, told)),
    ),
    ...totals(states, all),
  ];
}

function stateOf(
  place: Place,
  next: Place | undefined,
  told: ReadonlyMap<string, Told>,
  itemReports: readonly Report[],
): State {
  // What was reported before an item was accepted, or when it had been stored once more, is about another place.
  const own = itemReports.filter(
    ({ reportedAt }) => reportedAt >= place.acceptedAt && reportedAt < (next?.acceptedAt ?? Number.POSITIVE_INFINITY),
  );
  const wasEvicted = own.some(({ what }) => what === "evicted");
  if (place.kind === "message") {
    const { end = null, aside = noMark() } = told.get(`${place.senderId}/${place.itemId}`) ?? {};
    return { place, hasEnded: end !== null, asideAt: markedAt(aside), wasEvicted };
  }
  let asideAt: number | null = null;
  for (const { what, at } of own) {
    if (!passing.has(what)) return { place, hasEnded: true, asideAt: null, wasEvicted };
    if (what === "aside") asideAt ??= at;
    if (what === "retried") asideAt = null;
  }
  return { place, hasEnded: false, asideAt, wasEvicted };
}

type Keyed = readonly [key: string, row: FoldedRow];

function waitingRow({ place, asideAt }: State): Keyed {
  const { recipientId, senderId, itemId, seq, kind, bodySha256, acceptedAt } = place;
  const columns = {
    ...{ seq, kind, body_sha256: bodySha256, created_at: acceptedAt },
    ...{ expires_at: (messageIdTime(itemId) ?? 0) + WAIT_MS_MAX, aside_at: asideAt },
  };
  return [`${recipientId}/${senderId}/${itemId}`, { since: acceptedAt, columns }];
}

function messageRow(place: Place, told: ReadonlyMap<string, Told>): Keyed {
  const { senderId, itemId, recipientId, bodySha256, sessionId, sendCounter, seq, size, custody } = place;
  const { deliveredAt = null, end = null, undeliverable = noMark() } = told.get(`${senderId}/${itemId}`) ?? {};
  const columns = {
    ...{ recipient_id: recipientId, digest: bodySha256, session_id: sessionId, send_counter: sendCounter },
    ...{ seq, size, custody, accepted_at: place.acceptedAt, queued_at: place.queuedAt, delivered_at: deliveredAt },
    ...{ undeliverable_at: markedAt(undeliverable) },
    ...{ outcome: end?.outcome ?? null, code: end?.code ?? null, ended_at: end?.at ?? null },
  };
  return [`${senderId}/${itemId}`, { since: place.acceptedAt, columns }];
}

/** Of a mailbox whose beginning is not in the log any more nothing is known: its totals are as old as its first item. */
function totals(states: readonly State[], reads: FoldedTable["reads"]): readonly FoldedTable[] {
  const stored: Keyed[] = [];
  const ended: Keyed[] = [];
  for (const [recipientId, own] of Map.groupBy(states, ({ place }) => place.recipientId)) {
    const first = own.find(({ place }) => place.seq === 1);
    const since = first?.place.acceptedAt ?? 0;
    const lastSeq = greatest(own);
    const evictedSeq = greatest(own.filter(({ wasEvicted }) => wasEvicted));
    const storedColumns = { last_seq: lastSeq, stored_items: own.length, stored_bytes: bytesOf(own) };
    stored.push([recipientId, { since, columns: { ...storedColumns, evicted_seq: evictedSeq } }]);
    const gone = own.filter(({ hasEnded }) => hasEnded);
    if (gone.length === 0) continue;
    const columns: Columns = { ended_items: gone.length, ended_bytes: bytesOf(gone) };
    ended.push([recipientId, { since, columns }]);
  }
  return [table("messaging_mailboxes", reads, stored), table("messaging_mailbox_ends", reads, ended)];
}

function greatest(states: readonly State[]): number {
  return states.reduce((most, { place }) => Math.max(most, place.seq), 0);
}

function bytesOf(states: readonly State[]): number {
  return states.reduce((sum, { place }) => sum + place.bodyBytes, 0);
}

function table(name: string, reads: FoldedTable["reads"], rows: readonly Keyed[]): FoldedTable {
  return { table: name, reads, rows: new Map(rows), says: "rows" };
}
