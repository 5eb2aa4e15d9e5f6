/**
 * Everything around a gateway, in memory, for tests: mailboxes, presence, handover, Kafka with the consumers behind it.
 *
 * The reference of what the real ones promise, with switches for what may go wrong with them.
 */

import type { Agent } from "../api/agents.ts";
import { openAddresses } from "../api/client-address.ts";
import { Neighbours } from "../api/front-door.ts";
import { inMemoryPolicies, noPolicies } from "../api/in-memory-policies.ts";
import { inMemoryLimits } from "../api/in-memory-prekeys.ts";
import { generousRates, inMemoryRates } from "../api/in-memory-rates.ts";
import type { SendDeps } from "../api/operations/send.ts";
import type { RateLimits } from "../api/rate-limits.ts";
import { SendsUnderWay } from "../api/sends-under-way.ts";
import type { MailboxItem } from "../api/stream/delivery.ts";
import type { GatewayDeps } from "../api/stream/gateway.ts";
import type { Identity } from "../protocol/identity.ts";
import { Unavailable } from "../protocol/refusal.ts";
import type { Delegation, MessageEncrypted, MessageReceipt, ReceiptItem } from "../schemas/values.ts";
import type { HandoverDoor, HandoverEntry, Listener } from "../store/handover.ts";
import type { Presence, PresenceDoor } from "../store/presence.ts";
import type { SigningKey } from "../store/signing-keys.ts";
import type { SweepAnswer, SweepQuestion } from "../store/sweep.ts";
import type { NewEvent } from "../streams/headers.ts";

interface Mailbox {
  readonly rows: MailboxItem[];
  lastSeq: number;
}

export class World implements GatewayDeps {
  readonly presence: PresenceDoor;
  readonly handover: HandoverDoor;
  readonly mailboxes = new Map<string, Mailbox>();
  readonly present = new Map<string, Presence>();
  readonly listeners = new Map<string, Listener>();
  readonly agents = new Map<string, Agent>();
  /** Items in the order in which Kafka took them. */
  readonly appended: MessageEncrypted[] = [];
  /** Receipts in the order in which Kafka took them, and how many each record had. */
  readonly receiptItems: ReceiptItem[] = [];
  readonly receiptRecordSizes: number[] = [];
  readonly bugs: unknown[] = [];
  /** Agents whose wakes ended, each with who held its presence then. */
  readonly came: [agentId: string, holder: string | undefined][] = [];
  /** Agents for whom a wake was asked, because they went and something waits. */
  readonly announced: string[] = [];
  /** Up to which seq each agent's connection was sent everything, as its gateway said when it swept. */
  readonly lastSent = new Map<string, number>();
  bytesRead = 0;
  checks = 0;
  kafkaAway = false;
  redisAway = false;
  postgresAway = false;
  /** What is published is not heard. */
  deaf = false;
  /** Kafka answers when this resolves. */
  kafkaAnswers: Promise<void> = Promise.resolve();
  /** How long the lookup of agents takes, by call. */
  checkDelaysMs: number[] = [];

  readonly now = () => Date.now();
  readonly counted = () => undefined;
  readonly onBug = (error: unknown) => {
    this.bugs.push(error);
  };
  readonly limits = inMemoryLimits(() => {
    if (this.redisAway) throw new Unavailable("redis");
  });
  readonly rates = inMemoryRates();
  rateLimits: RateLimits = generousRates;
  sends = new SendsUnderWay();
  readonly addressOf = openAddresses([]);
  readonly neighbours = new Neighbours();
  readonly policies = noPolicies();
  readonly authorize = inMemoryPolicies(this.policies, this.agents, () => undefined).authorize;
  readonly room: SendDeps["room"] = { take: async (_senderId, messages) => messages.map(() => null) };
  readonly digests = {
    lookup: async (_sender: string, ids: readonly string[]) => ids.map(() => null),
    remember: async () => undefined,
  };
  readonly endWakes = async (agentIds: readonly string[]) => {
    this.#needRedis();
    for (const agentId of agentIds) this.came.push([agentId, this.present.get(agentId)?.connectionId]);
  };
  readonly announceWaiting = async (agentIds: readonly string[]) => {
    if (this.postgresAway) throw new Unavailable("postgres");
    if (this.kafkaAway) throw new Unavailable("kafka");
    this.announced.push(...agentIds.filter((agentId) => this.mailbox(agentId).rows.length > 0));
  };
  /** By issuer and jti. */
  readonly revoked = new Set<string>();
  readonly findRevoked = async (links: readonly Delegation[]) => {
    if (this.postgresAway) throw new Unavailable("postgres");
    return links.some(({ issuerId, tokenId }) => this.revoked.has(`${issuerId} ${tokenId}`));
  };
  readonly nonces = { remember: async () => "fresh" as const };

