import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  type Deliver,
  type Delivery,
  type DeliveryEffect,
  type DeliveryEvent,
  deliver,
  type MailboxItem,
  openDelivery,
  type Page,
  sweptSeqs,
  type WindowLimits,
} from "./delivery.ts";

const LIMITS: WindowLimits = { itemsMax: 6, bytesMax: 40 };

/** What can happen in a world of one mailbox, one client that connects and reconnects, and everything between them. */
type Step = "connect" | "disconnect" | "look" | "turn" | "fail" | "sweep-look" | "sweep-tell" | "stall" | "drain";
type Happening =
  | { readonly what: "append"; readonly bytes: number }
  | { readonly what: "end" | "answer" | "answer-up-to"; readonly which: number }
  | { readonly what: "hand-over" | "lose" | "repeat"; readonly which: number }
  | { readonly what: Step };

const which = fc.nat({ max: 1_000 });
const happening: fc.Arbitrary<Happening> = fc.oneof(
  { weight: 6, arbitrary: fc.record({ what: fc.constant("append" as const), bytes: fc.integer({ min: 0, max: 25 }) }) },
  {
    weight: 1,
    arbitrary: fc.record({ what: fc.constant("append" as const), bytes: fc.integer({ min: 41, max: 60 }) }),
  },
  { weight: 2, arbitrary: fc.record({ what: fc.constant("end" as const), which }) },
  { weight: 6, arbitrary: fc.record({ what: fc.constantFrom("answer" as const, "answer-up-to" as const), which }) },
  {
    weight: 8,
    arbitrary: fc.record({ what: fc.constant("hand-over" as const), which: fc.constantFrom(0, 0, 0, 1, 2, 5) }),
  },
  { weight: 2, arbitrary: fc.record({ what: fc.constantFrom("lose" as const, "repeat" as const), which }) },
  {
    weight: 2,
    arbitrary: fc.record({ what: fc.constantFrom("connect" as const, "connect" as const, "disconnect" as const) }),
  },
  { weight: 9, arbitrary: fc.record({ what: fc.constantFrom("look" as const, "turn" as const) }) },
  { weight: 1, arbitrary: fc.record({ what: fc.constant("fail" as const) }) },
  { weight: 3, arbitrary: fc.record({ what: fc.constantFrom("sweep-look" as const, "sweep-tell" as const) }) },
  { weight: 2, arbitrary: fc.record({ what: fc.constantFrom("stall" as const, "drain" as const) }) },
);
const history = fc.array(happening, { maxLength: 120, size: "max" });

class Broken extends Error {}

interface Connection {
  readonly delivery: Delivery;
  /** Seqs in the order they were sent. */
  readonly sent: number[];
  readonly answered: Set<number>;
  read: Extract<DeliveryEffect, { type: "read" }> | null;
  page: Page | null;
  sweep: Extract<DeliveryEvent, { type: "swept" }> | null;
  queueEmpty: boolean;
  /** The client does not take what it is sent. */
  stalled: boolean;
}

/** The mailbox, the client and the network, and what the promises of delivery.ts mean in terms of them. */
class World {
  readonly #deliver: Deliver;
  readonly #rows: (MailboxItem & { ended: boolean })[] = [];
  readonly #handovers: MailboxItem[] = [];
  #connection: Connection | null = null;

  constructor(machine: Deliver) {
    this.#deliver = machine;
  }

  happen(event: Happening): void {
    switch (event.what) {
      case "append":
        this.#append(event.bytes);
        break;
      case "end": {
        const waiting = this.#waiting();
        const row = waiting[event.which % Math.max(1, waiting.length)];
        if (row !== undefined) row.ended = true;
        break;
      }
      case "answer":
      case "answer-up-to":
        this.#answer(event.what, event.which);
        break;
      case "hand-over":
      case "lose":
      case "repeat":
        this.#network(event.what, event.which);
        break;
      default:
        this.#step(event.what);
    }
  }

  /**
   * Nothing new comes; what is under way arrives, the sweep comes once, and the client answers all it is sent. Or it answers
   * nothing, and what it was sent ends by other doors, of which only sweeps tell.
   */
  quieten(by: "answers" | "sweeps"): void {
    if (this.#connection === null) this.#step("connect");
    this.#step("drain");
    this.#handovers.length = 0;
    this.#step("sweep-tell");
    this.#readAll();
    this.#sweep();
    for (let round = 0; round < 200; round++) {
      this.#readAll();
      if (by === "answers") this.#answer("answer-up-to", 0);
      else this.#sweep(this.#connection?.sent);
    }
    const missing = this.#waiting().filter((row) => !this.#connection?.sent.includes(row.seq));
    if (missing.length > 0) throw new Broken("something waits and is not sent");
  }

  #readAll(): void {
    for (let i = 0; i < 3; i++) {
      this.#step("look");
      this.#step("turn");
    }
  }

