import { expect, test } from "vitest";
import {
  DAY_MS,
  DEPRECATED_PREKEY_KEPT_MS,
  ONE_TIME_PREKEYS_LOW,
  SIGNED_PREKEY_AGE_MS_MAX,
  SIGNED_PREKEY_ROTATION_MS,
} from "../protocol/limits.ts";
import { Chance } from "./chance.ts";
import { begin } from "./simulated-history.ts";
import { EXPIRED, type Persona, type Spoken, World } from "./simulated-life.ts";
import { CALM, type Weather } from "./simulated-service.ts";
import { SimulatedTime } from "./simulated-time.ts";

const DAYS = 365;
const SEED = 1;

/** Strangers who take a bundle of Bob's every day; and now and then a crowd, which takes all there are. */
const STRANGERS = 3;
const RUSH_DAYS = 60;
const RUSH_STRANGERS = 1_000;

/** So long are agents awake in a day: they look after their prekeys every ten minutes. */
const AWAKE_MS = 11 * 60_000;

const FAIR: Weather = {
  ...CALM,
  answerLost: 0.02,
  cut: 0.002,
  itemRepeated: 0.02,
  itemLate: 0.05,
  receiptLost: 0.1,
  latencyMsMax: 50,
};

/** From this week on, and so many messages of each a day; who is away. */
interface Season {
  readonly week: number;
  readonly alice: number;
  readonly bob: number;
  readonly away?: readonly ("alice" | "bob")[];
}

const SEASONS: readonly Season[] = [
  { week: 0, alice: 3, bob: 3 },
  // More than a chain may have: a second session begins while its other end is away.
  { week: 6, alice: 40, bob: 0, away: ["bob"] },
  { week: 10, alice: 2, bob: 2 },
  // One talks, in bursts, and the other only listens.
  { week: 14, alice: 0, bob: 0 },
  { week: 15, alice: 30, bob: 0 },
  { week: 19, alice: 2, bob: 3 },
  // Longer than the mailbox keeps anything.
  { week: 22, alice: 2, bob: 0, away: ["bob"] },
  { week: 27, alice: 1, bob: 1 },
  { week: 31, alice: 0, bob: 2, away: ["alice"] },
  { week: 33, alice: 2, bob: 0, away: ["bob"] },
  { week: 34, alice: 0, bob: 0 },
  { week: 38, alice: 0, bob: 0, away: ["alice", "bob"] },
  { week: 41, alice: 2, bob: 2 },
];

interface SignedPrekey {
  readonly owner: Persona;
  readonly id: string;
  /** When another was first seen in its place; null: it is in force. */
  replacedAt: number | null;
}

/** What the year was like, and the laws of every day. */
class Year {
  readonly world: World;
  readonly signed: SignedPrekey[] = [];
  /** Times that an agent topped up its one-time prekeys between rotations. */
  toppedUp = 0;
  readonly #bornAt: number;
  readonly #chance: Chance;

  constructor(world: World, bornAt: number, chance: Chance) {
    this.world = world;
    this.#bornAt = bornAt;
    this.#chance = chance;
  }

