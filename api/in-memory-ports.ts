/**
 * The ports of the API in memory, for tests: what is appended stands in `appended`, nothing is ever away unless a test says so.
 */
import { randomBytes } from "node:crypto";
import { Refusal, Unavailable } from "../protocol/refusal.ts";
import type { DiscardedCommand } from "../store/custody/discarded.ts";
import { type Device, devicesMax } from "../store/devices.ts";
import type { StoredItem } from "../store/mailbox.ts";
import { type MessageKey, messageName } from "../store/messages.ts";
import type { SessionFacts } from "../store/session-facts.ts";
import type { UsagePeriod } from "../store/usage.ts";
import type { NewEvent } from "../streams/headers.ts";
import type { Agent } from "./agents.ts";
import { openAddresses } from "./client-address.ts";
import { Neighbours } from "./front-door.ts";
import { BodiesHeld } from "./http/bodies-held.ts";
import type { HttpDeps } from "./http/route.ts";
import { type InMemoryOperators, inMemoryOperators } from "./in-memory-operators.ts";
import { type InMemoryOwners, inMemoryOwners } from "./in-memory-owners.ts";
import { type InMemoryPolicies, inMemoryPolicies, noPolicies } from "./in-memory-policies.ts";
import { type InMemoryStock, inMemoryLimits, inMemoryPrekeys } from "./in-memory-prekeys.ts";
import { generousRates, inMemoryRates } from "./in-memory-rates.ts";
import type { Counter } from "./operations/counters.ts";
import type { MessageStatus } from "./operations/message-status.ts";
import { ownershipOf } from "./owners/ownership.ts";
import { SendsUnderWay } from "./sends-under-way.ts";

export interface InMemoryPorts extends HttpDeps {
  readonly agents: Map<string, Agent>;
  readonly prekeys: Map<string, InMemoryStock>;
  /** By agent. */
  readonly devices: Map<string, Device[]>;
  readonly mailboxes: Map<string, StoredItem[]>;
  readonly messages: MessageStatus[];
  readonly discarded: DiscardedCommand[];
  /** As which messages those were said anew, by `messageName`. */
  readonly successors: Map<string, readonly MessageKey[]>;
  /** When, by issuer and jti. */
  readonly revoked: Map<string, number>;
  /** By age, the newest first. */
  readonly sessionFacts: SessionFacts[];
  /** Hours, by time. */
  readonly usage: UsagePeriod[];
  readonly remembered: Map<string, Uint8Array>;
  /** Everything that was appended to any topic. */
  readonly appended: NewEvent<unknown>[];
  readonly counts: Map<Counter, number>;
  readonly bugs: unknown[];
  /** Doors that are away. */
  readonly away: Set<"kafka" | "postgres" | "redis">;
  /** Agents with an open stream. */
  readonly streaming: Set<string>;
  /** Agents that were seen here, and whose wakes have ended. */
  readonly came: string[];
  readonly operators: InMemoryOperators;
  readonly policies: InMemoryPolicies;
  readonly owned: InMemoryOwners;
  /** Ends the waiting of polls. */
  wake(): void;
}

