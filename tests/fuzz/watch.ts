/** Looks at the service while it is fuzzed, through its own metrics: does it answer, how large did it get, has it met a bug of its own. */
import { setTimeout as pause } from "node:timers/promises";
import type { Stage } from "./stage.ts";

const LOOK_EVERY_MS = 500;
/** pino's number: error, which in our log is a bug somebody must look at. */
const ERROR_LEVEL = 50;

export class Watch {
  readonly #stage: Stage;
  #peakRssMib = 0;
  #slowestMs = 0;
  #looks = 0;
  #isOver = false;
  #ended: string | null = null;
  readonly #loop: Promise<void>;

  constructor(stage: Stage) {
    this.#stage = stage;
    void stage.service.ended.then((how) => {
      if (!this.#isOver) this.#ended = how;
    });
    this.#loop = this.#run();
  }

  /** The longest time that the process took to answer one look. */
  get slowestMs(): number {
    return Math.round(this.#slowestMs);
  }

  get looks(): number {
    return this.#looks;
  }

  /** The most memory seen so far. */
  get peakRssMib(): number {
    return Math.round(this.#peakRssMib);
  }

  async end(): Promise<void> {
    this.#isOver = true;
    await this.#loop;
  }

  findings(): readonly string[] {
    const ended = this.#ended === null ? [] : [`the service ended: ${this.#ended}`];
    const errors = this.#stage.service
      .output()
      .split("\n")
      .filter((line) => levelOf(line) >= ERROR_LEVEL);
    return [...ended, ...errors.slice(0, 10).map((line) => `logged: ${line.slice(0, 600)}`)];
  }

  async #run(): Promise<void> {
    while (!this.#isOver && this.#ended === null) {
      const startMs = performance.now();
      try {
        const text = await (await fetch(`${this.#stage.url}/metrics`)).text();
        this.#peakRssMib = Math.max(this.#peakRssMib, metric(text, "process_resident_memory_bytes") / 2 ** 20);
        this.#looks++;
      } catch {
        // That it ended is told by `ended`; that it answered slowly, by the time.
      }
      this.#slowestMs = Math.max(this.#slowestMs, performance.now() - startMs);
      await pause(LOOK_EVERY_MS);
    }
  }
}

function metric(text: string, name: string): number {
  const value = new RegExp(`^${name} (\\S+)$`, "m").exec(text)?.[1];
  if (value === undefined) throw new Error(`there is no metric ${name}`);
  return Number(value);
}

function levelOf(line: string): number {
  try {
    return Number((JSON.parse(line) as { readonly level?: unknown }).level ?? 0);
  } catch {
    // What is no log line: `ready`, or what Node says when it ends.
    return 0;
  }
}