  /** Real doors to Redis, instead of those in memory. */
  constructor(doors?: { readonly presence: PresenceDoor; readonly handover: HandoverDoor }) {
    this.presence = doors?.presence ?? this.#presence;
    this.handover = doors?.handover ?? this.#handover;
  }

  register({ agentId, signing }: Identity): void {
    this.agents.set(agentId, {
      agentId,
      identityKey: signing.publicKey,
      custody: "agent",
      accessKey: null,
      status: "active",
      createdAt: 0,
    });
  }

  suspend(agentId: string): void {
    this.agents.set(agentId, { ...(this.agents.get(agentId) as Agent), status: "suspended" });
  }

  readonly findAgents = async (agentIds: readonly string[]) => {
    this.checks++;
    const delayMs = this.checkDelaysMs.shift() ?? 0;
    if (delayMs > 0) await new Promise((resolve) => setTimeout(resolve, delayMs));
    return new Map(
      agentIds.flatMap((id) => (this.agents.has(id) ? [[id, this.agents.get(id) as Agent] as const] : [])),
    );
  };

  readonly findInactive = async (agentIds: readonly string[]) => {
    if (this.postgresAway) throw new Unavailable("postgres");
    return new Set(agentIds.filter((id) => this.agents.get(id)?.status === "suspended"));
  };

  /** Keys that sign for an agent, by their ids. */
  readonly signingKeys = new Map<string, SigningKey>();

  readonly findSigningKey = async (keyId: string) => this.signingKeys.get(keyId) ?? null;

  readonly findEndedKeys = async (keyIds: readonly string[]) =>
    new Set(keyIds.filter((keyId) => !this.signingKeys.has(keyId)));

  readonly items = {
    append: async (events: readonly NewEvent<unknown>[]) => {
      if (this.kafkaAway) throw new Unavailable("kafka");
      const items = events.map(({ value }) => value as MessageEncrypted);
      this.appended.push(...items);
      await this.kafkaAnswers;
      for (const item of items) this.store(item);
    },
  };

  readonly receipts = {
    append: async (events: readonly NewEvent<unknown>[]) => {
      if (this.kafkaAway) throw new Unavailable("kafka");
      for (const { value } of events) this.#settle(value as MessageReceipt);
    },
  };

  /** Queuing and routing: a seq, a row, a handover. */
  store(item: Pick<MessageEncrypted, "recipientId" | "senderId" | "itemId" | "kind" | "body">): void {
    const { recipientId: agentId, senderId, itemId, kind, body } = item;
    const mailbox = this.mailbox(agentId);
    const row = { seq: ++mailbox.lastSeq, kind, senderId, itemId, body };
    mailbox.rows.push(row);
    void this.#tell(agentId, { type: "item", agentId, ...row });
  }

  mailbox(agentId: string): Mailbox {
    const mailbox = this.mailboxes.get(agentId) ?? { rows: [], lastSeq: 0 };
    this.mailboxes.set(agentId, mailbox);
    return mailbox;
  }

  readonly readMailbox: GatewayDeps["readMailbox"] = async (recipientId, { afterSeq, limit, maxBytes }) => {
    if (this.postgresAway) throw new Unavailable("postgres");
    const mailbox = this.mailbox(recipientId);
    const after = mailbox.rows.filter((row) => row.seq > afterSeq);
    const items: MailboxItem[] = [];
    let bytes = 0;
    for (const row of after.slice(0, limit)) {
      bytes += row.body.length;
      if (bytes > maxBytes && items.length > 0) break;
      items.push(row);
    }
    this.bytesRead += items.reduce((sum, row) => sum + row.body.length, 0);
    return { items, lastSeq: mailbox.lastSeq, end: items.length === after.length };
  };

