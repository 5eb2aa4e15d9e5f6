/** A process of the service under a supervisor: whatever ends it, it is started again, as long as it is wanted. */
import { setTimeout as pause } from "node:timers/promises";
import type { ServiceProcess } from "../../bin/service-process.ts";
import { signal } from "../processes.ts";

type Launch = (env: Readonly<Record<string, string>>) => Promise<ServiceProcess>;

/** A start that failed (a server is away, say) is tried again after this. */
const AGAIN_MS = 500;
/** Longer than a start takes while everything else starts, too. */
const UP_MS_MAX = 300_000;

export class Supervised {
  readonly name: string;
  readonly #launch: Launch;
  #running = Promise.withResolvers<ServiceProcess>();
  #isWanted = true;
  /** It is not started before. */
  #notBeforeMs = 0;
  #nextEnv: Readonly<Record<string, string>> = {};
  /** How often it ended by SIGKILL before it was ready, as it does at a failpoint that it comes to while its other parts start. */
  #diedStarting = 0;
  #loop: Promise<void>;
  readonly #outputs: (() => string)[] = [];

  constructor(name: string, launch: Launch) {
    this.name = name;
    this.#launch = launch;
    this.#loop = this.#supervise();
  }

  /** Resolves when it is ready. */
  async up(): Promise<ServiceProcess> {
    const tooLong = new AbortController();
    const late = pause(UP_MS_MAX, null, { signal: tooLong.signal }).catch(() => null);
    const process = await Promise.race([this.#running.promise, late]);
    tooLong.abort();
    if (process === null) throw new Error(`${this.name} was not up within ${UP_MS_MAX / 1_000} s`);
    return process;
  }

  /** SIGKILL; it is up again when this resolves, not earlier than after `awayMs`. */
  async kill(awayMs: number): Promise<void> {
    const process = await this.up();
    this.#notBeforeMs = performance.now() + awayMs;
    await process.kill();
    await this.#upAfter(process);
  }

  /** SIGSTOP, for so long. A process that was killed meanwhile is not woken. */
  async freeze(ms: number): Promise<void> {
    const process = await this.up();
    signal(process.pid, "SIGSTOP");
    await pause(ms);
    signal(process.pid, "SIGCONT");
  }

  /** Starts it once with `env`, under which it is to end by itself; up again when this resolves. Rejects when it did not end. */
  async dieOnce(env: Readonly<Record<string, string>>, msMax: number): Promise<void> {
    // A start that is under way would take it, and be killed by us.
    await this.up();
    this.#nextEnv = env;
    const diedBefore = this.#diedStarting;
    await this.kill(0);
    if (this.#diedStarting > diedBefore) return;
    const doomed = await this.up();
    const how = await Promise.race([doomed.ended, pause(msMax, null, { ref: false })]);
    if (how === null) {
      await this.kill(0);
      throw new Error("it did not come to its failpoint");
    }
    await this.#upAfter(doomed);
  }

  /** Ends it for good. */
  async end(): Promise<void> {
    this.#isWanted = false;
    const running = await Promise.race([this.#running.promise, this.#loop.then(() => null)]);
    if (running !== null) {
      signal(running.pid, "SIGCONT");
      await running.stop();
    }
    await this.#loop;
  }

  /** What all of its processes wrote. */
  output(): string {
    return this.#outputs.map((output) => output()).join("\n");
  }

  async #upAfter(dead: ServiceProcess): Promise<void> {
    while ((await this.up()) === dead) await pause(20);
  }

  async #supervise(): Promise<void> {
    while (this.#isWanted) {
      await pause(Math.max(0, this.#notBeforeMs - performance.now()));
      const env = this.#nextEnv;
      this.#nextEnv = {};
      let process: ServiceProcess;
      try {
        process = await this.#launch(env);
      } catch (error) {
        const said = String(error);
        this.#outputs.push(() => said);
        if (said.includes("(SIGKILL)")) this.#diedStarting++;
        else this.#nextEnv = { ...env, ...this.#nextEnv };
        await pause(AGAIN_MS);
        continue;
      }
      this.#outputs.push(() => process.output());
      this.#running.resolve(process);
      await process.ended;
      this.#running = Promise.withResolvers();
    }
  }
}