  #sweep(ended: readonly number[] = []): void {
    for (const seq of ended) this.#row(seq).ended = true;
    this.#step("sweep-look");
    this.#step("sweep-tell");
  }

  #append(bytes: number): void {
    const seq = this.#rows.length + 1;
    const item: MailboxItem = { seq, kind: "message", senderId: "s", itemId: String(seq), body: new Uint8Array(bytes) };
    this.#rows.push({ ...item, ended: false });
    this.#handovers.push(item);
  }

  #answer(what: "answer" | "answer-up-to", which: number): void {
    const connection = this.#connection;
    if (connection === null) return;
    const open = connection.sent.filter((seq) => !connection.answered.has(seq));
    const seq =
      what === "answer" ? open[which % Math.max(1, open.length)] : open.at(-1 - (which % Math.max(1, open.length)));
    if (seq === undefined) return;
    const meant = what === "answer" ? [seq] : open.filter((other) => other <= seq);
    for (const one of meant) connection.answered.add(one);
    // The row ends when the answer has made its way through Kafka, or never: then the next connection gets it again.
    if (which % 3 !== 0) for (const one of meant) this.#row(one).ended = true;
    if (what === "answer") this.#tell({ type: "answered", items: [this.#row(seq)] });
    else this.#tell({ type: "answered-up-to", seq });
  }

  #network(what: "hand-over" | "lose" | "repeat", which: number): void {
    const at = which % Math.max(1, this.#handovers.length);
    const item = this.#handovers[at];
    if (item === undefined) return;
    if (what !== "repeat") this.#handovers.splice(at, 1);
    if (what !== "lose") this.#tell({ type: "handed-over", item });
  }

  #step(what: Step): void {
    const connection = this.#connection;
    switch (what) {
      case "connect":
        this.#tell({ type: "closed" });
        this.#connection = {
          delivery: openDelivery(LIMITS),
          sent: [],
          answered: new Set(),
          read: null,
          page: null,
          sweep: null,
          queueEmpty: false,
          stalled: false,
        };
        this.#tell({ type: "opened" });
        return;
      case "disconnect":
        this.#tell({ type: "closed" });
        this.#connection = null;
        return;
      case "look":
        if (connection?.read && connection.page === null) connection.page = this.#pageOf(connection.read);
        return;
      case "turn":
        if (connection?.page) this.#arrive(connection, connection.page);
        return;
      case "fail":
        if (connection?.read) this.#arrive(connection, { type: "read-failed" });
        return;
      case "sweep-look":
        if (connection !== null) connection.sweep = this.#sweepOf(connection);
        return;
      case "sweep-tell":
        if (connection?.sweep) this.#tell(connection.sweep);
        return;
      case "stall":
      case "drain":
        if (connection === null) return;
        connection.stalled = what === "stall";
        this.#tell({ type: connection.stalled ? "stalled" : "drained" });
    }
  }

  #arrive(connection: Connection, event: DeliveryEvent): void {
    connection.read = null;
    connection.page = null;
    this.#tell(event);
  }

  #pageOf(read: Extract<DeliveryEffect, { type: "read" }>): Page {
    if (read.limit < 1) throw new Broken("a read of nothing");
    const after = this.#waiting().filter((row) => row.seq > read.afterSeq);
    const items: MailboxItem[] = [];
    let bytes = 0;
    for (const row of after.slice(0, read.limit)) {
      bytes += row.body.length;
      if (bytes > read.bytesMax && items.length > 0) break;
      items.push(row);
    }
    return { type: "page", items, lastSeq: this.#rows.length, end: items.length === after.length };
  }

  #sweepOf(connection: Connection): Extract<DeliveryEvent, { type: "swept" }> {
    const gone = sweptSeqs(connection.delivery).filter((seq) => this.#row(seq).ended);
    return { type: "swept", lastSeq: this.#rows.length, gone };
  }

  #tell(event: DeliveryEvent): void {
    const connection = this.#connection;
    if (connection === null) return;
    for (const effect of this.#deliver(connection.delivery, event)) {
      if (connection.stalled) checkHeldBack(event, effect);
      this.#do(connection, effect);
    }
  }

  #do(connection: Connection, effect: DeliveryEffect): void {
    switch (effect.type) {
      case "send":
        for (const item of effect.items) this.#checkSent(connection, item);
        return;
      case "read":
        if (connection.read !== null) throw new Broken("two reads at once");
        connection.read = effect;
        return;
      case "queue-empty": {
        if (connection.queueEmpty) throw new Broken("the queue was empty twice");
        connection.queueEmpty = true;
        const unsent = this.#waiting().some((row) => row.seq <= effect.lastSeq && !connection.sent.includes(row.seq));
        if (unsent || effect.lastSeq > this.#rows.length) throw new Broken("the queue is not empty");
        return;
      }
      case "acknowledge":
        for (const item of effect.items) {
          const seq = Number(item.itemId);
          if (!connection.answered.has(seq)) throw new Broken("acknowledged what the client did not answer here");
        }
    }
  }

  #checkSent(connection: Connection, item: MailboxItem): void {
    const before = connection.sent.at(-1) ?? 0;
    if (item.seq <= before) throw new Broken("sent twice or out of order");
    const skipped = this.#waiting().some((row) => row.seq > before && row.seq < item.seq);
    if (skipped) throw new Broken("skipped one that waits");
    connection.sent.push(item.seq);
    const open = connection.sent.filter((seq) => !connection.answered.has(seq) && !this.#row(seq).ended);
    const bytes = open.reduce((sum, seq) => sum + this.#row(seq).body.length, 0);
    if (open.length > LIMITS.itemsMax) throw new Broken("more items than the window");
    if (bytes > LIMITS.bytesMax && open.length > 1) throw new Broken("more bytes than the window");
  }

  #waiting(): (MailboxItem & { ended: boolean })[] {
    return this.#rows.filter((row) => !row.ended);
  }

  #row(seq: number): MailboxItem & { ended: boolean } {
    const row = this.#rows[seq - 1];
    if (row === undefined) throw new Broken("there is no such item");
    return row;
  }
}

