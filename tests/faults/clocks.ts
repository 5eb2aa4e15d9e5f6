/** The wall clocks of the service's processes: each can be set by itself. */
import { readFile, rm, writeFile } from "node:fs/promises";
import path from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { pathToFileURL } from "node:url";

const module = pathToFileURL(path.join(import.meta.dirname, "wall-clock.ts")).href;

/** A process that is down looks when it starts. */
const SEEN_MS_MAX = 60_000;

export class Clocks {
  readonly #folder: string;
  readonly #set = new Set<string>();

  constructor(folder: string) {
    this.#folder = folder;
  }

  /** What a process of this name is started with. */
  env(name: string): Readonly<Record<string, string>> {
    return { NODE_OPTIONS: `--import=${module}?${encodeURIComponent(this.#file(name))}` };
  }

  /**
   * From now on the process's clock is wrong by so much.
   *
   * @throws Error when the process does not notice.
   */
  async set(name: string, offsetMs: number): Promise<void> {
    const file = this.#file(name);
    await rm(`${file}.seen`, { force: true });
    await writeFile(file, `${offsetMs}`);
    this.#set.add(name);
    const until = performance.now() + SEEN_MS_MAX;
    while (Number(await readFile(`${file}.seen`, "utf8").catch(() => "NaN")) !== offsetMs) {
      if (performance.now() > until) throw new Error(`the clock of ${name} could not be set`);
      await pause(20);
    }
  }

  /** All are right again, or will be when they start. */
  async heal(): Promise<void> {
    for (const name of this.#set) await writeFile(this.#file(name), "0");
  }

  #file(name: string): string {
    return path.join(this.#folder, `clock-${name}`);
  }
}
