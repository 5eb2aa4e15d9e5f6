/**
 * New prekeys for agents whose keys the service holds, and a word to those who hold their own.
 *
 * Reads   agents whose signed prekey in force is 7 days old, the oldest first; agents of server custody with few one-time prekeys.
 * Writes  new prekeys of server custody (protocol/prekey-stock.ts, the SDK's own code); `rotation-due` to connected agents of agent custody,
 *         a hint; `prekey.rotation-failed.v1`, once a day and agent.
 * Keeps   the older signed prekey in force when a rotation fails. The next turn, or an operator, tries again.
 */
import { randomUUID } from "node:crypto";
import type { Identity } from "../protocol/identity.ts";
import { DAY_MS, SIGNED_PREKEY_ROTATION_MS } from "../protocol/limits.ts";
import {
  type DuePrekeys,
  duePrekeys,
  makePrekeys,
  type NewPrekeys,
  type StockCounts,
} from "../protocol/prekey-stock.ts";
import type { KemPrekey, OneTimePrekey, OwnPrekey, SignedPrekey } from "../protocol/prekeys.ts";
import { nodePrimitives, nodeRandom } from "../protocol/primitives/node.ts";
import { Unavailable } from "../protocol/refusal.ts";
import type { NoticeKind } from "../protocol/stream-frames.ts";
import type { Custody, PrekeyRotationFailed } from "../schemas/values.ts";
import { findAgents } from "../store/agents.ts";
import type { Fact } from "../store/facts.ts";
import type { HandoverDoor, NoticeEntry } from "../store/handover.ts";
import type { Postgres } from "../store/postgres.ts";
import type { PresenceDoor } from "../store/presence.ts";
import { unlessAway } from "../store/redis.ts";
import {
  countStocks,
  type DueAgent,
  findDueAgents,
  findServerAgents,
  reportFailedRotation,
} from "../store/rotation.ts";

/** Every ten minutes: an agent that comes online with an old prekey hears of it soon, and 20 one-time prekeys last until then. */
export const rotationCron = "*/10 * * * *";

/** A page of agents: one look-up of who is connected, one statement of what they have. */
const PAGE_MAX = 500;

/** The keys of agents whose custody the service has. */
export interface ServerKeys {
  /** Null when this service does not hold the agent's keys. Throws `Unavailable` when it cannot be known now. */
  open(agentId: string): Promise<AgentKeys | null>;
}

export interface AgentKeys {
  readonly identity: Identity;
  /** Seals the private half of the prekey of this id for storage. */
  seal(prekeyId: string, privateKey: Uint8Array): Uint8Array;
}

/** Of a service without a keyring. */
export const noServerKeys: ServerKeys = { open: async () => null };

export type SealedPrekey<Public> = Public & { readonly privateKeyEncrypted: Uint8Array };

/** Of agents that keep their own keys, those with an older signed prekey have been away for weeks: they find out by themselves when they are back. */
const DUE_AGE_MS_MAX = 30 * DAY_MS;

/** New prekeys as they are stored. */
export interface SealedPrekeys {
  readonly signedPrekey?: SealedPrekey<SignedPrekey>;
  readonly lastResortKemPrekey?: SealedPrekey<KemPrekey>;
  readonly oneTimePrekeys: readonly SealedPrekey<OneTimePrekey>[];
  readonly kemPrekeys: readonly SealedPrekey<KemPrekey>[];
}

/** Why a rotation failed. `internal` is a bug. */
export type RotationFailure = "keys-unavailable" | "unavailable" | "internal";

/** What became of an operator's wish. */
export type RotationAnswer =
  | { readonly outcome: "rotated"; readonly signedPrekeyId: string }
  | { readonly outcome: "failed"; readonly code: RotationFailure }
  /** The agent has its keys itself; `connected`: a gateway took the notice. */
  | { readonly outcome: "asked"; readonly connected: boolean };