/** Nothing is sent to a stalled client but the rows of the read that was out before. */
function checkHeldBack(event: DeliveryEvent, effect: DeliveryEffect): void {
  if (effect.type === "read") throw new Broken("a read for a client that takes nothing");
  const asked = event.type === "page" ? event.items.map(({ seq }) => seq) : [];
  if (effect.type === "send" && effect.items.some(({ seq }) => !asked.includes(seq))) {
    throw new Broken("sent to a client that takes nothing");
  }
}

function check(machine: Deliver, numRuns: number, seed?: number): void {
  fc.assert(
    fc.property(history, fc.constantFrom("answers" as const, "sweeps" as const), (events, by) => {
      const world = new World(machine);
      for (const event of events) world.happen(event);
      world.quieten(by);
    }),
    { numRuns, ...(seed === undefined ? {} : { seed, endOnFailure: true }) },
  );
}

test("whatever happens, every item that does not end is sent, in order, none skipped, none twice, within the window", () => {
  check(deliver, 2_000);
});

/** The machine with one rule broken, as a hand slips. */
const mutants: [name: string, machine: Deliver][] = [
  [
    "takes the seq after the last row as sent",
    (state, event) => {
      const effects = deliver(state, event);
      if (event.type === "page" && effects.some((effect) => effect.type === "send")) state.lastSent++;
      return effects;
    },
  ],
  [
    "takes the mailbox's last seq as sent before the end is reached",
    (state, event) => {
      const effects = deliver(state, event);
      if (event.type === "page") state.lastSent = Math.max(state.lastSent, event.lastSeq);
      return effects;
    },
  ],
  [
    "takes what it heard of, not what the read saw, as the mailbox's end",
    (state, event) => deliver(state, event.type === "page" ? { ...event, lastSeq: state.known } : event),
  ],
  [
    "sends what is handed over behind a hole",
    (state, event) => {
      if (event.type === "handed-over" && !state.reading && event.item.seq > state.lastSent) {
        state.lastSent = event.item.seq - 1;
      }
      return deliver(state, event);
    },
  ],
  [
    "sends again what is handed over again",
    (state, event) => {
      const repeated = event.type === "handed-over" && !state.closed && event.item.seq <= state.lastSent;
      return repeated ? [{ type: "send", items: [event.item] }] : deliver(state, event);
    },
  ],
  [
    "sends what is handed over during a read",
    (state, event) => {
      if (event.type !== "handed-over") return deliver(state, event);
      const reading = state.reading;
      state.reading = false;
      const effects = deliver(state, event);
      state.reading = reading || state.reading;
      return reading ? effects.filter((effect) => effect.type !== "read") : effects;
    },
  ],
  [
    "drops what is handed over, and the sweep's news",
    (state, event) => {
      if (event.type === "handed-over") return [];
      return deliver(state, event.type === "swept" ? { ...event, lastSeq: 0 } : event);
    },
  ],
  [
    "forgets to ask again after a failed read",
    (state, event) => {
      if (event.type === "read-failed") state.reading = true;
      return event.type === "read-failed" ? [] : deliver(state, event);
    },
  ],
  [
    "never learns what ended by another door",
    (state, event) => deliver(state, event.type === "swept" ? { ...event, gone: [] } : event),
  ],
  [
    "counts items but not bytes",
    (state, event) => {
      state.windowBytes = 0;
      return deliver(state, event);
    },
  ],
  [
    "has a window of one too many",
    (state, event) => {
      const loose = { ...LIMITS, itemsMax: LIMITS.itemsMax + 1 };
      if (state.limits.itemsMax !== loose.itemsMax) Object.assign(state, { limits: loose });
      return deliver(state, event);
    },
  ],
  [
    "says that the queue is empty while there is more",
    (state, event) => {
      const effects = deliver(state, event);
      return event.type === "page" && !event.end
        ? [...effects, { type: "queue-empty", lastSeq: event.lastSeq }]
        : effects;
    },
  ],
  [
    "lets a second read out",
    (state, event) => {
      const effects = deliver(state, event);
      const more = event.type === "swept" && state.reading && effects.length === 0;
      return more ? [{ type: "read", afterSeq: state.lastSent, limit: 1, bytesMax: 1 }] : effects;
    },
  ],
  [
    "does not hold back a client that takes nothing",
    (state, event) => (event.type === "stalled" ? [] : deliver(state, event)),
  ],
  [
    "forgets to go on when the client takes again",
    (state, event) => {
      if (event.type !== "drained") return deliver(state, event);
      const reads = deliver(state, event);
      state.reading ||= reads.length > 0;
      return [];
    },
  ],
  [
    "sends what was handed over during a read to a client that takes nothing",
    (state, event) => {
      const stalled = state.stalled;
      if (event.type === "page" && state.held.length > 0) state.stalled = false;
      const effects = deliver(state, event);
      state.stalled = stalled;
      return effects;
    },
  ],
  [
    "takes a cumulative answer for things never sent here",
    (state, event) => {
      const effects = deliver(state, event);
      if (event.type !== "answered-up-to") return effects;
      return [...effects, { type: "acknowledge", items: [{ senderId: "s", itemId: "0" }] }];
    },
  ],
];

