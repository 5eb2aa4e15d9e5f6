/**
 * What one connection is sent, and when: the receiving side of a stream as a state machine (docs/stream.md).
 *
 * Promises, whatever is lost, late, repeated or reordered on the way here: every item of the mailbox that does not end before it
 * can be sent is sent on this connection, in the order of `seq`, none skipped, none twice; never more unanswered than the window.
 * No I/O, clock or randomness: `deliver` changes the state it is given and says what is to be done.
 *
 * `lastSent` is all it needs: every item up to there was sent here or had ended. The mailbox's seqs are dense, so the item after it
 * is the next one; anything else is only a sign that there is more to read.
 */
import type { StreamItemId } from "../../protocol/stream-frames.ts";

/** An item as the mailbox stores it. */
export interface MailboxItem extends StreamItemId {
  readonly seq: number;
  readonly kind: "message" | "retry";
  readonly body: Uint8Array;
}

export interface WindowLimits {
  /** Unanswered items. */
  readonly itemsMax: number;
  /** Bytes of the bodies of unanswered items; a larger item goes alone. */
  readonly bytesMax: number;
}

/**
 * 256 items and 4 MiB: enough to keep a client busy over a round trip of 50 ms at 5,000 items a second, few enough that ten
 * thousand stalled clients with small messages fit into memory, and little enough to send again after a lost connection.
 */
const WINDOW: WindowLimits = { itemsMax: 256, bytesMax: 4 * 1024 * 1024 };

/** Rows of one read: a window is filled with two, and a read does not hold the memory of a window. */
const READ_ITEMS_MAX = 128;
const READ_BYTES_MAX = 1024 * 1024;

export type DeliveryEvent =
  /** The connection stands and its presence is set. */
  | { readonly type: "opened" }
  /** Somebody stored this item and says so. */
  | { readonly type: "handed-over"; readonly item: MailboxItem }
  /** The answer to the outstanding read, all of one moment: the rows after `afterSeq` and the mailbox's last seq. */
  | Page
  | { readonly type: "read-failed" }
  /** The client answered these items on this connection. */
  | { readonly type: "answered"; readonly items: readonly StreamItemId[] }
  /** The client answered everything it was sent up to here. */
  | { readonly type: "answered-up-to"; readonly seq: number }
  /** The clock's look at the mailbox: its last seq, and which of the unanswered items are no longer in it. */
  | { readonly type: "swept"; readonly lastSeq: number; readonly gone: readonly number[] }
  /** The client does not take what it is sent as fast as it is sent: until `drained` only what was asked for already comes on top. */
  | { readonly type: "stalled" }
  | { readonly type: "drained" }
  | { readonly type: "closed" };

export interface Page {
  readonly type: "page";
  /** By seq, all above the read's `afterSeq`. At least one unless there is none. */
  readonly items: readonly MailboxItem[];
  readonly lastSeq: number;
  /** No rows come after these. */
  readonly end: boolean;
}

export type DeliveryEffect =
  | { readonly type: "send"; readonly items: readonly MailboxItem[] }
  /** Never asked again before it was answered by `page` or `read-failed`. */
  | { readonly type: "read"; readonly afterSeq: number; readonly limit: number; readonly bytesMax: number }
  | { readonly type: "queue-empty"; readonly lastSeq: number }
  /** What a cumulative answer stands for. */
  | { readonly type: "acknowledge"; readonly items: readonly StreamItemId[] }
  /** At the end: the item that was sent first still waits for its answer. */
  | { readonly type: "unanswered"; readonly item: StreamItemId };

/** Belongs to `deliver`; everybody else only looks at it. */
export interface Delivery {
  readonly limits: WindowLimits;
  /** Every item up to this seq was sent on this connection or had ended before. */
  lastSent: number;
  /** The highest seq that is known to be stored. */
  known: number;
  /** No read has reached the mailbox's end yet. */
  unread: boolean;
  reading: boolean;
  /** The next item does not fit until something unanswered is answered. */
  blocked: boolean;
  /** The client is behind with taking what was sent. */
  stalled: boolean;
  closed: boolean;
  queueEmptySent: boolean;
  /** The seq of the item that was sent first on this connection. */
  first: number | null;
  /** Sent and unanswered, by seq. */
  readonly window: Map<number, Sent>;
  windowBytes: number;
  /** Seqs of the window by `idKey`. */
  readonly seqs: Map<string, number>;
  /** Handed over during a read: judged after it. */
  held: MailboxItem[];
  heldBytes: number;
}

interface Sent extends StreamItemId {
  readonly bytes: number;
}

export function openDelivery(limits: WindowLimits = WINDOW): Delivery {
  return {
    limits,
    lastSent: 0,
    known: 0,
    unread: true,
    reading: false,
    blocked: false,
    stalled: false,
    closed: false,
    queueEmptySent: false,
    first: null,
    window: new Map(),
    windowBytes: 0,
    seqs: new Map(),
    held: [],
    heldBytes: 0,
  };
}

export type Deliver = typeof deliver;

/** What happened, and what is to be done about it, in this order. */
export function deliver(state: Delivery, event: DeliveryEvent): DeliveryEffect[] {
  if (state.closed) return [];
  switch (event.type) {
    case "opened":
      return readIf(state, hasRoom(state));
    case "handed-over":
      return [...sent(handOver(state, event.item)), ...readIf(state, isRoomy(state))];
    case "page":
      return turnPage(state, event);
    case "read-failed":
      // The next sweep asks again: it needs the same database.
      state.reading = false;
      return sent(releaseHeld(state));
    case "answered":
      for (const item of event.items) forget(state, state.seqs.get(idKey(item)));
      return readIf(state, isRoomy(state));
    case "answered-up-to":
      return [...acknowledged(forgetUpTo(state, event.seq)), ...readIf(state, isRoomy(state))];
    case "swept":
      state.known = Math.max(state.known, event.lastSeq);
      for (const seq of event.gone) forget(state, seq);
      return readIf(state, hasRoom(state));
    case "stalled":
      state.stalled = true;
      return [];
    case "drained":
      state.stalled = false;
      return readIf(state, hasRoom(state));
    case "closed":
      return closed(state);
  }
}