export interface RotationDeps {
  readonly postgres: Postgres;
  readonly keys: ServerKeys;
  /** All of them or none (store/prekeys.ts). Throws `Unavailable`. */
  readonly storePrekeys: (agentId: string, prekeys: SealedPrekeys, now: number) => Promise<unknown>;
  readonly presence: Pick<PresenceDoor, "lookup">;
  readonly handover: Pick<HandoverDoor, "publish">;
  readonly factOf: (failed: PrekeyRotationFailed) => Fact;
  readonly onRotated: () => void;
  /** `error` is what was thrown, if anything was. */
  readonly onFailed: (code: RotationFailure, error?: unknown) => void;
}

/** One turn of the clock. `now` in ms since the epoch. Throws `Unavailable` when PostgreSQL is away. */
export async function rotateDuePrekeys(deps: RotationDeps, now: number, signal: AbortSignal): Promise<void> {
  for await (const page of dueAgents(deps.postgres, now, signal)) {
    await unlessAway(tell(deps, idsOf(page, "agent"), "rotation-due"));
    await renewAll(deps, idsOf(page, "server"), now, signal, () => true);
  }
  // The others above were seen to, or failed just now.
  const isLeft = ({ signedCreatedAt }: StockCounts) =>
    signedCreatedAt === null ||
    now - signedCreatedAt < SIGNED_PREKEY_ROTATION_MS ||
    now - signedCreatedAt >= DUE_AGE_MS_MAX;
  for await (const page of serverAgents(deps.postgres, signal)) await renewAll(deps, page, now, signal, isLeft);
}

/**
 * What an operator asks for: a new signed prekey at once, whatever the older one's age.
 *
 * @returns null when there is no such agent, or none that is active.
 * @throws Unavailable
 */
export async function rotateNow(deps: RotationDeps, agentId: string, now: number): Promise<RotationAnswer | null> {
  const agent = (await findAgents(deps.postgres, [agentId])).get(agentId);
  if (agent?.status !== "active") return null;
  if (agent.custody === "agent") {
    const told = await tell(deps, [agentId], "rotate-now");
    return { outcome: "asked", connected: told.has(agentId) };
  }
  const counts = (await countStocks(deps.postgres, [agentId], now)).get(agentId);
  if (counts === undefined) throw new Error("an agent was not counted");
  const renewed = await renew(deps, agentId, { ...duePrekeys(counts, now), rotation: true }, now);
  if (renewed.outcome === "failed") return renewed;
  if (renewed.signedPrekeyId === null) throw new Error("a rotation made no signed prekey");
  return { outcome: "rotated", signedPrekeyId: renewed.signedPrekeyId };
}

/**
 * What a registration asks for: an agent of server custody has what is due of its prekeys, at once.
 *
 * @throws Unavailable: the clock, or the same call again, makes up for it
 */
export async function renewNow(deps: RotationDeps, agentId: string, now: number): Promise<void> {
  const counts = (await countStocks(deps.postgres, [agentId], now)).get(agentId);
  if (counts === undefined) throw new Error("an agent was not counted");
  const due = duePrekeys(counts, now);
  if (!due.rotation && due.oneTime === 0 && due.kem === 0) return;
  const { outcome } = await renew(deps, agentId, due, now);
  if (outcome === "failed") throw new Unavailable("keyring");
}

async function* dueAgents(postgres: Postgres, now: number, signal: AbortSignal): AsyncGenerator<readonly DueAgent[]> {
  let after: Pick<DueAgent, "signedCreatedAt" | "agentId"> = { signedCreatedAt: now - DUE_AGE_MS_MAX, agentId: "" };
  while (!signal.aborted) {
    const page = await findDueAgents(postgres, { madeUntil: now - SIGNED_PREKEY_ROTATION_MS, after, limit: PAGE_MAX });
    if (page.length > 0) yield page;
    after = page.at(-1) ?? after;
    if (page.length < PAGE_MAX) return;
  }
}

async function* serverAgents(postgres: Postgres, signal: AbortSignal): AsyncGenerator<readonly string[]> {
  let after = "";
  while (!signal.aborted) {
    const page = await findServerAgents(postgres, after, PAGE_MAX);
    if (page.length > 0) yield page;
    after = page.at(-1) ?? "";
    if (page.length < PAGE_MAX) return;
  }
}

function idsOf(agents: readonly DueAgent[], custody: Custody): readonly string[] {
  return agents.filter((agent) => agent.custody === custody).map(({ agentId }) => agentId);
}