  async day(day: number): Promise<void> {
    const { time, service } = this.world;
    const [alice, bob] = [this.world.persona(0), this.world.persona(1)];
    const season = SEASONS.findLast(({ week }) => week * 7 <= day);
    if (season === undefined) throw new Error("every day has its season");
    time.sleep(this.#bornAt + day * DAY_MS - Date.now());
    service.expire(Date.now());
    await this.#comeOrGo(alice, season.away?.includes("alice") === true);
    await this.#comeOrGo(bob, season.away?.includes("bob") === true);
    const stocked = service.account(bob.id).oneTime.length;
    for (let n = 0; n < season.alice; n++) this.world.say(alice, bob);
    await time.run(this.#chance.below(2_000));
    for (let n = 0; n < season.bob; n++) this.world.say(bob, alice);
    await time.run(AWAKE_MS);
    this.world.throwIfBroken();
    const isToppedUp = service.account(bob.id).oneTime.length > stocked;
    const hasRotated = [alice, bob].map((persona) => this.#look(persona))[1] === true;
    if (isToppedUp && !hasRotated) this.toppedUp += 1;
    service.drain(bob.id, day % RUSH_DAYS === 0 ? RUSH_STRANGERS : STRANGERS);
    // Every other week their processes live from day to day, on machines that sleep.
    const isRestartedDaily = Math.floor(day / 7) % 2 === 1;
    if (isRestartedDaily) for (const persona of [alice, bob]) await persona.stop();
  }

  /** How many signed prekeys of this agent the service has seen. */
  signedCount(persona: Persona): number {
    return this.signed.filter(({ owner }) => owner === persona).length;
  }

  async #comeOrGo(persona: Persona, isAway: boolean): Promise<void> {
    if (isAway) await persona.stop();
    else await persona.start();
  }

  /** The prekeys of one that is there are fresh and enough, and those it may still need are kept, no longer. Is there a new signed one? */
  #look(persona: Persona): boolean {
    const { signedPrekey, oneTime, kem } = this.world.service.account(persona.id);
    if (signedPrekey === null) throw new Error("an agent has a signed prekey");
    const known = this.signed.filter(({ owner }) => owner === persona);
    const inForce = known.find(({ replacedAt }) => replacedAt === null);
    const isNew = signedPrekey.id !== inForce?.id;
    if (isNew && inForce !== undefined) inForce.replacedAt = Date.now();
    if (isNew) this.signed.push({ owner: persona, id: signedPrekey.id, replacedAt: null });
    const ageMs = Date.now() - signedPrekey.createdAt;
    expect(ageMs).toBeLessThan(SIGNED_PREKEY_AGE_MS_MAX);
    if (!persona.isRunning) return isNew;
    // A day to be awake, and one more when an answer was lost.
    expect(ageMs).toBeLessThan(SIGNED_PREKEY_ROTATION_MS + 2 * DAY_MS);
    expect(Math.min(oneTime.length, kem.length)).toBeGreaterThanOrEqual(ONE_TIME_PREKEYS_LOW);
    for (const { id, replacedAt } of known) {
      const replacedMs = Date.now() - (replacedAt ?? Date.now());
      const isKept = persona.store.prekeys.find("signed", id) !== null;
      if (replacedMs < DEPRECATED_PREKEY_KEPT_MS - DAY_MS) expect(isKept).toBe(true);
      if (replacedMs > DEPRECATED_PREKEY_KEPT_MS + 2 * DAY_MS) expect(isKept).toBe(false);
    }
    return isNew;
  }
}

const WHAT_A_YEAR_IS =
  "two agents live through a year: what did not expire was opened once, what did was told its sender, and prekeys were always fresh";

test(WHAT_A_YEAR_IS, { timeout: 300_000 }, async () => {
  const { accounts, sleepers, at } = await begin();
  const time = SimulatedTime.begin({ now: at, seed: SEED });
  try {
    const chance = new Chance(SEED);
    const world = new World({ time, chance, accounts, sleepers: sleepers.slice(0, 2) });
    world.service.weather = FAIR;
    const year = new Year(world, at, chance);
    for (let day = 1; day <= DAYS; day++) await year.day(day);
    await world.quieten();
    const expired = world.spoken.filter((spoken) => endOf(world, spoken) === EXPIRED);
    // Two a day, of the days in week 22 to 27 that were 30 days ago when Bob came back.
    expect(expired).toHaveLength(12);
    expect(world.spoken.length).toBeGreaterThan(2_500);
    // The first, and the one that began when a chain had reached its end.
    expect(world.tally).toMatchObject({ sessions: 2, suite2: 2, retryRequests: 0 });
    expect(world.tally.rekeys).toBeGreaterThan(20);
    expect(year.toppedUp).toBeGreaterThan(2);
    for (const persona of world.personas) {
      // One a week, but for the weeks away.
      expect(year.signedCount(persona)).toBeGreaterThan(36);
      expect(year.signedCount(persona)).toBeLessThanOrEqual(54);
    }
    await world.end();
  } finally {
    time.end();
  }
});

/** As its sender was told; which must be what happened. */
function endOf(world: World, { from, toId, text, messageId }: Spoken): string | undefined {
  const end = from.ends.get(messageId);
  const isGiven = world.personas.some((persona) => persona.id === toId && persona.everGiven.has(text));
  expect(end).toBe(isGiven ? "acknowledged" : EXPIRED);
  return end;
}
