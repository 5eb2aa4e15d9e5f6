/**
 * All open streams of one process: who is connected, what arrives for them, and the clock that finds what did not.
 *
 * Promises: one stream per agent, the newest; handovers go to the connection they are for; every second (every 250 ms while nothing
 * can be handed over) one batch of statements finds what was stored and not handed over. Redis may be away or forget everything:
 * then items come later, none is lost. Nothing here is needed after a crash: every new connection starts with every waiting row.
 */
import { randomUUID } from "node:crypto";
import type { WebSocket } from "ws";
import { Unavailable } from "../../protocol/refusal.ts";
import { CLOSE_SUPERSEDED } from "../../protocol/stream-frames.ts";
import type { HandoverDoor, HandoverEntry, Subscription } from "../../store/handover.ts";
import type { AgentPresence, PresenceDoor } from "../../store/presence.ts";
import type { SweepAnswer, SweepQuestion } from "../../store/sweep.ts";
import type { SendDeps } from "../operations/send.ts";
import { Connection, type ConnectionDeps } from "./connection.ts";
import { Reporter, type ReporterDeps } from "./reporter.ts";

export interface GatewayDeps extends SendDeps, ReporterDeps {
  readonly presence: PresenceDoor;
  readonly handover: HandoverDoor;
  /** `store/mailbox.ts`. Throws `Unavailable`. */
  readonly readMailbox: ConnectionDeps["readMailbox"];
  /** `store/sweep.ts`. Throws `Unavailable`. */
  readonly sweepMailboxes: (questions: readonly SweepQuestion[]) => Promise<ReadonlyMap<string, SweepAnswer>>;
}

/** In milliseconds; the defaults are the contract of docs/stream.md, tests are in more of a hurry. */
export interface GatewayTimes {
  /** Between sweeps. A lost handover costs at most this much. */
  readonly sweepMs: number;
  /** The same while nothing is handed over: a poll, as often as PostgreSQL can bear for all. */
  readonly awaySweepMs: number;
  /** A third of the presence's life: two refreshes may be lost. */
  readonly refreshMs: number;
  /** Below the 60 s after which proxies cut off what is silent, with one ping lost. */
  readonly pingMs: number;
  /** From GOAWAY to the close: enough for a client to finish its calls and connect elsewhere. */
  readonly graceMs: number;
}

const TIMES: GatewayTimes = { sweepMs: 1_000, awaySweepMs: 250, refreshMs: 2_000, pingMs: 20_000, graceMs: 5_000 };

/** Some 100 KB each with sockets and buffers when they are quiet. More than a process of 4 GB should hold. */
const CONNECTIONS_MAX = 20_000;

/** At most half of the pool: the other half is for calls. */
const READS_AT_ONCE_MAX = 4;

/** Questions of one sweep statement. */
const SWEEP_QUESTIONS_MAX = 1_000;

/** A poll that waits reads again after this, as a stream is swept. */
const POLL_WAIT_MS_MAX = 1_000;

/** How long a drain waits for closing handshakes and for Kafka to take the last answers. */
const FAREWELL_MS_MAX = 2_000;

/** RFC 6455's registry: service restart. */
const CLOSE_RESTART = 1012;

const STREAM_PREFIX = "stream-";
const POLL_PREFIX = "poll-";

export class Gateway {
  /** New with every start: nobody hands over to a gateway that is gone. */
  readonly id = randomUUID();
  readonly #deps: GatewayDeps;
  readonly #times: GatewayTimes;
  readonly #reporter: Reporter;
  readonly #connectionDeps: ConnectionDeps;
  /** The newest of each agent. */
  readonly #connections = new Map<string, Connection>();
  /** Everyone whose socket is not closed yet, superseded ones included. */
  readonly #open = new Set<Connection>();
  readonly #polls = new Map<string, Set<() => void>>();
  readonly #subscription: Subscription;
  readonly #refreshing: NodeJS.Timeout;
  readonly #pinging: NodeJS.Timeout;
  #sweeping: NodeJS.Timeout | undefined;
  #sweepUnderWay = false;
  #sweepAgain = false;
  #connectionCount = 0;
  #draining = false;