  readonly sweepMailboxes = async (questions: readonly SweepQuestion[]) => {
    if (this.postgresAway) throw new Unavailable("postgres");
    return new Map<string, SweepAnswer>(
      questions.map(({ recipientId, lastSent, seqs }) => {
        this.lastSent.set(recipientId, lastSent);
        const { rows, lastSeq } = this.mailbox(recipientId);
        return [recipientId, { lastSeq, gone: seqs.filter((seq) => !rows.some((row) => row.seq === seq)) }];
      }),
    );
  };

  readonly #presence: PresenceDoor = {
    claim: async (agentId, presence) => {
      this.#needRedis();
      const before = this.present.get(agentId) ?? null;
      this.present.set(agentId, presence);
      return before;
    },
    claimFree: async (agentId, presence) => {
      this.#needRedis();
      const holder = this.present.get(agentId) ?? null;
      if (holder === null) this.present.set(agentId, presence);
      return holder;
    },
    replace: async (agentId, before, presence) => {
      this.#needRedis();
      const nameOf = (one: Presence | null | undefined) => (one ? `${one.gatewayId}:${one.connectionId}` : "");
      if (nameOf(this.present.get(agentId)) !== nameOf(before)) return false;
      this.present.set(agentId, presence);
      return true;
    },
    refresh: async (held) => {
      this.#needRedis();
      const regained = held.filter(({ agentId }) => !this.present.has(agentId));
      for (const { agentId, ...own } of regained) this.present.set(agentId, own);
      const lost = held.filter(({ agentId, gatewayId, connectionId }) => {
        const holder = this.present.get(agentId);
        return holder?.gatewayId !== gatewayId || holder.connectionId !== connectionId;
      });
      return { lost, regained };
    },
    release: async (held) => {
      this.#needRedis();
      for (const { agentId, gatewayId, connectionId } of held) {
        const holder = this.present.get(agentId);
        if (holder?.gatewayId === gatewayId && holder.connectionId === connectionId) this.present.delete(agentId);
      }
    },
    lookup: async (agentIds) => {
      this.#needRedis();
      return new Map(
        agentIds.flatMap((id) => (this.present.has(id) ? [[id, this.present.get(id) as Presence] as const] : [])),
      );
    },
  };

  readonly #handover: HandoverDoor = {
    publish: async (gatewayId, entries) => {
      this.#needRedis();
      const listener = this.deaf ? undefined : this.listeners.get(gatewayId);
      listener?.onEntries(entries);
      return listener === undefined ? 0 : 1;
    },
    subscribe: (gatewayId, listener) => {
      this.listeners.set(gatewayId, listener);
      return { listening: () => !this.redisAway, close: () => this.listeners.delete(gatewayId) };
    },
  };

  /** Acks and receipts: the row goes at its end, and the sender hears of it. */
  #settle({ recipientId, items }: MessageReceipt): void {
    this.receiptRecordSizes.push(items.length);
    this.receiptItems.push(...items);
    const { rows } = this.mailbox(recipientId);
    for (const { outcome, senderId, itemId: messageId, at, code } of items) {
      const place = rows.findIndex((row) => row.senderId === senderId && row.itemId === messageId);
      // What is set aside is not read any more, like what has ended.
      if (outcome !== "delivered" && place >= 0) rows.splice(place, 1);
      if (outcome === "aside") continue;
      const status = outcome === "delivered" || outcome === "acknowledged" ? outcome : "discarded";
      void this.#tell(senderId, { type: "receipt", agentId: senderId, messageId, recipientId, status, at, code });
    }
  }

  /** Routing and receipts, to whom presence names. */
  async #tell(agentId: string, entry: HandoverEntry): Promise<void> {
    if (this.deaf) return;
    try {
      const holder = (await this.presence.lookup([agentId])).get(agentId);
      if (holder !== undefined) await this.handover.publish(holder.gatewayId, [entry]);
    } catch (error) {
      if (!(error instanceof Unavailable)) throw error;
    }
  }

  #needRedis(): void {
    if (this.redisAway) throw new Unavailable("redis");
  }
}
