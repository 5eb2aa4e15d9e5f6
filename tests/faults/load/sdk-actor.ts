/** An agent of the SDK, of either custody: it reads and acknowledges all the time that it is there, and may come and go. */
import path from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { Agent } from "../../../sdk/agent.ts";
import type { Chance } from "../../../sdk/chance.ts";
import { AgentError, AgentStopped, SendRejected } from "../../../sdk/errors.ts";
import type { InboxMessage } from "../../../sdk/message.ts";
import { digestOf } from "../log/items.ts";
import type { Recorder } from "../recorder.ts";
import { type Actor, numberIn, type Sender, type Speech } from "./speech.ts";

/** `late`: away for the first part of the run. */
export type Habit = "online" | "reconnecting" | "late";

interface SdkActorOptions {
  readonly name: string;
  readonly url: string;
  readonly folder: string;
  readonly custody: "agent" | "server";
  readonly habit: Habit;
  /** Until when who is late is away, milliseconds from the start. */
  readonly lateMs: number;
  readonly recorder: Recorder;
  readonly chance: Chance;
}

export class SdkActor implements Actor, Sender {
  readonly #options: SdkActorOptions;
  #id = "";
  #there = Promise.withResolvers<Agent>();
  readonly #staying = new AbortController();
  #isEnding = false;
  #habit: Promise<void> = Promise.resolve();
  #reading: Promise<void> = Promise.resolve();

  private constructor(options: SdkActorOptions) {
    this.#options = options;
  }

  /** Registers the agent. */
  static async open(options: SdkActorOptions): Promise<SdkActor> {
    const actor = new SdkActor(options);
    await actor.#come();
    return actor;
  }

  get id(): string {
    return this.#id;
  }

  /** Begins its habit. */
  live(): void {
    this.#habit = this.#live();
  }

  async say(recipientId: string, { n, text, digest }: Speech): Promise<void> {
    const { recorder } = this.#options;
    const agent = await this.#there.promise;
    const told = { kind: "send", by: "sdk", senderId: this.#id, recipientId, n, digest } as const;
    const startMs = performance.now();
    try {
      const { messageId } = await agent.send(recipientId, text);
      recorder.tell({ ...told, messageId }, startMs, "ok");
    } catch (error) {
      if (error instanceof SendRejected) {
        recorder.tell({ ...told, messageId: error.messageId }, startMs, "fail", error.code);
      } else {
        // If it was stored it leaves when the agent is there again.
        recorder.tell({ ...told, messageId: null }, startMs, "unknown", codeOf(error));
      }
    }
  }

  async stay(): Promise<void> {
    this.#staying.abort();
    await this.#habit;
  }

  async end(): Promise<void> {
    this.#isEnding = true;
    await this.#go();
  }

  async #live(): Promise<void> {
    const { habit, lateMs, chance } = this.#options;
    if (habit === "online") return;
    while (!this.#staying.signal.aborted) {
      if (habit === "reconnecting") await this.#wait(3_000 + chance.below(9_000));
      await this.#go();
      await this.#wait(habit === "late" ? lateMs : 500 + chance.below(3_000));
      await this.#come();
      if (habit === "late") return;
    }
  }

  async #wait(ms: number): Promise<void> {
    await pause(ms, null, { signal: this.#staying.signal }).catch(() => undefined);
  }

  async #come(): Promise<void> {
    const { name, url, folder, custody } = this.#options;
    const agent = await Agent.open({ url, storePath: path.join(folder, `${name}.db`), custody });
    this.#id = agent.id;
    this.#there.resolve(agent);
    this.#reading = this.#read(agent);
  }

  async #go(): Promise<void> {
    const agent = await this.#there.promise;
    this.#there = Promise.withResolvers();
    await agent.close();
    await this.#reading;
  }

  async #read(agent: Agent): Promise<void> {
    const { recorder, name } = this.#options;
    try {
      for await (const message of agent.inbox()) await this.#take(message);
    } catch (error) {
      if (error instanceof AgentStopped && error.code === "closed") return;
      recorder.note(`${name} stopped reading: ${codeOf(error)}`);
      if (!this.#isEnding) await this.#again(agent);
    }
  }

  /** It has stopped by itself, which it should not: its user starts it again. */
  async #again(agent: Agent): Promise<void> {
    await agent.close();
    if ((await this.#there.promise) !== agent) return;
    this.#there = Promise.withResolvers();
    const { name, url, folder, custody } = this.#options;
    const next = await Agent.open({ url, storePath: path.join(folder, `${name}.db`), custody });
    this.#there.resolve(next);
    await this.#read(next);
  }

  async #take(message: InboxMessage): Promise<void> {
    const { recorder } = this.#options;
    const about = {
      by: "sdk",
      senderId: message.from,
      recipientId: this.#id,
      messageId: message.id,
      n: numberIn(message.text()),
      digest: digestOf(message.body),
    } as const;
    recorder.saw({ ...about, kind: "receive" });
    const startMs = performance.now();
    await message.ack();
    recorder.tell({ ...about, kind: "acknowledge" }, startMs, "ok");
  }
}

function codeOf(error: unknown): string {
  return error instanceof AgentError ? error.code : String(error);
}
