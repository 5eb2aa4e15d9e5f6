/**
 * Histories of lives, drawn at random and lived: what happens to two to four agents that already exist, until everything comes to rest.
 *
 * A life is plain data, and the same one is lived the same way again: a failing one is printed by fast-check, made small, and can be put
 * into a test of its own.
 */
import fc from "fast-check";
import { DAY_MS } from "../protocol/limits.ts";
import { Agent } from "./agent.ts";
import { Chance } from "./chance.ts";
import { type Mutant, ORIGIN, type Persona, type Sleeper, type Tally, World } from "./simulated-life.ts";
import { type Accounts, CALM, SimulatedService, type Weather } from "./simulated-service.ts";
import { SimulatedTime } from "./simulated-time.ts";
import { Store } from "./store/store.ts";

/** Not one of `lives`: who lives under it would make keys and ids that are there already. */
const SEED_OF_BIRTH = -1;
const BIRTH = Date.UTC(2026, 0, 5);
const SECOND_MS = 1_000;
const HOUR_MS = 3_600_000;
const AGENTS_MAX = 4;

/** Of the hundred of each kind that an agent begins with: a small stock makes short lives cheap, and runs low. */
const PREKEYS_USED = 70;

/** All that passes in one life: what is said in it must not have expired before everybody is back. */
const LIFE_MS_MAX = 25 * DAY_MS;

const ROUGH: Weather = {
  callLost: 0.05,
  answerLost: 0.05,
  cut: 0.02,
  itemRepeated: 0.1,
  itemLate: 0.2,
  itemWithheld: 0.05,
  receiptLost: 0.2,
  overloaded: 0.05,
  overBudget: 0.1,
  latencyMsMax: 100,
};

const STORMY: Weather = {
  callLost: 0.25,
  answerLost: 0.25,
  cut: 0.15,
  itemRepeated: 0.3,
  itemLate: 0.4,
  itemWithheld: 0.2,
  receiptLost: 0.5,
  overloaded: 0.2,
  overBudget: 0.4,
  latencyMsMax: 500,
};

const WEATHERS = { calm: CALM, rough: ROUGH, stormy: STORMY };

type Deed = "start" | "stop" | "cut" | "snapshot" | "roll-back" | "rotate" | "forge";

/** What can happen. Agents are numbers, taken modulo how many there are; whoever would talk to itself says nothing. */
export type Happening =
  | { readonly what: "say"; readonly who: number; readonly to: number; readonly count: number }
  /** Both at the same time. */
  | { readonly what: "cross"; readonly who: number; readonly to: number }
  | { readonly what: "wait" | "sleep" | "be-away"; readonly ms: number }
  /** In the middle of what it does. */
  | { readonly what: "kill"; readonly who: number; readonly things: number; readonly comesBack: boolean }
  | { readonly what: Deed; readonly who: number }
  | { readonly what: "forget"; readonly who: number; readonly to: number }
  | { readonly what: "drain"; readonly who: number; readonly count: number }
  | { readonly what: "weather"; readonly kind: keyof typeof WEATHERS };

export interface Life {
  /** Of the network's chances, of keys and of ids. */
  readonly seed: number;
  readonly agents: number;
  readonly weather: keyof typeof WEATHERS;
  readonly history: readonly Happening[];
}

const who = fc.nat({ max: AGENTS_MAX - 1 });
const to = who;

function deeds(...names: Deed[]): fc.Arbitrary<Happening> {
  return fc.record({ what: fc.constantFrom(...names), who });
}

const happening: fc.Arbitrary<Happening> = fc.oneof(
  {
    weight: 12,
    arbitrary: fc.record({ what: fc.constant("say" as const), who, to, count: fc.constantFrom(1, 1, 2, 5) }),
  },
  { weight: 4, arbitrary: fc.record({ what: fc.constant("cross" as const), who, to }) },
  {
    weight: 8,
    arbitrary: fc.record({ what: fc.constant("wait" as const), ms: fc.constantFrom(1, 20, 100, 500, 3_000) }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      what: fc.constant("sleep" as const),
      ms: fc.constantFrom(HOUR_MS, 5 * HOUR_MS, 2 * DAY_MS, 7 * DAY_MS),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ what: fc.constant("be-away" as const), ms: fc.integer({ min: 1, max: 20_000 }) }),
  },
  {
    weight: 5,
    arbitrary: fc.record({
      what: fc.constant("kill" as const),
      who,
      things: fc.nat({ max: 60 }),
      comesBack: fc.boolean(),
    }),
  },
  { weight: 6, arbitrary: deeds("start", "start", "stop", "cut", "cut", "rotate") },
  { weight: 4, arbitrary: deeds("snapshot", "roll-back") },
  { weight: 3, arbitrary: deeds("forge") },
  { weight: 3, arbitrary: fc.record({ what: fc.constant("forget" as const), who, to }) },
  {
    weight: 1,
    arbitrary: fc.record({ what: fc.constant("drain" as const), who, count: fc.constantFrom(5, 100) }),
  },
  {
    weight: 2,
    arbitrary: fc.record({ what: fc.constant("weather" as const), kind: fc.constantFrom("calm", "rough", "stormy") }),
  },
);