/** Makes what is due of each that `isMeant`. One that fails is no reason to leave out the next. */
async function renewAll(
  deps: RotationDeps,
  agentIds: readonly string[],
  now: number,
  signal: AbortSignal,
  isMeant: (counts: StockCounts) => boolean,
): Promise<void> {
  if (agentIds.length === 0) return;
  for (const [agentId, counts] of await countStocks(deps.postgres, agentIds, now)) {
    if (signal.aborted) return;
    const due = duePrekeys(counts, now);
    const isDue = due.rotation || due.oneTime > 0 || due.kem > 0;
    if (isDue && isMeant(counts)) await renew(deps, agentId, due, now);
  }
}

type Renewed =
  | { readonly outcome: "renewed"; readonly signedPrekeyId: string | null }
  | { readonly outcome: "failed"; readonly code: RotationFailure };

async function renew(deps: RotationDeps, agentId: string, due: DuePrekeys, now: number): Promise<Renewed> {
  const renewed = await attempt(deps, agentId, due, now);
  if (renewed.outcome === "failed") await report(deps, agentId, renewed.code, now);
  else if (renewed.signedPrekeyId !== null) deps.onRotated();
  return renewed;
}

async function attempt(deps: RotationDeps, agentId: string, due: DuePrekeys, now: number): Promise<Renewed> {
  try {
    const keys = await deps.keys.open(agentId);
    if (keys === null) {
      deps.onFailed("keys-unavailable");
      return { outcome: "failed", code: "keys-unavailable" };
    }
    const made = makePrekeys(nodePrimitives, keys.identity, due, { now, random: nodeRandom, newId: randomUUID });
    await deps.storePrekeys(agentId, sealedPrekeys(made, keys), now);
    return { outcome: "renewed", signedPrekeyId: made.signed?.prekey.id ?? null };
  } catch (error) {
    // A database that is away is no fault of this agent's keys, and could not remember the failure.
    if (error instanceof Unavailable && error.door === "postgres") throw error;
    const code = error instanceof Unavailable ? "unavailable" : "internal";
    deps.onFailed(code, error);
    return { outcome: "failed", code };
  }
}

async function report(deps: RotationDeps, agentId: string, code: RotationFailure, now: number): Promise<void> {
  const alert = `Prekey rotation failed for ${agentId}`;
  await reportFailedRotation(deps.postgres, {
    agentId,
    code,
    now,
    factOf: (failed) => deps.factOf({ ...failed, eventId: randomUUID(), agentId, code, alert, failedAt: now }),
  });
}

function sealedPrekeys({ signed, lastResort, oneTime, kem }: NewPrekeys, keys: AgentKeys): SealedPrekeys {
  const sealed = <Public extends { readonly id: string }>({ prekey, pair }: OwnPrekey<Public>) => {
    const privateKeyEncrypted = keys.seal(prekey.id, pair.privateKey);
    pair.privateKey.fill(0);
    return { ...prekey, privateKeyEncrypted };
  };
  return {
    ...(signed !== null && { signedPrekey: sealed(signed) }),
    ...(lastResort !== null && { lastResortKemPrekey: sealed(lastResort) }),
    oneTimePrekeys: oneTime.map(sealed),
    kemPrekeys: kem.map(sealed),
  };
}

/** Tells those of the agents that are connected. Answers whose gateway took it. Throws `Unavailable` while Redis is away. */
async function tell(
  { presence, handover }: Pick<RotationDeps, "presence" | "handover">,
  agentIds: readonly string[],
  kind: NoticeKind,
): Promise<ReadonlySet<string>> {
  const byGateway = new Map<string, NoticeEntry[]>();
  for (const [agentId, { gatewayId }] of await presence.lookup(agentIds)) {
    const notices = byGateway.get(gatewayId) ?? [];
    notices.push({ type: "notice", agentId, kind });
    byGateway.set(gatewayId, notices);
  }
  const told = await Promise.all(
    [...byGateway].map(async ([gatewayId, notices]) =>
      (await handover.publish(gatewayId, notices)) > 0 ? notices.map(({ agentId }) => agentId) : [],
    ),
  );
  return new Set(told.flat());
}