describe("the checker finds a machine that", () => {
  test.each(mutants)("%s", (_name, machine) => {
    expect(() => check(machine, 2_000, 1)).toThrow();
  });
});

const item = (seq: number, bytes = 1): MailboxItem => ({
  seq,
  kind: "message",
  senderId: "s",
  itemId: String(seq),
  body: new Uint8Array(bytes),
});

function opened(lastSeq = 0, limits: WindowLimits = LIMITS): Delivery {
  const state = openDelivery(limits);
  deliver(state, { type: "opened" });
  deliver(state, { type: "page", items: [], lastSeq, end: true });
  return state;
}

test("an opened connection reads from the start and says once when the queue is empty", () => {
  const state = openDelivery(LIMITS);
  expect(deliver(state, { type: "opened" })).toEqual([{ type: "read", afterSeq: 0, limit: 6, bytesMax: 40 }]);
  expect(deliver(state, { type: "page", items: [item(3)], lastSeq: 4, end: true })).toEqual([
    { type: "send", items: [item(3)] },
    { type: "queue-empty", lastSeq: 4 },
  ]);
});

test("the next item is sent as it is handed over, without a read", () => {
  const state = opened(4);
  expect(deliver(state, { type: "handed-over", item: item(5) })).toEqual([{ type: "send", items: [item(5)] }]);
  expect(deliver(state, { type: "handed-over", item: item(5) })).toEqual([]);
  expect(deliver(state, { type: "handed-over", item: item(4) })).toEqual([]);
});

test("a hole is read", () => {
  const state = opened(4);
  expect(deliver(state, { type: "handed-over", item: item(6) })).toEqual([
    { type: "read", afterSeq: 4, limit: 6, bytesMax: 40 },
  ]);
});