export const lives: fc.Arbitrary<Life> = fc.record({
  seed: fc.nat(),
  agents: fc.constantFrom(2, 2, 2, 3, 4),
  weather: fc.constantFrom("calm" as const, "rough" as const),
  history: fc.array(happening, { minLength: 3, maxLength: 16, size: "max" }),
});

interface Beginning {
  readonly accounts: Accounts;
  readonly sleepers: readonly Sleeper[];
  /** When they went to sleep. */
  readonly at: number;
}

let beginning: Promise<Beginning> | null = null;

/** Agents that have registered and gone to sleep: all lives begin with them. */
export function begin(): Promise<Beginning> {
  beginning ??= beBorn();
  return beginning;
}

async function beBorn(): Promise<Beginning> {
  const time = SimulatedTime.begin({ now: BIRTH, seed: SEED_OF_BIRTH });
  try {
    const service = new SimulatedService(new Chance(0));
    const sleepers: Sleeper[] = [];
    for (let n = 0; n < AGENTS_MAX; n++) {
      const key = new Chance(n).bytes(32);
      const store = Store.inMemory({ key, contents: null });
      const opening = Agent.over(store, (me, signal) => service.link(me, signal), { origin: ORIGIN });
      await time.run(SECOND_MS);
      const agent = await opening;
      const used = service.drain(agent.id, PREKEYS_USED);
      const removed = store.commit(() => used.map((id) => store.prekeys.remove(id)));
      await time.run(SECOND_MS);
      await removed;
      sleepers.push({ id: agent.id, key, contents: store.contents() });
      const closed = agent.close({ drainMsMax: 0 });
      await time.run(SECOND_MS);
      await closed;
    }
    return { accounts: service.accounts(), sleepers, at: Date.now() };
  } finally {
    time.end();
  }
}

interface Lived {
  readonly tally: Tally;
  /** Of every byte that the service took. */
  readonly digest: string;
}

/** Throws `Broken`, and whatever a bug throws. */
export async function live({ seed, agents, weather, history }: Life, mutant: Mutant = {}): Promise<Lived> {
  const { accounts, sleepers, at } = await begin();
  const time = SimulatedTime.begin({ now: at, seed });
  try {
    const chance = new Chance(seed);
    const world = new World({ time, chance, accounts, sleepers: sleepers.slice(0, agents), mutant });
    world.service.weather = WEATHERS[weather];
    for (const persona of world.personas) await persona.start();
    for (const event of history) {
      await happen(world, event, at);
      await time.run(chance.below(30));
      world.throwIfBroken();
    }
    await world.quieten();
    await world.end();
    return { tally: world.tally, digest: world.digest() };
  } finally {
    time.end();
  }
}

async function happen(world: World, event: Happening, bornAt: number): Promise<void> {
  const { time, service } = world;
  switch (event.what) {
    case "say":
      for (let n = 0; n < event.count; n++) world.say(world.persona(event.who), world.persona(event.to));
      break;
    case "cross":
      world.say(world.persona(event.who), world.persona(event.to));
      world.say(world.persona(event.to), world.persona(event.who));
      break;
    case "wait":
      await time.run(event.ms);
      break;
    case "sleep":
      if (Date.now() + event.ms - bornAt < LIFE_MS_MAX) time.sleep(event.ms);
      await time.run(SECOND_MS);
      break;
    case "be-away":
      service.isAway = true;
      service.cut();
      await time.run(event.ms);
      service.isAway = false;
      break;
    case "kill":
      await time.runThings(event.things, SECOND_MS);
      world.persona(event.who).kill();
      if (event.comesBack) await world.persona(event.who).start();
      break;
    case "forget":
      await world.forget(world.persona(event.who), world.persona(event.to));
      break;
    case "drain":
      service.drain(world.persona(event.who).id, event.count);
      break;
    case "weather":
      service.weather = WEATHERS[event.kind];
      break;
    default:
      await doDeed(world, event.what, world.persona(event.who));
  }
}

async function doDeed(world: World, deed: Deed, persona: Persona): Promise<void> {
  switch (deed) {
    case "start":
      await persona.start();
      break;
    case "stop":
      await persona.stop();
      break;
    case "cut":
      world.service.cut(persona.id);
      break;
    case "snapshot":
      persona.snapshot();
      break;
    case "roll-back":
      await world.rollBack(persona);
      break;
    case "rotate":
      await persona.rotate();
      break;
    case "forge":
      world.forge(persona);
  }
}