export function inMemoryPorts(overrides: Partial<HttpDeps> = {}): InMemoryPorts {
  const agents = new Map<string, Agent>();
  const prekeys = new Map<string, InMemoryStock>();
  const devices = new Map<string, Device[]>();
  const mailboxes = new Map<string, StoredItem[]>();
  const messages: MessageStatus[] = [];
  const discarded: DiscardedCommand[] = [];
  const successors = new Map<string, readonly MessageKey[]>();
  const revoked = new Map<string, number>();
  const sessionFacts: SessionFacts[] = [];
  const usage: UsagePeriod[] = [];
  const remembered = new Map<string, Uint8Array>();
  const appended: NewEvent<unknown>[] = [];
  const counts = new Map<Counter, number>();
  const bugs: unknown[] = [];
  const away = new Set<"kafka" | "postgres" | "redis">();
  const streaming = new Set<string>();
  const nonces = new Set<string>();
  const came: string[] = [];
  const waiting = new Set<() => void>();
  const operators: InMemoryOperators = {
    stuck: [],
    letters: [],
    acts: [],
    putBack: [],
    leafHashes: [],
    checkpoints: [],
  };

  const policies = noPolicies();

  const owned: InMemoryOwners = { owners: new Map(), decisions: [], signingKeys: new Map() };

  const need = (door: "kafka" | "postgres" | "redis") => {
    if (away.has(door)) throw new Unavailable(door);
  };
  const append = async (events: readonly NewEvent<unknown>[]) => {
    need("kafka");
    appended.push(...events);
  };

  return {
    agents,
    prekeys,
    devices,
    mailboxes,
    messages,
    discarded,
    successors,
    revoked,
    sessionFacts,
    usage,
    remembered,
    appended,
    counts,
    bugs,
    away,
    streaming,
    came,
    wake: () => {
      for (const resolve of waiting) resolve();
    },
    now: Date.now,
    counted: (counter, by) => counts.set(counter, (counts.get(counter) ?? 0) + by),
    onBug: (error) => bugs.push(error),
    publicAuthority: undefined,
    custody: null,
    bodies: new BodiesHeld({ bytesMax: 64 * 1024 * 1024, bytesOfOneMax: 32 * 1024 * 1024 }),
    opsToken: "in-memory-token-of-the-operators",
    rotatePrekeys: async (agentId) => {
      need("postgres");
      const agent = agents.get(agentId);
      if (agent?.status !== "active") return null;
      return { outcome: "asked", connected: streaming.has(agentId) };
    },
    operators,
    ...inMemoryOperators(operators, need),
    owned,
    ...inMemoryOwners(owned, agents, need),
    ownership: ownershipOf({ registration: "open", issuers: [] }),
    redisReady: () => !away.has("redis"),
    readiness: { kafka: () => !away.has("kafka"), postgres: () => !away.has("postgres") },
    metrics: async () => "# HELP up whether it is up\nup 1\n",
    findAgents: async (ids) => {
      need("postgres");
      return new Map(ids.flatMap((id) => (agents.has(id) ? [[id, agents.get(id) as Agent]] : [])));
    },
    findInactive: async (ids) => {
      need("postgres");
      return new Set(ids.filter((id) => agents.has(id) && agents.get(id)?.status !== "active"));
    },
    nonces: {
      remember: async (keyid, nonce) => {
        const name = `${keyid} ${nonce}`;
        if (nonces.has(name)) return "replayed";
        nonces.add(name);
        return "fresh";
      },
    },
    storeAgent: async ({ agentId, identityKey, custody, held, owner, now, fact }) => {
      need("postgres");
      if (agents.has(agentId)) return { created: false };
      const accessKey = held?.accessKey ?? null;
      agents.set(agentId, { agentId, identityKey, custody, accessKey, status: "active", createdAt: now });
      if (owner !== null) owned.owners.set(agentId, owner);
      appended.push(fact);
      return { created: true };
    },
    policies,
    ...inMemoryPolicies(policies, agents, () => need("postgres")),
    ...inMemoryPrekeys(prekeys, agents, () => need("postgres")),
    findRevoked: async (links) => {
      need("postgres");
      return links.some(({ issuerId, tokenId }) => revoked.has(`${issuerId} ${tokenId}`));
    },
    storeRevocation: async ({ issuerId, tokenId, revokedAt }, fact) => {
      need("postgres");
      const name = `${issuerId} ${tokenId}`;
      if (!revoked.has(name)) appended.push(fact);
      revoked.set(name, revoked.get(name) ?? revokedAt);
      return revoked.get(name) ?? revokedAt;
    },
    limits: inMemoryLimits(() => need("redis")),
    rates: inMemoryRates(),
    rateLimits: generousRates,
    addressOf: openAddresses([]),
    neighbours: new Neighbours(),
    sends: new SendsUnderWay(),
    prekeyBudget: { name: "bundles", points: 200, seconds: 3_600 },
    digests: {
      lookup: async (senderId, ids) => ids.map((id) => remembered.get(`${senderId} ${id}`) ?? null),
      remember: async (senderId, digests) => {
        for (const { messageId, digest } of digests) remembered.set(`${senderId} ${messageId}`, digest);
      },
    },
    room: { take: async (_senderId, messages) => messages.map(() => null) },
    items: { append },
    receipts: { append },
    readMailbox: async (recipientId, { afterSeq, limit }) => {
      need("postgres");
      const all = mailboxes.get(recipientId) ?? [];
      const after = all.filter(({ seq }) => seq > afterSeq);
      const items = after.slice(0, limit);
      return { items, lastSeq: all.at(-1)?.seq ?? 0, end: items.length === after.length };
    },
    itemsBySeq: async (recipientId, seqs) => {
      need("postgres");
      return (mailboxes.get(recipientId) ?? []).filter(({ seq }) => seqs.includes(seq));
    },
    endWakes: async (agentId) => void came.push(agentId),
    openEvents: () => (response) => response.end(),
    answered: () => undefined,
    hasStream: async (agentId) => streaming.has(agentId),
    waitForMail: (_recipientId, signal, ms) =>
      new Promise((resolve) => {
        const done = () => {
          clearTimeout(timer);
          waiting.delete(done);
          resolve();
        };
        const timer = setTimeout(done, ms);
        waiting.add(done);
        signal.addEventListener("abort", done, { once: true });
      }),
    findMessages: async (keys) => {
      need("postgres");
      return messages.filter((message) =>
        keys.some(({ senderId, messageId }) => senderId === message.senderId && messageId === message.messageId),
      );
    },
    findDiscarded: async (keys) => {
      need("postgres");
      const asked = new Set(keys.map(messageName));
      return discarded.filter((command) => asked.has(messageName(command)));
    },
    findSuccessors: async (keys) => {
      need("postgres");
      const asked = new Set(keys.map(messageName));
      return new Map([...successors].filter(([name]) => asked.has(name)));
    },
    push: { kinds: new Set(["fcm", "apns", "webhook"]), anyWebhook: false },
    putDevice: async ({ newSecret, ...registration }, now) => {
      need("postgres");
      const own = devices.get(registration.agentId) ?? [];
      const before = own.find(({ deviceId }) => deviceId === registration.deviceId);
      const others = own.filter((device) => device !== before);
      if (before === undefined && own.length >= devicesMax) throw new Refusal("devices-full");
      const kept = before?.kind === registration.kind && !newSecret ? before.secret : null;
      const made =
        registration.kind === "webhook" && kept === null ? `whsec_${randomBytes(32).toString("base64")}` : null;
      const device = { ...registration, secret: made ?? kept, createdAt: before?.createdAt ?? now, refreshedAt: now };
      devices.set(registration.agentId, [...others, device]);
      return { device, created: before === undefined, secret: made };
    },
    removeDevice: async ({ agentId, deviceId }) => {
      need("postgres");
      const own = devices.get(agentId) ?? [];
      devices.set(
        agentId,
        own.filter((device) => device.deviceId !== deviceId),
      );
      return own.some((device) => device.deviceId === deviceId);
    },
    listDevices: async (agentId) => {
      need("postgres");
      return devices.get(agentId) ?? [];
    },
    factsOfPair: async (one, other) => {
      need("postgres");
      const pairs = [`${one} ${other}`, `${other} ${one}`];
      return sessionFacts.filter(({ ownerId, peerId }) => pairs.includes(`${ownerId} ${peerId}`));
    },
    factsOfOwner: async (ownerId, after, limit) => {
      need("postgres");
      const own = sessionFacts.filter((facts) => facts.ownerId === ownerId);
      const from = own.findIndex(({ peerId, lastAt }) => peerId === after?.peerId && lastAt === after.lastAt) + 1;
      return own.slice(from, from + limit);
    },
    usageOf: async (agentId, { from, to }, limit) => {
      need("postgres");
      return usage
        .filter((period) => period.agentId === agentId && period.at >= from && period.at < to)
        .slice(0, limit);
    },
    usageOfHour: async (hour, after, limit) => {
      need("postgres");
      return usage.filter(({ agentId, at }) => at === hour && agentId > after).slice(0, limit);
    },
    ...overrides,
  };
}