  /** Subscribes and starts its clocks; `drain` ends them. */
  constructor(deps: GatewayDeps, times: Partial<GatewayTimes> = {}) {
    this.#deps = deps;
    this.#times = { ...TIMES, ...times };
    this.#reporter = new Reporter(deps);
    this.#connectionDeps = {
      send: deps,
      reporter: this.#reporter,
      readMailbox: atMost(READS_AT_ONCE_MAX, deps.readMailbox),
      onBug: deps.onBug,
      onClosed: (connection) => this.#onClosed(connection),
    };
    this.#subscription = deps.handover.subscribe(this.id, {
      onEntries: (entries) => this.#onEntries(entries),
      onGap: () => this.#onGap(),
    });
    this.#refreshing = setInterval(() => this.#refresh().catch(this.#deps.onBug), this.#times.refreshMs);
    this.#pinging = setInterval(() => this.#beat().catch(this.#deps.onBug), this.#times.pingMs);
    this.#sweepLater();
  }

  /** Open streams, and answers that were lost in a long outage of Kafka. */
  status(): { readonly connections: number; readonly answersDropped: number; readonly listening: boolean } {
    return {
      connections: this.#connections.size,
      answersDropped: this.#reporter.dropped,
      listening: this.#subscription.listening(),
    };
  }

  /** Whether another stream is taken. */
  takes(): boolean {
    return !this.#draining && this.#open.size < CONNECTIONS_MAX;
  }

  /** Takes over an upgraded socket of this agent. An older stream of the agent is closed, wherever it is. */
  accept(socket: WebSocket, agentId: string): void {
    const connection = new Connection(
      socket,
      agentId,
      `${STREAM_PREFIX}${++this.#connectionCount}`,
      this.#connectionDeps,
    );
    this.#open.add(connection);
    if (this.#draining) {
      connection.close(CLOSE_RESTART, "going away");
      return;
    }
    const older = this.#connections.get(agentId);
    this.#connections.set(agentId, connection);
    older?.close(CLOSE_SUPERSEDED, "superseded");
    this.#announce(connection).catch(this.#deps.onBug);
  }

  /** Whether the agent has an open stream, here or elsewhere; false while that cannot be known. */
  async hasStream(agentId: string): Promise<boolean> {
    if (this.#connections.has(agentId)) return true;
    const holders = await orIfAway(this.#deps.presence.lookup([agentId]), new Map<string, AgentPresence>());
    return holders.get(agentId)?.connectionId.startsWith(STREAM_PREFIX) === true;
  }

  /**
   * For a poll: resolves when there may be mail for the agent, when the signal aborts, after `ms`, or for nothing. Sets presence while it
   * waits, unless a stream or another poll has it.
   */
  async waitForMail(agentId: string, signal: AbortSignal, ms: number): Promise<void> {
    if (signal.aborted) return;
    const held: AgentPresence = {
      agentId,
      gatewayId: this.id,
      connectionId: `${POLL_PREFIX}${++this.#connectionCount}`,
    };
    const polls = this.#polls.get(agentId) ?? new Set();
    this.#polls.set(agentId, polls);
    const { promise, resolve } = Promise.withResolvers<void>();
    polls.add(resolve);
    const timer = setTimeout(resolve, Math.min(ms, POLL_WAIT_MS_MAX));
    const abort = () => resolve();
    signal.addEventListener("abort", abort, { once: true });
    const claimed = orIfAway(this.#deps.presence.claimFree(agentId, held), null);
    await promise;
    clearTimeout(timer);
    signal.removeEventListener("abort", abort);
    polls.delete(resolve);
    if (polls.size === 0) this.#polls.delete(agentId);
    await claimed;
    await orIfAway(this.#deps.presence.release([held]), undefined);
  }

  /**
   * Asks all clients to go elsewhere, closes who is still there after the grace, and hands on the last answers. Answers when everything of
   * this gateway has ended; it cannot be used again.
   */
  async drain(): Promise<void> {
    this.#draining = true;
    for (const connection of this.#open) connection.goAway("restart");
    await this.#closedWithin(this.#times.graceMs);
    const held = [...this.#connections.values()].map((connection) => this.#presenceOf(connection));
    for (const connection of this.#open) connection.close(CLOSE_RESTART, "going away");
    await this.#closedWithin(FAREWELL_MS_MAX);
    for (const connection of this.#open) connection.terminate();
    clearInterval(this.#refreshing);
    clearInterval(this.#pinging);
    clearTimeout(this.#sweeping);
    for (const polls of this.#polls.values()) for (const resolve of polls) resolve();
    // Each close releases its own, too; whoever waits for us closes Redis next.
    await orIfAway(this.#deps.presence.release(held), undefined);
    const late = Promise.withResolvers<void>();
    const timer = setTimeout(late.resolve, FAREWELL_MS_MAX);
    await Promise.race([this.#reporter.close(), late.promise]);
    clearTimeout(timer);
    this.#subscription.close();
  }

  async #closedWithin(ms: number): Promise<void> {
    const until = Date.now() + ms;
    while (this.#open.size > 0 && Date.now() < until) await delay(Math.min(20, ms));
  }

  async #announce(connection: Connection): Promise<void> {
    const before = await orIfAway(this.#deps.presence.claim(connection.agentId, this.#presenceOf(connection)), null);
    connection.open();
    if (before === null || before.gatewayId === this.id || !before.connectionId.startsWith(STREAM_PREFIX)) return;
    const { agentId } = connection;
    const { connectionId } = before;
    // Lost, the older gateway finds out at its next refresh.
    await orIfAway(this.#deps.handover.publish(before.gatewayId, [{ type: "superseded", agentId, connectionId }]), 0);
  }

  #presenceOf({ agentId, id }: Connection): AgentPresence {
    return { agentId, gatewayId: this.id, connectionId: id };
  }

  #onClosed(connection: Connection): void {
    this.#open.delete(connection);
    if (this.#connections.get(connection.agentId) === connection) this.#connections.delete(connection.agentId);
    void orIfAway(this.#deps.presence.release([this.#presenceOf(connection)]), undefined);
  }

  #onEntries(entries: readonly HandoverEntry[]): void {
    for (const entry of entries) {
      const connection = this.#connections.get(entry.agentId);
      if (entry.type === "item") {
        connection?.deliver({ type: "handed-over", item: entry });
        for (const resolve of this.#polls.get(entry.agentId) ?? []) resolve();
      } else if (entry.type === "receipt") {
        connection?.receipt(entry);
      } else if (entry.type === "notice") {
        connection?.notice(entry.kind);
      } else if (connection?.id === entry.connectionId) {
        connection.close(CLOSE_SUPERSEDED, "superseded");
      }
    }
  }

  /** Handovers may have been missed: a sweep finds for whom, in a statement for a thousand, where reading would take one for each. */
  #onGap(): void {
    this.#refresh().catch(this.#deps.onBug);
    void this.#sweep();
  }

  async #refresh(): Promise<void> {
    const held = [...this.#connections.values()].map((connection) => this.#presenceOf(connection));
    if (held.length === 0) return;
    const lost = await orIfAway(this.#deps.presence.refresh(held), []);
    if (lost.length === 0) return;
    const agentIds = lost.map(({ agentId }) => agentId);
    const holders = await orIfAway(this.#deps.presence.lookup(agentIds), new Map<string, AgentPresence>());
    for (const { agentId, connectionId } of lost) {
      const connection = this.#connections.get(agentId);
      const holder = holders.get(agentId);
      if (connection?.id !== connectionId || holder === undefined) continue;
      const isNewerStream = holder.gatewayId !== this.id && holder.connectionId.startsWith(STREAM_PREFIX);
      if (isNewerStream) connection.close(CLOSE_SUPERSEDED, "superseded");
      // A poll took the place of a presence that had run out, or an older connection of our own that is gone.
      else await orIfAway(this.#deps.presence.claim(agentId, this.#presenceOf(connection)), null);
    }
  }

  /** Pings everybody, and sends away who is not allowed any more: a signature is checked once, at the connect. */
  async #beat(): Promise<void> {
    for (const connection of this.#open) connection.beat();
    for (const connections of slices([...this.#connections.values()], SWEEP_QUESTIONS_MAX)) {
      const agents = await orIfAway(this.#deps.findAgents(connections.map(({ agentId }) => agentId)), null);
      if (agents === null) return;
      for (const connection of connections) {
        if (agents.get(connection.agentId)?.status !== "active") connection.expel();
      }
    }
  }

  #sweepLater(): void {
    clearTimeout(this.#sweeping);
    if (this.#draining && this.#open.size === 0) return;
    const { sweepMs, awaySweepMs } = this.#times;
    this.#sweeping = setTimeout(() => void this.#sweep(), this.#subscription.listening() ? sweepMs : awaySweepMs);
  }

  async #sweep(): Promise<void> {
    // What is under way may have looked before the gap.
    if (this.#sweepUnderWay) {
      this.#sweepAgain = true;
      return;
    }
    this.#sweepUnderWay = true;
    do {
      this.#sweepAgain = false;
      for (const connections of slices([...this.#connections.values()], SWEEP_QUESTIONS_MAX)) {
        await this.#sweepSome(connections);
      }
    } while (this.#sweepAgain);
    this.#sweepUnderWay = false;
    this.#sweepLater();
  }

  async #sweepSome(connections: readonly Connection[]): Promise<void> {
    const questions = connections.map((connection) => connection.question());
    const answers = await this.#deps.sweepMailboxes(questions).catch((error: unknown) => {
      if (!(error instanceof Unavailable)) this.#deps.onBug(error);
      return null;
    });
    if (answers === null) return;
    connections.forEach((connection, index) => {
      const answer = answers.get(connection.agentId);
      const lastSeq = answer?.lastSeq ?? questions[index]?.lastSent ?? 0;
      connection.deliver({ type: "swept", lastSeq, gone: answer?.gone ?? [] });
    });
  }
}

/** What Redis would have said, or this while it is away. */
async function orIfAway<Value>(asked: Promise<Value>, otherwise: Value): Promise<Value> {
  try {
    return await asked;
  } catch (error) {
    if (error instanceof Unavailable) return otherwise;
    throw error;
  }
}

/** The function, at most so many times at once; who comes first is served first. */
function atMost<Arguments extends unknown[], Result>(
  max: number,
  work: (...args: Arguments) => Promise<Result>,
): (...args: Arguments) => Promise<Result> {
  let running = 0;
  const waiting: (() => void)[] = [];
  return async (...args) => {
    if (running >= max) await new Promise<void>((resolve) => waiting.push(resolve));
    else running++;
    try {
      return await work(...args);
    } finally {
      // The place goes to the next one without being free in between.
      const next = waiting.shift();
      if (next === undefined) running--;
      else next();
    }
  };
}

function slices<Item>(items: readonly Item[], size: number): Item[][] {
  const parts: Item[][] = [];
  for (let start = 0; start < items.length; start += size) parts.push(items.slice(start, start + size));
  return parts;
}

function delay(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
