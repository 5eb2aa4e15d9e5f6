/**
 * One way in which something breaks. What it does to whom, and for how long, is planned from the seed; doing it says nothing but whether it was done.
 */
import type { Chance } from "../../../sdk/chance.ts";
import type { Stage } from "../stage.ts";

/** What there is to break, by name. */
export interface World {
  /** Processes of the service. */
  readonly processes: readonly string[];
  /** The parts that run in them, by process. */
  readonly parts: Readonly<Record<string, readonly string[]>>;
  readonly servers: readonly string[];
  /** `process>server` and `clients>api`: a TCP connection that leads through a proxy. */
  readonly links: readonly string[];
  /** Topics that consumers read. */
  readonly topics: readonly string[];
}

export interface Fault {
  readonly name: string;
  /** It could not be carried out while something else is broken: nothing overlaps with it. */
  readonly isAlone?: true;
  /** Why it cannot be done on this machine; null: it can. Without it: everywhere. */
  unavailable?(): string | null;
  targets(world: World): readonly string[];
  /** How long it lasts, milliseconds: at most `msMax`, as the run is long enough for. 0 is a moment. */
  duration(chance: Chance, msMax: number): number;
  /**
   * Breaks it, waits, heals it. Answers the `ce_id`s of the poison it left, if that is what it does.
   *
   * Rejects when it could not be done: a fault that did not happen proves nothing.
   */
  inject(stage: Stage, at: Injection): Promise<readonly string[] | undefined>;
}

export interface Injection {
  readonly target: string;
  readonly durationMs: number;
  /** For what is left to choose. */
  readonly chance: Chance;
}

/** One of these that is not longer than `msMax`; the shortest where none is. */
export function oneOf(durationsMs: readonly number[], chance: Chance, msMax: number): number {
  const fitting = durationsMs.filter((ms) => ms <= msMax);
  return chance.choose(fitting) ?? Math.min(...durationsMs);
}
