/**
 * Who talks to whom in a run: pairs of both custodies, of the SDK and of plain HTTP, of agents that are there, that come and go, and that come late.
 */
import { setTimeout as pause } from "node:timers/promises";
import type { Chance } from "../../../sdk/chance.ts";
import type { Recorder } from "../recorder.ts";
import { DoorActor, HeldActor, SealingSender } from "./http-actors.ts";
import { type Habit, SdkActor } from "./sdk-actor.ts";
import { type Actor, type Sender, speech } from "./speech.ts";

export interface LoadOptions {
  readonly urls: readonly string[];
  readonly folder: string;
  /** Pairs, each in one direction. */
  readonly sessions: number;
  /** Messages, of all pairs together. */
  readonly perSecond: number;
  readonly seconds: number;
  readonly chance: Chance;
  readonly recorder: Recorder;
}

export interface Load {
  /** Agents that read their mail. */
  readonly readers: readonly string[];
  /** Says things until it is stopped. */
  start(): void;
  /** Nothing new is said; resolves when all that was begun is told, and everybody is there. */
  stop(): Promise<void>;
  end(): Promise<void>;
}

/** A pair may have so many that are not answered: with one, an answer that is late would be all that a fault meets. */
const UNANSWERED_MAX = 3;
const LATE_PART = 0.6;
const SETUP_TRIES = 30;
const SETUP_AGAIN_MS = 2_000;

const habits: readonly Habit[] = ["online", "online", "reconnecting", "late"];

export async function openLoad(options: LoadOptions): Promise<Load> {
  const { urls, recorder, sessions, chance } = options;
  const urlOf = (place: number) => urls[place % urls.length] as string;
  const size = (share: number, least: number) => Math.max(least, Math.round(sessions * share));
  const own = await sdkActors(size(0.16, 4), "agent", options);
  const kept = await sdkActors(size(0.08, 2), "server", options);
  const sealing = Array.from({ length: size(0.1, 2) }, (_, place) => new SealingSender(urlOf(place), recorder));
  const held = Array.from({ length: size(0.04, 2) }, (_, place) => new HeldActor(urlOf(place), recorder));
  const doors = (["stream", "events", "poll"] as const).map((door) => new DoorActor(door, urls, recorder));
  await Promise.all(sealing.map((one) => patiently(() => one.register())));
  await Promise.all(held.map((one) => patiently(() => one.open())));
  await Promise.all(doors.map((one) => one.open()));

  const at = <Item>(items: readonly Item[], place: number) => items[place % items.length] as Item;
  const kinds: readonly ((turn: number) => readonly [Sender, Actor])[] = [
    (turn) => [at(own, turn), at(own, turn + 1)],
    (turn) => [at(kept, turn), at(own, turn)],
    (turn) => [at(own, turn), at(own, turn + 3)],
    (turn) => [at(sealing, turn), at(own, turn)],
    (turn) => [at(own, turn), at(kept, turn)],
    (turn) => [at(sealing, turn), at(doors, turn)],
    (turn) => [at(held, turn), at(own, turn)],
    (turn) => [at(own, turn + 2), at(held, turn)],
    (turn) => [at(kept, turn), at(held, turn)],
    (turn) => [at(held, turn), at(kept, turn + 1)],
    (turn) => [at(own, turn + 1), at(own, turn)],
  ];
  const pairs = new Map<string, readonly [Sender, Actor]>();
  for (let place = 0; pairs.size < sessions && place < sessions * kinds.length; place++) {
    const pair = at(kinds, place)(Math.floor(place / kinds.length));
    const [from, to] = pair;
    if (from.id !== to.id) pairs.set(`${from.id} ${to.id}`, pair);
  }
  for (const [from, to] of pairs.values()) {
    if (from instanceof SealingSender && !(to instanceof DoorActor)) await patiently(() => from.meet(to.id));
  }

  const stopping = new AbortController();
  const intervalMs = (1_000 * pairs.size) / options.perSecond;
  const actors: readonly Actor[] = [...own, ...kept, ...held, ...doors];
  let talks: readonly Promise<void>[] = [];
  return {
    readers: actors.map(({ id }) => id),
    start: () => {
      for (const one of [...own, ...kept]) one.live();
      const begin = ([from, to]: readonly [Sender, Actor]) => {
        const offsetMs = chance.below(Math.ceil(intervalMs));
        return talk(from, to.id, { intervalMs, offsetMs, signal: stopping.signal });
      };
      talks = Array.from(pairs.values(), begin);
    },
    stop: async () => {
      stopping.abort();
      await Promise.all(actors.map((one) => one.stay()));
      await Promise.all(talks);
    },
    end: async () => {
      await Promise.all(actors.map((one) => one.end()));
    },
  };
}

/** Before anything is broken on purpose: a busy machine says 503 as well. */
async function patiently(ask: () => Promise<void>): Promise<void> {
  for (let left = SETUP_TRIES; ; left--) {
    try {
      return await ask();
    } catch (error) {
      if (left <= 1) throw error;
      await pause(SETUP_AGAIN_MS);
    }
  }
}

async function sdkActors(
  count: number,
  custody: "agent" | "server",
  options: LoadOptions,
): Promise<readonly SdkActor[]> {
  const { urls, folder, recorder, chance, seconds } = options;
  const open = (place: number) =>
    SdkActor.open({
      name: `${custody}-${place}`,
      url: urls[place % urls.length] as string,
      folder,
      custody,
      habit: habits[place % habits.length] as Habit,
      lateMs: seconds * 1_000 * LATE_PART,
      recorder,
      chance,
    });
  return Promise.all(Array.from({ length: count }, (_, place) => open(place)));
}

interface Pace {
  readonly intervalMs: number;
  readonly offsetMs: number;
  readonly signal: AbortSignal;
}

async function talk(from: Sender, to: string, { intervalMs, offsetMs, signal }: Pace): Promise<void> {
  const unanswered = new Set<Promise<void>>();
  const wait = (ms: number) => pause(ms, null, { signal }).catch(() => undefined);
  await wait(offsetMs);
  const parallel = from instanceof SdkActor ? UNANSWERED_MAX : 1;
  for (let n = 1; !signal.aborted; n++) {
    const said = from.say(to, speech(n)).finally(() => unanswered.delete(said));
    unanswered.add(said);
    const turn = wait(intervalMs);
    while (unanswered.size >= parallel) await Promise.race(unanswered);
    await turn;
  }
  await Promise.all(unanswered);
}
