/**
 * Clients that know the doors of the service and nothing of keys: envelopes with random contents, whose order and number can be followed.
 *
 * A recipient does what docs/stream.md asks of a client: it takes each message once, answers it again when it comes again, gives its answers until they
 * are taken, and connects again when its connection broke.
 */
import { randomInt } from "node:crypto";
import type { ItemFrame } from "../protocol/stream-frames.ts";
import { type EventClient, openEventClient } from "./event-client.ts";
import { jsonOf, someEnvelope } from "./in-memory-service.ts";
import { type Call, call, newIdentity } from "./signing.ts";
import { type Client, openClient, pause } from "./stream-client.ts";

export type Door = "stream" | "events" | "poll";

/** The URL of a process that is there. */
export type PickPlace = () => string;

/** Longer than any process or server is away, also on a busy machine. */
const OUTAGE_MS_MAX = 240_000;

/** Between attempts, and above: a crowd that tries again at once would keep a busy machine busy. ms. */
const AGAIN_MS_MIN = 200;
const AGAIN_MS_MAX = 1_000;

/** As many as a call takes. */
const ENVELOPES_MAX = 100;

/** What a connection was sent of one item. */
export interface Arrival {
  readonly seq: number;
  readonly senderId: string;
  readonly itemId: string;
}

class Caller {
  readonly identity = newIdentity();
  readonly pick: PickPlace;

  constructor(pick: PickPlace) {
    this.pick = pick;
  }

  async register(): Promise<void> {
    const x = this.identity.signing.publicKey;
    const body = { identity_key: Buffer.from(x).toString("base64url") };
    await this.until({ method: "POST", url: "/messaging/agents", body }, 201);
  }

  /** Asks any process until one answers as wanted. What is not an outage is thrown, and one that does not end. */
  async until(wanted: Call, status: number): Promise<void> {
    const deadline = Date.now() + OUTAGE_MS_MAX;
    while ((await this.ask(wanted))?.status !== status) {
      if (Date.now() > deadline) throw new Error("no process took the call");
      await pause(randomInt(AGAIN_MS_MIN, AGAIN_MS_MAX));
    }
  }

  /** Null when the process was gone, or asks to come again. */
  async ask(wanted: Call, signal?: AbortSignal): Promise<{ readonly status: number; readonly json: unknown } | null> {
    const url = this.pick() + wanted.url;
    try {
      const response = await call(this.identity, { ...wanted, url });
      const json: unknown = await response.json();
      if (response.ok) return { status: response.status, json };
      const { code } = json as { code: string };
      if (!["sign-again", "unavailable", "overloaded", "stream-open"].includes(code)) throw new Refused(code);
      return null;
    } catch (error) {
      if (error instanceof Refused || signal?.aborted === true) throw error;
      return null;
    }
  }
}

class Refused extends Error {}

export class Sender extends Caller {
  /** Ids by recipient, in the order in which they were accepted. */
  readonly sent = new Map<string, string[]>();

  /** One message to each; resolves when Kafka has them. */
  async sendToEach(recipientIds: readonly string[]): Promise<void> {
    for (let start = 0; start < recipientIds.length; start += ENVELOPES_MAX) {
      const some = recipientIds.slice(start, start + ENVELOPES_MAX);
      const envelopes = some.map((to) => someEnvelope(this.identity.agentId, to));
      await this.until({ method: "POST", url: "/messaging/send", body: { envelopes: envelopes.map(jsonOf) } }, 202);
      for (const { recipientId, messageId } of envelopes) {
        this.sent.set(recipientId, [...(this.sent.get(recipientId) ?? []), messageId]);
      }
    }
  }
}

/** Told what a recipient sees, as often as it sees it, and which of its answers were taken. */
export interface Watcher {
  seen(item: Arrival): void;
  answered(items: readonly Arrival[]): void;
}

export class Recipient extends Caller {
  readonly door: Door;
  readonly #watcher: Watcher | null;
  /** What the application got, each once, by sender. */
  readonly taken = new Map<string, string[]>();
  /** Items that came twice, or not in the order of their seq, on one connection: there must be none. */
  misplaced = 0;
  connections = 0;
  #known = new Set<string>();
  #cut: () => void = () => undefined;

