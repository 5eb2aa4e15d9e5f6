/**
 * The ports of the API in memory, for tests: what is appended stands in `appended`, nothing is ever away unless a test says so.
 */
import { Unavailable } from "../protocol/refusal.ts";
import type { StoredItem } from "../store/mailbox.ts";
import type { SessionFacts } from "../store/session-facts.ts";
import type { NewEvent } from "../streams/headers.ts";
import type { Agent } from "./agents.ts";
import type { HttpDeps } from "./http/route.ts";
import { type InMemoryStock, inMemoryLimits, inMemoryPrekeys } from "./in-memory-prekeys.ts";
import type { Counter } from "./operations/counters.ts";
import type { MessageStatus } from "./operations/message-status.ts";

export interface InMemoryPorts extends HttpDeps {
  readonly agents: Map<string, Agent>;
  readonly prekeys: Map<string, InMemoryStock>;
  readonly mailboxes: Map<string, StoredItem[]>;
  readonly messages: MessageStatus[];
  /** By age, the newest first. */
  readonly sessionFacts: SessionFacts[];
  readonly remembered: Map<string, Uint8Array>;
  /** Everything that was appended to any topic. */
  readonly appended: NewEvent<unknown>[];
  readonly counts: Map<Counter, number>;
  readonly bugs: unknown[];
  /** Doors that are away. */
  readonly away: Set<"kafka" | "postgres" | "redis">;
  /** Agents with an open stream. */
  readonly streaming: Set<string>;
  /** Ends the waiting of polls. */
  wake(): void;
}

export function inMemoryPorts(overrides: Partial<HttpDeps> = {}): InMemoryPorts {
  const agents = new Map<string, Agent>();
  const prekeys = new Map<string, InMemoryStock>();
  const mailboxes = new Map<string, StoredItem[]>();
  const messages: MessageStatus[] = [];
  const sessionFacts: SessionFacts[] = [];
  const remembered = new Map<string, Uint8Array>();
  const appended: NewEvent<unknown>[] = [];
  const counts = new Map<Counter, number>();
  const bugs: unknown[] = [];
  const away = new Set<"kafka" | "postgres" | "redis">();
  const streaming = new Set<string>();
  const nonces = new Set<string>();
  const waiting = new Set<() => void>();

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
    mailboxes,
    messages,
    sessionFacts,
    remembered,
    appended,
    counts,
    bugs,
    away,
    streaming,
    wake: () => {
      for (const resolve of waiting) resolve();
    },
    now: Date.now,
    counted: (counter, by) => counts.set(counter, (counts.get(counter) ?? 0) + by),
    onBug: (error) => bugs.push(error),
    publicAuthority: undefined,
    custody: null,
    opsToken: "in-memory-token-of-the-operators",
    rotatePrekeys: async (agentId) => {
      need("postgres");
      const agent = agents.get(agentId);
      if (agent?.status !== "active") return null;
      return { outcome: "asked", connected: streaming.has(agentId) };
    },
    redisReady: () => !away.has("redis"),
    readiness: { kafka: () => !away.has("kafka"), postgres: () => !away.has("postgres") },
    metrics: async () => "# HELP up whether it is up\nup 1\n",
    findAgents: async (ids) => {
      need("postgres");
      return new Map(ids.flatMap((id) => (agents.has(id) ? [[id, agents.get(id) as Agent]] : [])));
    },
    nonces: {
      remember: async (keyid, nonce) => {
        const name = `${keyid} ${nonce}`;
        if (nonces.has(name)) return "replayed";
        nonces.add(name);
        return "fresh";
      },
    },
    storeAgent: async ({ agentId, identityKey, custody, held, now, fact }) => {
      need("postgres");
      if (agents.has(agentId)) return { created: false };
      const accessKey = held?.accessKey ?? null;
      agents.set(agentId, { agentId, identityKey, custody, accessKey, status: "active", createdAt: now });
      appended.push(fact);
      return { created: true };
    },
    ...inMemoryPrekeys(prekeys, agents, () => need("postgres")),
    limits: inMemoryLimits(() => need("redis")),
    prekeyBudget: { name: "bundles", points: 200, seconds: 3_600 },
    digests: {
      lookup: async (senderId, ids) => ids.map((id) => remembered.get(`${senderId} ${id}`) ?? null),
      remember: async (senderId, digests) => {
        for (const { messageId, digest } of digests) remembered.set(`${senderId} ${messageId}`, digest);
      },
    },
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
    ...overrides,
  };
}
