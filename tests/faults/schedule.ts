/**
 * What breaks when, from the seed alone: the same seed, the same schedule. Pure.
 *
 * A fault begins a while after the last one was healed, however long that took; about one in four begins while the last one is on, where the two are not about
 * the same thing. Each kind comes once before any comes again, and each target of a kind before any of that kind comes again.
 */
import { Chance } from "../../sdk/chance.ts";
import { faults } from "./faults/all.ts";
import type { Fault, World } from "./faults/fault.ts";

export interface Scheduled {
  /** When it begins, if healing takes as long as it is thought to. */
  readonly atMs: number;
  /** After the last fault was healed, or, where it overlaps, after the last one began. */
  readonly gapMs: number;
  readonly overlaps: boolean;
  readonly fault: string;
  readonly target: string;
  readonly durationMs: number;
  /** For what the fault chooses while it happens. */
  readonly seed: number;
}

/** A kind of fault, and of what; null: of anything. */
export interface Choice {
  readonly fault: Fault;
  readonly target: string | null;
}

/** Enough for every pair to have begun to talk. */
const FIRST_AT_MS = 2_000;
const OVERLAP_PROBABILITY = 0.25;
/** What a process or a server that was killed takes to be there again. */
const HEALING_MS = 4_000;
/** A fault is over by the end of the run, and takes no more than this part of it. */
const PART_OF_RUN_MAX = 1 / 3;

/**
 * `KIND` or `KIND:TARGET`, as on the command line.
 *
 * @throws Error that says which there are.
 */
export function choiceOf(text: string, world: World): Choice {
  const [name = "", ...rest] = text.split(":");
  const target = rest.length === 0 ? null : rest.join(":");
  const fault = faults.find((one) => one.name === name);
  if (fault === undefined) {
    throw new Error(`--fault ${name} is none; there are ${faults.map((one) => one.name).join(", ")}`);
  }
  const targets = fault.targets(world);
  if (target !== null && !targets.includes(target)) {
    throw new Error(`--fault ${name} has no target ${target}; it has ${targets.join(", ")}`);
  }
  return { fault, target };
}

export function schedule(
  seed: number,
  seconds: number,
  world: World,
  choices: readonly Choice[] = faults.map((fault) => ({ fault, target: null })),
): readonly Scheduled[] {
  const chance = new Chance(seed);
  const endMs = seconds * 1_000;
  const planned: Scheduled[] = [];
  const targets = new Targets(world, chance);
  let bag: Choice[] = [];
  let healedAtMs = 0;
  /** What may be on when the next one begins. */
  let under: readonly { readonly fault: Fault; readonly target: string }[] = [];
  // A kind that is too long for what is left may be followed by one that is not.
  for (let misses = 0; misses < choices.length; ) {
    if (bag.length === 0) bag = shuffled(choices, chance);
    const { fault, target: given } = bag.pop() as Choice;
    const target = given ?? targets.next(fault);
    const durationMs = fault.duration(chance, endMs * PART_OF_RUN_MAX);
    const last = planned.at(-1);
    const isFree = under.length > 0 && [fault, ...under.map((one) => one.fault)].every(({ isAlone }) => !isAlone);
    const isOther = under.every((one) => !areAbout(one.target, target));
    const overlaps = chance.happens(OVERLAP_PROBABILITY) && isFree && isOther;
    const gapMs = chance.below(3_000) + (last === undefined ? FIRST_AT_MS : 500);
    const atMs = gapMs + (overlaps ? (last?.atMs ?? 0) : healedAtMs);
    if (target === "" || atMs + durationMs > endMs) {
      misses += 1;
      continue;
    }
    misses = 0;
    under = overlaps ? [...under, { fault, target }] : [{ fault, target }];
    planned.push({ atMs, gapMs, overlaps, fault: fault.name, target, durationMs, seed: chance.below(2 ** 31) });
    healedAtMs = Math.max(healedAtMs, atMs + durationMs + HEALING_MS);
  }
  return planned;
}

/** What is next of each kind. */
class Targets {
  readonly #world: World;
  readonly #chance: Chance;
  readonly #bags = new Map<Fault, string[]>();

  constructor(world: World, chance: Chance) {
    this.#world = world;
    this.#chance = chance;
  }

  /** Empty: it has none. */
  next(fault: Fault): string {
    let bag = this.#bags.get(fault) ?? [];
    if (bag.length === 0) bag = shuffled(fault.targets(this.#world), this.#chance);
    this.#bags.set(fault, bag);
    return bag.pop() ?? "";
  }
}

/** Does one name stand in both? What is broken twice at a time is healed by whichever ends first. */
function areAbout(one: string, other: string): boolean {
  const names = new Set(one.split(/[>/:]/));
  return other.split(/[>/:]/).some((name) => names.has(name));
}

function shuffled<Item>(items: readonly Item[], chance: Chance): Item[] {
  const rest = [...items];
  return items.map(() => rest.splice(chance.below(rest.length), 1)[0] as Item);
}