  constructor(door: Door, pick: PickPlace, watcher: Watcher | null = null) {
    super(pick);
    this.door = door;
    this.#watcher = watcher;
  }

  get count(): number {
    return this.#known.size;
  }

  /** Ends the connection as a broken network does. */
  cut(): void {
    this.#cut();
  }

  /** Until the signal aborts. */
  async run(signal: AbortSignal): Promise<void> {
    const connect = { stream: this.#stream, events: this.#events, poll: this.#poll }[this.door];
    while (!signal.aborted) {
      this.connections++;
      await connect.call(this, signal);
      if (!signal.aborted) await pause(randomInt(AGAIN_MS_MIN, AGAIN_MS_MAX));
    }
  }

  async #stream(signal: AbortSignal): Promise<void> {
    let client: Client;
    try {
      client = await openClient(`${this.pick()}/messaging/stream`, this.identity);
    } catch {
      return;
    }
    this.#endsWith(signal, () => client.socket.terminate());
    let last = 0;
    const take = () => {
      const items = client.frames.splice(0).filter((frame): frame is ItemFrame => frame.type === "item");
      if (items.length === 0) return;
      last = this.#take(items, last);
      client.send({ type: "ack", items: items.map(({ senderId, itemId }) => ({ senderId, itemId })) });
    };
    client.socket.on("message", take);
    take();
    await client.closed;
  }

  async #events(signal: AbortSignal): Promise<void> {
    let client: EventClient;
    try {
      client = await openEventClient(`${this.pick()}/messaging/events`, this.identity);
    } catch {
      return;
    }
    this.#endsWith(signal, () => client.cut());
    let last = 0;
    let answering = false;
    let unanswered: Arrival[] = [];
    const answerAll = async () => {
      answering = true;
      while (unanswered.length > 0) await this.#answer(unanswered.splice(0, ENVELOPES_MAX));
      answering = false;
    };
    let answered: Promise<void> = Promise.resolve();
    const take = () => {
      const items = client.events.splice(0).filter(({ name }) => name === "item");
      if (items.length === 0) return;
      const arrivals = items.map(({ data }) => ({ seq: data.seq, senderId: data.sender_id, itemId: data.item_id }));
      last = this.#take(arrivals, last);
      unanswered = [...unanswered, ...arrivals];
      if (answering) return;
      answered = answerAll();
      // Its failure is told when the connection has ended: who is refused, and not for a moment, begins anew.
      answered.catch(() => client.cut());
    };
    client.response.on("data", take);
    take();
    await client.closed;
    await answered;
  }

  /** One sweep, until it breaks. */
  async #poll(signal: AbortSignal): Promise<void> {
    let broken = false;
    this.#endsWith(signal, () => {
      broken = true;
    });
    let cursor = "0";
    let last = 0;
    while (!broken) {
      const url = `/messaging/receive?after=${cursor}`;
      const answer = await this.ask({ method: "GET", url, headers: { prefer: "wait=2" } }, signal);
      if (answer === null) return;
      const page = answer.json as { cursor: string; items: { seq: number; sender_id: string; item_id: string }[] };
      const arrivals = page.items.map(({ seq, sender_id, item_id }) => ({ seq, senderId: sender_id, itemId: item_id }));
      last = this.#take(arrivals, last);
      if (arrivals.length > 0) await this.#answer(arrivals);
      ({ cursor } = page);
    }
  }

  #endsWith(signal: AbortSignal, cut: () => void): void {
    this.#cut = cut;
    if (signal.aborted) cut();
    signal.addEventListener("abort", cut, { once: true });
  }

  async #answer(items: readonly Arrival[]): Promise<void> {
    const body = { items: items.map(({ senderId, itemId }) => ({ sender_id: senderId, message_id: itemId })) };
    await this.until({ method: "POST", url: "/messaging/acknowledge", body }, 202);
    this.#watcher?.answered(items);
  }

  #take(items: readonly Arrival[], last: number): number {
    for (const item of items) {
      const { seq, senderId, itemId } = item;
      this.#watcher?.seen(item);
      if (seq <= last) this.misplaced++;
      last = seq;
      if (this.#known.has(itemId)) continue;
      this.#known.add(itemId);
      this.taken.set(senderId, [...(this.taken.get(senderId) ?? []), itemId]);
    }
    return last;
  }
}