function closed(state: Delivery): DeliveryEffect[] {
  const first = state.first === null ? undefined : state.window.get(state.first);
  state.closed = true;
  state.held = [];
  state.window.clear();
  state.seqs.clear();
  return first === undefined ? [] : [{ type: "unanswered", item: { senderId: first.senderId, itemId: first.itemId } }];
}

/** The seqs of which a sweep should say whether they are still in the mailbox: none while nothing waits for room. */
export function sweptSeqs(state: Delivery): number[] {
  const waits = state.unread || state.known > state.lastSent;
  return waits && (state.blocked || !hasRoom(state)) ? [...state.window.keys()] : [];
}

/** The item, when it is the next one and can be sent now; none otherwise. */
function handOver(state: Delivery, item: MailboxItem): MailboxItem[] {
  if (state.reading) {
    hold(state, item);
    return [];
  }
  state.known = Math.max(state.known, item.seq);
  if (item.seq !== state.lastSent + 1 || state.stalled || !fits(state, item)) return [];
  remember(state, item);
  return [item];
}

/** Keeps at most a window's worth: what is dropped here is read afterwards. */
function hold(state: Delivery, item: MailboxItem): void {
  state.known = Math.max(state.known, item.seq);
  const full = state.held.length >= state.limits.itemsMax || state.heldBytes + item.body.length > state.limits.bytesMax;
  if (full) return;
  state.held.push(item);
  state.heldBytes += item.body.length;
}

function releaseHeld(state: Delivery): MailboxItem[] {
  const held = state.held;
  state.held = [];
  state.heldBytes = 0;
  return held.flatMap((item) => handOver(state, item));
}

function turnPage(state: Delivery, page: Page): DeliveryEffect[] {
  state.reading = false;
  state.known = Math.max(state.known, page.lastSeq);
  const items: MailboxItem[] = [];
  for (const item of page.items) {
    if (!fits(state, item)) break;
    remember(state, item);
    items.push(item);
  }
  const whole = items.length === page.items.length;
  // What cannot be sent now would be read again and again until something is answered.
  state.blocked = !whole && state.window.size > 0;
  const effects: DeliveryEffect[] = sent(items);
  if (whole && page.end) {
    // The seqs without a row up to here have ended: the rows and the last seq are of the same moment.
    state.lastSent = Math.max(state.lastSent, page.lastSeq);
    state.unread = false;
    if (!state.queueEmptySent) effects.push({ type: "queue-empty", lastSeq: state.lastSent });
    state.queueEmptySent = true;
  }
  return [...effects, ...sent(releaseHeld(state)), ...readIf(state, isRoomy(state))];
}

function readIf(state: Delivery, room: boolean): DeliveryEffect[] {
  const more = state.unread || state.known > state.lastSent;
  if (!more || !room || state.reading || state.blocked || state.stalled) return [];
  state.reading = true;
  const limit = Math.min(READ_ITEMS_MAX, state.limits.itemsMax - state.window.size);
  const bytesMax = Math.min(READ_BYTES_MAX, state.limits.bytesMax - state.windowBytes);
  return [{ type: "read", afterSeq: state.lastSent, limit, bytesMax }];
}

function fits(state: Delivery, item: MailboxItem): boolean {
  if (state.window.size === 0) return true;
  return state.window.size < state.limits.itemsMax && state.windowBytes + item.body.length <= state.limits.bytesMax;
}

function hasRoom(state: Delivery): boolean {
  return (
    state.window.size === 0 || (state.window.size < state.limits.itemsMax && state.windowBytes < state.limits.bytesMax)
  );
}

/** A quarter of the window is free. With less, a client that answers one by one would cost a read for each; the sweep takes what is left. */
function isRoomy(state: Delivery): boolean {
  if (state.window.size === 0) return true;
  const { itemsMax, bytesMax } = state.limits;
  return state.window.size <= itemsMax - itemsMax / 4 && state.windowBytes <= bytesMax - bytesMax / 4;
}

function remember(state: Delivery, item: MailboxItem): void {
  state.lastSent = item.seq;
  state.first ??= item.seq;
  state.window.set(item.seq, { senderId: item.senderId, itemId: item.itemId, bytes: item.body.length });
  state.windowBytes += item.body.length;
  state.seqs.set(idKey(item), item.seq);
}

function forget(state: Delivery, seq: number | undefined): Sent | null {
  const item = seq === undefined ? undefined : state.window.get(seq);
  if (seq === undefined || item === undefined) return null;
  state.window.delete(seq);
  state.windowBytes -= item.bytes;
  state.seqs.delete(idKey(item));
  state.blocked = false;
  return item;
}

function forgetUpTo(state: Delivery, seq: number): StreamItemId[] {
  const items: StreamItemId[] = [];
  for (const [sentSeq, item] of state.window) {
    if (sentSeq > seq) break;
    items.push({ senderId: item.senderId, itemId: item.itemId });
    forget(state, sentSeq);
  }
  return items;
}

function sent(items: readonly MailboxItem[]): DeliveryEffect[] {
  return items.length === 0 ? [] : [{ type: "send", items }];
}

function acknowledged(items: readonly StreamItemId[]): DeliveryEffect[] {
  return items.length === 0 ? [] : [{ type: "acknowledge", items }];
}

function idKey(item: StreamItemId): string {
  return `${item.senderId}/${item.itemId}`;
}