test("what is handed over during a read follows it without another", () => {
  const state = openDelivery(LIMITS);
  deliver(state, { type: "opened" });
  for (const seq of [1, 2, 3]) expect(deliver(state, { type: "handed-over", item: item(seq) })).toEqual([]);
  expect(deliver(state, { type: "page", items: [item(1)], lastSeq: 1, end: true })).toEqual([
    { type: "send", items: [item(1)] },
    { type: "queue-empty", lastSeq: 1 },
    { type: "send", items: [item(2), item(3)] },
  ]);
});

test("an item larger than the window goes alone", () => {
  const state = opened();
  expect(deliver(state, { type: "handed-over", item: item(1) })).toHaveLength(1);
  expect(deliver(state, { type: "handed-over", item: item(2, 50) }).some(({ type }) => type === "send")).toBe(false);
  deliver(state, { type: "page", items: [item(2, 50)], lastSeq: 2, end: true });
  expect(deliver(state, { type: "answered", items: [item(1)] })[0]?.type).toBe("read");
  expect(deliver(state, { type: "page", items: [item(2, 50)], lastSeq: 2, end: true })).toEqual([
    { type: "send", items: [item(2, 50)] },
  ]);
  expect(deliver(state, { type: "handed-over", item: item(3, 0) })).toEqual([]);
});

test("what ended by another door frees the window at the sweep, when something waits for the room", () => {
  const state = opened();
  for (let seq = 1; seq <= 6; seq++) deliver(state, { type: "handed-over", item: item(seq) });
  expect(sweptSeqs(state)).toEqual([]);
  expect(deliver(state, { type: "handed-over", item: item(7) })).toEqual([]);
  expect(sweptSeqs(state)).toEqual([1, 2, 3, 4, 5, 6]);
  expect(deliver(state, { type: "swept", lastSeq: 7, gone: [2] })).toEqual([
    { type: "read", afterSeq: 6, limit: 1, bytesMax: 35 },
  ]);
});

test("a cumulative answer stands for what was sent on this connection and not answered, and for nothing else", () => {
  const state = opened(10);
  for (const seq of [11, 12, 13]) deliver(state, { type: "handed-over", item: item(seq) });
  deliver(state, { type: "answered", items: [item(12)] });
  expect(deliver(state, { type: "answered-up-to", seq: 12 })).toEqual([
    { type: "acknowledge", items: [{ senderId: "s", itemId: "11" }] },
  ]);
  expect(deliver(state, { type: "answered-up-to", seq: 10 })).toEqual([]);
  expect(deliver(state, { type: "answered-up-to", seq: 1_000_000 })).toEqual([
    { type: "acknowledge", items: [{ senderId: "s", itemId: "13" }] },
  ]);
});

test("a client that answers one by one does not cost a read for each answer", () => {
  const state = openDelivery({ itemsMax: 64, bytesMax: 1_000 });
  deliver(state, { type: "opened" });
  const items = Array.from({ length: 64 }, (_, index) => item(index + 1));
  deliver(state, { type: "page", items, lastSeq: 500, end: false });
  let reads = 0;
  for (const one of items.slice(0, 16)) {
    reads += deliver(state, { type: "answered", items: [one] }).filter(({ type }) => type === "read").length;
  }
  expect(reads).toBe(1);
});

test("after its close a connection does nothing", () => {
  const state = openDelivery(LIMITS);
  deliver(state, { type: "opened" });
  deliver(state, { type: "closed" });
  expect(deliver(state, { type: "page", items: [item(1)], lastSeq: 1, end: true })).toEqual([]);
  expect(deliver(state, { type: "handed-over", item: item(1) })).toEqual([]);
});

test("a connection that closes names the item it was sent first, while that waits for its answer and no other", () => {
  const closing = { type: "closed" } as const;
  const first = { type: "unanswered", item: { senderId: "s", itemId: "11" } };
  const after = (...events: DeliveryEvent[]) => {
    const state = opened(10);
    for (const seq of [11, 12, 13]) deliver(state, { type: "handed-over", item: item(seq) });
    for (const event of events) deliver(state, event);
    return deliver(state, closing);
  };
  expect(after()).toEqual([first]);
  expect(after({ type: "answered", items: [item(12), item(13)] })).toEqual([first]);
  expect(after({ type: "answered", items: [item(11)] })).toEqual([]);
  expect(after({ type: "answered-up-to", seq: 11 })).toEqual([]);
  expect(after({ type: "swept", lastSeq: 13, gone: [11] })).toEqual([]);
  expect(after(closing)).toEqual([]);
  expect(deliver(opened(10), closing)).toEqual([]);
});
