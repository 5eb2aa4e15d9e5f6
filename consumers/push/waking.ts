/**
 * One attempt at each agent of a batch: who is still to be woken, what each device's provider said, and what follows from it.
 *
 * The order is what makes it true that a wake that was not sent is never outstanding: claimed first, then asked whether the agent is here, whose
 * coming ends its wakes. An agent that comes between the two is seen, one that comes later ends the claim.
 */
import { Refusal } from "../../protocol/refusal.ts";
import type { ApnsEnvironment, Device, DeviceKind } from "../../store/devices.ts";
import type { PresenceDoor } from "../../store/presence.ts";
import type { Claim, Wake, WakesDoor } from "../../store/wakes.ts";
import { again, type Outcome, type PushDoor } from "./outcomes.ts";
import { attemptsMax, type Failed, isGivenUp, retryAfterMsMax } from "./retries.ts";
import type { Wanted } from "./wanted.ts";

/** All of them throw `Unavailable`. */
export interface WakingDeps {
  readonly presence: Pick<PresenceDoor, "lookup">;
  readonly wakes: Omit<WakesDoor, "end">;
  /** Does anything wait in the mailbox up to this seq? In order. */
  readonly waits: (upTo: readonly Pick<Wanted, "recipientId" | "seq">[]) => Promise<readonly boolean[]>;
  /** Of each mailbox that there is. */
  readonly lastSeqs: (agentIds: readonly string[]) => Promise<ReadonlyMap<string, number>>;
  readonly findDevices: (agentIds: readonly string[]) => Promise<readonly Device[]>;
  readonly forgetDevice: (device: Device, registeredBefore: number | null) => Promise<boolean>;
  readonly moveDevice: (device: Device, environment: ApnsEnvironment) => Promise<void>;
  /** What this service can wake. */
  readonly doors: ReadonlyMap<DeviceKind, PushDoor>;
  readonly count: (kind: DeviceKind, outcome: Outcome["kind"] | "outstanding" | "spent") => void;
  /** Somebody must look. `code` is a constant. */
  readonly alert: (kind: DeviceKind, outcome: "fault" | "foreign" | "bug" | "gone", code: string) => void;
  readonly now: () => number;
}

/** A provider that did not take our word is asked again by one call after this. */
const pauseMs = 60_000;

/** A provider that wants a device left alone for a year has its clock wrong. */
const restMsMax = 24 * 60 * 60 * 1000;

/** Calls at once: with the step's limit (`push.ts`) a step of the slowest stays below the time after which it would count as a stall. */
const callsMax = 128;

const triedAgain: ReadonlySet<Outcome["kind"]> = new Set(["again", "fault", "foreign"]);

/** A wake at one device, and how it ended. */
interface Called {
  readonly wanted: Wanted;
  readonly wake: Wake;
  readonly outcome: Outcome;
}

export type WakeAll = (wanted: readonly Wanted[]) => Promise<readonly Failed[]>;

/** What it remembers (paused providers, and those that took a wake) ends with the process, as do its settings. */
export function createWaking(deps: WakingDeps): WakeAll {
  const pausedUntil = new Map<DeviceKind, number>();
  const proven = new Set<DeviceKind>();

  /**
   * A foreign token is gone where the provider has taken a wake for another one from this process. Before that the topic or the project may be the wrong
   * one: a single deploy would take every device away.
   */
  function judged(calls: readonly Called[]): readonly Called[] {
    for (const { wake, outcome } of calls) if (outcome.kind === "woken") proven.add(wake.device.kind);
    return calls.map((one): Called => {
      const { wake, outcome } = one;
      if (outcome.kind !== "foreign" || !proven.has(wake.device.kind)) return one;
      return { ...one, outcome: { kind: "gone", registeredBefore: null, code: outcome.code } };
    });
  }

  async function call(door: PushDoor, { wakeId, device }: Wake): Promise<Outcome> {
    const leftMs = (pausedUntil.get(device.kind) ?? 0) - deps.now();
    if (leftMs > 0) return again(leftMs);
    const outcome = await door.wake(device, wakeId);
    if (outcome.kind === "fault") pausedUntil.set(device.kind, deps.now() + pauseMs);
    return outcome;
  }

  /** @throws Refusal when a call is wrong in itself: its record becomes a dead letter, alone */
  return async (wanted) => {
    const open = await stillWanted(deps, wanted);
    const { mine, resting, wokenBefore } = await claimed(deps, open);
    const calls = await eachOf(mine, callsMax, async ({ wanted: one, wake, door }): Promise<Called> => {
      return { wanted: one, wake, outcome: await call(door, wake) };
    });
    const answered = judged(calls);
    await remember(deps, answered);
    const called = [...answered, ...resting];
    if (called.some(({ outcome }) => outcome.kind === "bug")) throw new Refusal("push-refused");
    return failuresOf(deps, called, wokenBefore);
  };
}

/** Those that are not connected and for whom something waits. */
async function stillWanted(deps: WakingDeps, wanted: readonly Wanted[]): Promise<readonly Wanted[]> {
  const present = await deps.presence.lookup([...new Set(wanted.map(({ recipientId }) => recipientId))]);
  const absent = wanted.filter(({ recipientId }) => !present.has(recipientId));
  const waits = await deps.waits(absent);
  return absent.filter((_, index) => waits[index]);
}

interface Mine {
  readonly wanted: Wanted;
  readonly wake: Wake;
  readonly door: PushDoor;
}

