/**
 * Clients without our SDK, over plain HTTP: who seals for itself, whose keys the service holds, and who knows the doors and nothing of keys.
 *
 * What they send they send until it is taken, each try an operation of its own, always the same bytes under the same id.
 */
import { setTimeout as pause } from "node:timers/promises";
import type { Envelope } from "../../../protocol/envelope.ts";
import { makeMessageId } from "../../../protocol/message-id.ts";
import { nodeRandom } from "../../../protocol/primitives/node.ts";
import { type Arrival, type Door, Recipient } from "../../door-clients.ts";
import { HeldAgent } from "../../held-agent.ts";
import { someEnvelope } from "../../in-memory-service.ts";
import { RawSender } from "../../raw-sender.ts";
import { digestOf } from "../log/items.ts";
import type { Recorder } from "../recorder.ts";
import { type Actor, numberIn, type Sender, type Speech } from "./speech.ts";

/** Between tries. */
const AGAIN_MS = 300;
/** A client that hears nothing for so long gives up the try. */
const TRY_MS_MAX = 20_000;
/** Longer than any outage of a run, and what comes after it. */
const PATIENCE_MS = 150_000;
const IDLE_MS = 250;

type Answered = { readonly outcome: "ok" | "fail" | "unknown"; readonly code: string | null };

/** Says it until it is taken. */
async function persist(recorder: Recorder, told: Parameters<Recorder["tell"]>[0], ask: () => Promise<Answered>) {
  const until = performance.now() + PATIENCE_MS;
  while (performance.now() < until) {
    const startMs = performance.now();
    const { outcome, code } = await ask();
    recorder.tell(told, startMs, outcome, code);
    if (outcome === "ok") return;
    await pause(AGAIN_MS);
  }
  recorder.note(`a message was not taken within ${PATIENCE_MS / 1_000} s`);
}

/** Anything but an answer leaves open whether it has happened; so does an answer that says that something is away. */
async function answered(asked: Promise<Response>): Promise<Answered> {
  try {
    const response = await asked;
    const { code = null } = (await response.json()) as { readonly code?: string };
    if (response.status === 202) return { outcome: "ok", code: null };
    return { outcome: response.status >= 500 ? "unknown" : "fail", code };
  } catch (error) {
    return { outcome: "unknown", code: String(error) };
  }
}

/** It only sends: to agents that can read it, and, in envelopes with random contents, to recipients that cannot. */
export class SealingSender implements Sender {
  readonly #raw: RawSender;
  readonly #recorder: Recorder;
  /** Whom it has met: they can read. */
  readonly #met = new Set<string>();

  constructor(url: string, recorder: Recorder) {
    this.#raw = new RawSender(url);
    this.#recorder = recorder;
  }

  get id(): string {
    return this.#raw.me.agentId;
  }

  register(): Promise<void> {
    return this.#raw.register();
  }

  async meet(recipientId: string): Promise<void> {
    await this.#raw.meet(recipientId);
    this.#met.add(recipientId);
  }

  async say(recipientId: string, { n, text, digest }: Speech): Promise<void> {
    const envelope: Envelope = this.#met.has(recipientId)
      ? this.#raw.seal(recipientId, text)
      : someEnvelope(this.id, recipientId);
    const { messageId } = envelope;
    const told = { kind: "send", by: "http", senderId: this.id, recipientId, messageId, n, digest } as const;
    await persist(this.#recorder, told, () => answered(timely(this.#raw.post([envelope]))));
  }
}

function timely<Answer>(asked: Promise<Answer>): Promise<Answer> {
  const tooLong = pause(TRY_MS_MAX, null, { ref: false }).then(() => {
    throw new Error("no answer in time");
  });
  return Promise.race([asked, tooLong]);
}

/** It has an access key, and reads and writes through the service. */
export class HeldActor implements Actor, Sender {
  readonly #held: HeldAgent;
  readonly #recorder: Recorder;
  #isEnding = false;
  #reading: Promise<void> = Promise.resolve();

  constructor(url: string, recorder: Recorder) {
    this.#held = new HeldAgent(url);
    this.#recorder = recorder;
  }

  get id(): string {
    return this.#held.id;
  }

  async open(): Promise<void> {
    const { status } = await this.#held.register();
    if (status !== 201) throw new Error(`a held agent was not registered: ${status}`);
    this.#reading = this.#read();
  }

  async say(recipientId: string, { n, text, digest }: Speech): Promise<void> {
    const messageId = makeMessageId(Date.now(), nodeRandom);
    const told = { kind: "send", by: "http", senderId: this.id, recipientId, messageId, n, digest } as const;
    await persist(this.#recorder, told, () =>
      timely(this.#held.send(recipientId, [text], [messageId])).then(
        () => ({ outcome: "ok", code: null }),
        (error) => ({ outcome: "unknown", code: String(error) }),
      ),
    );
  }

  stay(): Promise<void> {
    return Promise.resolve();
  }

  async end(): Promise<void> {
    this.#isEnding = true;
    await this.#reading;
  }

  async #read(): Promise<void> {
    while (!this.#isEnding) {
      try {
        await this.#take();
      } catch {
        // The service is away; what was not answered comes again.
      }
      await pause(IDLE_MS);
    }
  }

  async #take(): Promise<void> {
    const { messages, failed } = await timely(this.#held.open());
    for (const { code } of failed) this.#recorder.note(`a held agent could not open a message: ${code}`);
    const about = messages.map(({ senderId, messageId, text }) => ({
      by: "http" as const,
      senderId,
      recipientId: this.id,
      messageId,
      n: numberIn(text),
      digest: digestOf(Buffer.from(text)),
    }));
    for (const one of about) this.#recorder.saw({ ...one, kind: "receive" });
    const startMs = performance.now();
    let outcome: "ok" | "unknown" = "ok";
    try {
      await timely(this.#held.acknowledge(messages));
    } catch {
      outcome = "unknown";
    }
    for (const one of about) this.#recorder.tell({ ...one, kind: "acknowledge" }, startMs, outcome);
  }
}

/** It takes what comes by one of the doors, and cannot read it. */
export class DoorActor implements Actor {
  readonly #recipient: Recipient;
  readonly #over = new AbortController();
  #running: Promise<void> = Promise.resolve();
  readonly #recorder: Recorder;

  constructor(door: Door, urls: readonly string[], recorder: Recorder) {
    let turn = 0;
    // Another process each time it connects.
    const pick = () => urls[turn++ % urls.length] as string;
    this.#recorder = recorder;
    this.#recipient = new Recipient(door, pick, {
      seen: (item) => recorder.saw({ ...this.#about(item), kind: "receive" }),
      answered: (items) => {
        const now = performance.now();
        for (const item of items) recorder.tell({ ...this.#about(item), kind: "acknowledge" }, now, "ok");
      },
    });
  }

  get id(): string {
    return this.#recipient.identity.agentId;
  }

  async open(): Promise<void> {
    await this.#recipient.register();
    this.#running = this.#run();
  }

  stay(): Promise<void> {
    return Promise.resolve();
  }

  async end(): Promise<void> {
    this.#over.abort();
    await this.#running;
    const { misplaced, door } = this.#recipient;
    if (misplaced > 0)
      this.#recorder.note(`${misplaced} items came twice or in a wrong order on one connection (${door})`);
  }

  async #run(): Promise<void> {
    const { signal } = this.#over;
    while (!signal.aborted) {
      try {
        await this.#recipient.run(signal);
      } catch (error) {
        if (signal.aborted) return;
        this.#recorder.note(`a client at the door ${this.#recipient.door} stopped: ${error}`);
        await pause(AGAIN_MS);
      }
    }
  }

  #about({ senderId, itemId }: Arrival) {
    return { by: "http", senderId, recipientId: this.id, messageId: itemId, n: null, digest: null } as const;
  }
}