async function claimed(deps: WakingDeps, open: readonly Wanted[]) {
  const devices = Map.groupBy(
    await deps.findDevices([...new Set(open.map(({ recipientId }) => recipientId))]),
    ({ agentId }) => agentId,
  );
  const targets = open.flatMap((wanted): Mine[] =>
    (devices.get(wanted.recipientId) ?? []).flatMap((device) => {
      const door = deps.doors.get(device.kind);
      const isWanted = wanted.deviceIds === null || wanted.deviceIds.has(device.deviceId);
      return door !== undefined && isWanted ? [{ wanted, wake: { wakeId: wanted.wakeId, device }, door }] : [];
    }),
  );
  const claims = await deps.wakes.claim(targets.map(({ wake }) => wake));
  const wokenBefore = new Set(open.filter(({ woken }) => woken));
  const resting: Called[] = [];
  const held = targets.filter(({ wanted, wake }, index) => {
    const claim: Claim | undefined = claims[index];
    if (claim === "begun" || claim === "again") return true;
    if (typeof claim === "object") {
      resting.push({ wanted, wake, outcome: again(claim.restsMs) });
      return false;
    }
    if (claim === "done" || claim === "outstanding") wokenBefore.add(wanted);
    deps.count(wake.device.kind, claim === "spent" ? "spent" : "outstanding");
    return false;
  });
  const taken = [...held, ...resting];
  const present = await deps.presence.lookup([...new Set(taken.map(({ wanted }) => wanted.recipientId))]);
  const isHere = ({ wanted }: Pick<Called, "wanted">) => present.has(wanted.recipientId);
  await deps.wakes.release(taken.filter(isHere).map(({ wake }) => wake));
  return {
    mine: held.filter((one) => !isHere(one)),
    resting: resting.filter((one) => !isHere(one)),
    wokenBefore,
  };
}

async function remember(deps: WakingDeps, called: readonly Called[]): Promise<void> {
  await deps.wakes.rest(
    called.flatMap(({ wake, outcome }) =>
      outcome.kind === "again" && outcome.afterMs ? [{ ...wake, ms: Math.min(outcome.afterMs, restMsMax) }] : [],
    ),
  );
  await deps.wakes.sent(called.flatMap(({ wake, outcome }) => (outcome.kind === "woken" ? [wake] : [])));
  for (const { wake, outcome } of called) {
    const { device } = wake;
    deps.count(device.kind, outcome.kind);
    if (outcome.kind === "fault" || outcome.kind === "foreign" || outcome.kind === "bug")
      deps.alert(device.kind, outcome.kind, outcome.code);
    if (outcome.kind === "woken" && outcome.environment !== undefined)
      await deps.moveDevice(device, outcome.environment);
    if (outcome.kind !== "gone") continue;
    if (await deps.forgetDevice(device, outcome.registeredBefore)) deps.alert(device.kind, "gone", outcome.code);
  }
}

/** What is to be tried again, or given up; nothing of agents of whom every device was woken, or is gone. */
async function failuresOf(
  deps: WakingDeps,
  called: readonly Called[],
  wokenBefore: ReadonlySet<Wanted>,
): Promise<readonly Failed[]> {
  const failures: Failed[] = [];
  for (const [wanted, calls] of Map.groupBy(called, (one) => one.wanted)) {
    const woken = wokenBefore.has(wanted) || calls.some(({ outcome }) => outcome.kind === "woken");
    const open = calls.flatMap(({ wake, outcome }) => {
      const afterMs = outcome.kind === "again" ? outcome.afterMs : null;
      // Registered again since its provider knew that it was gone: the next attempt tells.
      const isOpen = triedAgain.has(outcome.kind) || isRefreshed(wake.device, outcome);
      return isOpen ? [{ wake, afterMs }] : [];
    });
    if (open.length === 0) continue;
    const isLast = wanted.attempt === attemptsMax;
    const patient = isLast ? [] : open.filter(({ afterMs }) => (afterMs ?? 0) <= retryAfterMsMax);
    // What is given up is not outstanding: the next message tries again.
    await deps.wakes.release(open.flatMap((one) => (patient.includes(one) ? [] : [one.wake])));
    const waits = patient.flatMap(({ afterMs }) => afterMs ?? []);
    failures.push({
      wanted,
      deviceIds: patient.map(({ wake }) => wake.device.deviceId),
      woken,
      afterMs: waits.length === 0 ? null : Math.max(...waits),
    });
  }
  return withAllThatWaits(deps, failures);
}

/**
 * Where an agent is given up, for all that is stored by now: for what came after the request the wake was outstanding, and nobody else speaks for
 * it. Asked after the wake was released, so that what is stored later begins one of its own.
 */
async function withAllThatWaits(deps: WakingDeps, failures: readonly Failed[]): Promise<readonly Failed[]> {
  const givenUp = failures.filter(isGivenUp).map(({ wanted }) => wanted.recipientId);
  if (givenUp.length === 0) return failures;
  const lastSeqs = await deps.lastSeqs(givenUp);
  return failures.map((failed) => {
    if (!isGivenUp(failed)) return failed;
    const { wanted } = failed;
    return { ...failed, wanted: { ...wanted, seq: Math.max(wanted.seq, lastSeqs.get(wanted.recipientId) ?? 0) } };
  });
}

function isRefreshed({ refreshedAt }: Device, outcome: Outcome): boolean {
  return outcome.kind === "gone" && outcome.registeredBefore !== null && refreshedAt >= outcome.registeredBefore;
}

/** In the order of the items, at most so many at once. */
async function eachOf<Item, Result>(
  items: readonly Item[],
  max: number,
  work: (item: Item) => Promise<Result>,
): Promise<readonly Result[]> {
  const results: Result[] = [];
  let next = 0;
  const worker = async () => {
    while (next < items.length) {
      const index = next++;
      results[index] = await work(items[index] as Item);
    }
  };
  await Promise.all(Array.from({ length: Math.min(max, items.length) }, worker));
  return results;
}
