/**
 * All open streams of one process: who is connected, what arrives for them, and the clock that finds what did not.
 *
 * Promises: one stream per agent, the newest; handovers go to the connection they are for; every second (every 250 ms while nothing
 * can be handed over) one batch of statements finds what was stored and not handed over. Redis may be away or forget everything:
 * then items come later, none is lost. Nothing here is needed after a crash: every new connection starts with every waiting row.
 */
import { randomUUID } from "node:crypto";
import { Unavailable } from "../../protocol/refusal.ts";
import { CLOSE_SUPERSEDED, type StreamItemId } from "../../protocol/stream-frames.ts";
import type { HandoverDoor, HandoverEntry, Subscription } from "../../store/handover.ts";
import type { AgentPresence, Presence, PresenceDoor } from "../../store/presence.ts";
import { unlessAway } from "../../store/redis.ts";
import type { SweepAnswer, SweepQuestion } from "../../store/sweep.ts";
import type { Caller } from "../auth.ts";
import { type ReportUnansweredDeps, reportUnanswered } from "../operations/report-unanswered.ts";
import { type Fall, findFallen, type StandingDeps } from "../standing.ts";
import { Arrivals } from "./arrivals.ts";
import { atMost } from "./at-most.ts";
import { type Attach, Connection, type ConnectionDeps } from "./connection.ts";
import { Departures, type DeparturesDeps } from "./departures.ts";
import { Polls } from "./polls.ts";
import { Reporter, type ReporterDeps } from "./reporter.ts";

export interface GatewayDeps extends ReporterDeps, ReportUnansweredDeps, StandingDeps {
  readonly presence: PresenceDoor;
  readonly handover: HandoverDoor;
  /** The agents are here: they need no more waking for what waited. Throws `Unavailable`. */
  readonly endWakes: (agentIds: readonly string[]) => Promise<void>;
  /** `api/operations/announce-waiting.ts`. Throws `Unavailable`. */
  readonly announceWaiting: DeparturesDeps["announceWaiting"];
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
  /** Between looks at who is not allowed any more. With a connection that begins just after one it is still below the 5 s that are promised. */
  readonly standingMs: number;
  /** Between looks at who has gone: shorter, and clients that change their connection are taken for gone; longer, and who is gone is woken later. */
  readonly goneMs: number;
  /** Below the 60 s after which proxies cut off what is silent, with one ping lost. */
  readonly pingMs: number;
  /** From GOAWAY to the close: enough for a client to finish its calls and connect elsewhere. */
  readonly graceMs: number;
}

const TIMES: GatewayTimes = {
  sweepMs: 1_000,
  awaySweepMs: 250,
  refreshMs: 2_000,
  standingMs: 2_000,
  goneMs: 2_000,
  pingMs: 20_000,
  graceMs: 5_000,
};

/** Some 100 KB each with sockets and buffers when they are quiet. More than a process of 4 GB should hold. */
const CONNECTIONS_MAX = 20_000;

/** At most half of the pool: the other half is for calls. */
const READS_AT_ONCE_MAX = 4;

/** Questions of one sweep statement. */
const SWEEP_QUESTIONS_MAX = 1_000;

/** How long a drain waits for closing handshakes and for Kafka to take the last answers. */
const FAREWELL_MS_MAX = 2_000;

/** RFC 6455's registry: service restart. */
const CLOSE_RESTART = 1012;

/** Of ids of connections: `stream-<when it was accepted, ms>-<its number here>`. */
const STREAM_PREFIX = "stream-";

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
  /** Of each agent the superseded one that is not closed yet. */
  readonly #leaving = new Map<string, Connection>();
  /** Those that took their agent's presence. Of others whoever holds it may be the older one, which must not end them. */
  readonly #claimed = new WeakSet<Connection>();
  /** Those whose claim Redis did not answer; it is made again. */
  readonly #unclaimed = new Set<Connection>();
  readonly #polls: Polls;
  readonly #arrivals: Arrivals;
  readonly #departures: Departures;
  readonly #subscription: Subscription;
  readonly #refreshing: NodeJS.Timeout;
  readonly #pinging: NodeJS.Timeout;
  readonly #standing: NodeJS.Timeout;
  readonly #departing: NodeJS.Timeout;
  #sweeping: NodeJS.Timeout | undefined;
  #sweepUnderWay = false;
  #sweepAgain = false;
  #connectionCount = 0;
  #draining = false;

  /** Subscribes and starts its clocks; `drain` ends them. `reportsMax`: see reporter.ts. */
  constructor(deps: GatewayDeps, times: Partial<GatewayTimes> = {}, reportsMax?: number) {
    this.#deps = deps;
    this.#times = { ...TIMES, ...times };
    this.#reporter = new Reporter(deps, reportsMax);
    this.#polls = new Polls(this.id, deps.presence);
    this.#arrivals = new Arrivals(deps.endWakes);
    this.#departures = new Departures({
      gatewayId: this.id,
      presence: deps.presence,
      isHere: (agentId) => this.#connections.has(agentId) || this.#polls.has(agentId),
      announceWaiting: deps.announceWaiting,
    });
    this.#connectionDeps = {
      now: deps.now,
      reporter: this.#reporter,
      readMailbox: atMost(READS_AT_ONCE_MAX, deps.readMailbox),
      onUnanswered: (agentId, item) => void reportUnanswered(deps, agentId, item).catch(deps.onBug),
      onBug: deps.onBug,
      onClosed: (connection) => this.#onClosed(connection),
    };
    this.#subscription = deps.handover.subscribe(this.id, {
      onEntries: (entries) => this.#onEntries(entries),
      onGap: () => this.#onGap(),
    });
    this.#refreshing = setInterval(() => {
      for (const agentId of this.#reporter.takeUnheard()) this.#sendAway(this.#connections.get(agentId));
      this.#refresh().catch(this.#deps.onBug);
    }, this.#times.refreshMs);
    this.#standing = setInterval(() => this.#expelInactive().catch(this.#deps.onBug), this.#times.standingMs);
    this.#departing = setInterval(() => this.#departures.look().catch(this.#deps.onBug), this.#times.goneMs);
    this.#pinging = setInterval(() => {
      for (const connection of this.#open) connection.beat();
    }, this.#times.pingMs);
    this.#sweepLater();
  }

  /** Open streams, sockets that are not closed yet, and answers that were lost in a long outage of Kafka. */
  status(): {
    readonly connections: number;
    readonly sockets: number;
    readonly answersDropped: number;
    readonly listening: boolean;
  } {
    return {
      connections: this.#connections.size,
      sockets: this.#open.size,
      answersDropped: this.#reporter.dropped,
      listening: this.#subscription.listening(),
    };
  }

  /** Whether another stream is taken. */
  takes(): boolean {
    return !this.#draining && this.#open.size < CONNECTIONS_MAX;
  }

  /** Takes over a connection of this agent, by whatever door. An older one of the agent is closed, wherever it is. */
  accept(caller: Caller, attach: Attach): void {
    const { agentId } = caller;
    const id = `${STREAM_PREFIX}${this.#deps.now()}-${++this.#connectionCount}`;
    const connection = new Connection(caller, id, this.#connectionDeps, attach);
    this.#open.add(connection);
    if (this.#draining) {
      connection.close(CLOSE_RESTART, "going away");
      return;
    }
    const older = this.#connections.get(agentId);
    if (older !== undefined) this.#supersede(older);
    this.#connections.set(agentId, connection);
    this.#announce(connection).catch(this.#deps.onBug);
  }

  /** Whether the agent has an open stream, here or elsewhere; false while that cannot be known. */
  async hasStream(agentId: string): Promise<boolean> {
    if (this.#connections.has(agentId)) return true;
    const holders = await unlessAway(this.#deps.presence.lookup([agentId]));
    const holder = holders?.get(agentId);
    return holder !== undefined && isStream(holder);
  }

  /** The agent has answered these over HTTP: its stream, if it is here, has room at once and not only at the sweep. */
  answered(agentId: string, items: readonly StreamItemId[]): void {
    this.#connections.get(agentId)?.deliver({ type: "answered", items });
  }

  /** The agent is here, if only with a call: its wakes end, now or when Redis is back. */
  came(agentId: string): Promise<void> {
    return this.#arrivals.add([agentId]);
  }

  /** For a poll: resolves when there may be mail for the agent, when the signal aborts, after `ms`, or for nothing. */
  waitForMail(agentId: string, signal: AbortSignal, ms: number): Promise<void> {
    return this.#polls.wait(agentId, signal, ms);
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
    clearInterval(this.#standing);
    clearInterval(this.#departing);
    clearInterval(this.#pinging);
    clearTimeout(this.#sweeping);
    this.#polls.wakeAll();
    // Each close releases its own, too; whoever waits for us closes Redis next.
    await unlessAway(this.#deps.presence.release(held));
    const late = Promise.withResolvers<void>();
    const timer = setTimeout(late.resolve, FAREWELL_MS_MAX);
    // The last answers first: who has answered everything is not woken.
    const reported = this.#reporter.close().then(() => this.#departures.lookAtLast());
    await Promise.race([reported.catch(this.#deps.onBug), late.promise]);
    clearTimeout(timer);
    this.#subscription.close();
  }

  async #closedWithin(ms: number): Promise<void> {
    const until = Date.now() + ms;
    while (this.#open.size > 0 && Date.now() < until) await delay(Math.min(20, ms));
  }

  async #announce(connection: Connection): Promise<void> {
    // Whoever checked the signature may have remembered the agent for some seconds.
    await this.#expelFallen([connection]);
    if (connection.isClosed()) return;
    const older = await this.#claim(connection);
    // Behind the presence: whoever claims a wake asks for that afterwards (consumers/push/waking.ts).
    this.#arrivals.add([connection.agentId]).catch(this.#deps.onBug);
    connection.open();
    await this.#tellOlder(connection, older);
  }

  /** Takes the agent's place. Answers the stream elsewhere that held it, null when there was none or Redis does not answer: then it is tried again. */
  async #claim(connection: Connection): Promise<Presence | null> {
    const { agentId } = connection;
    const claiming = this.#deps.presence.claim(agentId, this.#presenceOf(connection));
    const claimed = await unlessAway(claiming.then((before) => ({ before })));
    if (claimed === null) {
      this.#unclaimed.add(connection);
      return null;
    }
    this.#claimed.add(connection);
    return this.#elsewhere(claimed.before);
  }

  /** Who holds an agent's presence, when it is a stream of another process. */
  #elsewhere(holder: Presence | null): Presence | null {
    return holder !== null && holder.gatewayId !== this.id && isStream(holder) ? holder : null;
  }

  async #tellOlder({ agentId }: Connection, older: Presence | null): Promise<void> {
    if (older === null) return;
    const { gatewayId, connectionId } = older;
    // Lost, the older gateway finds out at its next refresh.
    await unlessAway(this.#deps.handover.publish(gatewayId, [{ type: "superseded", agentId, connectionId }]));
  }

  #presenceOf({ agentId, id }: Connection): AgentPresence {
    return { agentId, gatewayId: this.id, connectionId: id };
  }

  /** Its presence is left to the newer one, so that in between nobody counts as offline. */
  #supersede(older: Connection): void {
    this.#letGo(older);
    older.close(CLOSE_SUPERSEDED, "superseded");
  }

  #expel(connection: Connection, why: Fall): void {
    this.#letGo(connection);
    this.#release(connection);
    connection.expel(why);
  }

  /** The client is asked to connect again, and made to after the grace: a new connection begins with everything that waits. */
  #sendAway(connection: Connection | undefined): void {
    if (connection === undefined) return;
    connection.goAway("retry");
    setTimeout(() => connection.close(CLOSE_RESTART, "going away"), this.#times.graceMs).unref();
  }

  /**
   * From now on it is not the agent's connection, however long it takes to close. A client that does not read its close would leave one
   * behind with each new connection: only the last may take its time.
   */
  #letGo(connection: Connection): void {
    const { agentId } = connection;
    if (this.#connections.get(agentId) === connection) this.#connections.delete(agentId);
    const leaving = this.#leaving.get(agentId);
    if (leaving !== connection) leaving?.terminate();
    this.#leaving.set(agentId, connection);
  }

  #onClosed(connection: Connection): void {
    this.#open.delete(connection);
    if (this.#leaving.get(connection.agentId) === connection) this.#leaving.delete(connection.agentId);
    if (this.#connections.get(connection.agentId) !== connection) return;
    this.#connections.delete(connection.agentId);
    this.#release(connection);
    this.#departures.went(connection.agentId);
  }

  #release(connection: Connection): void {
    void unlessAway(this.#deps.presence.release([this.#presenceOf(connection)]));
  }

  #onEntries(entries: readonly HandoverEntry[]): void {
    for (const entry of entries) {
      const connection = this.#connections.get(entry.agentId);
      if (entry.type === "item") {
        connection?.deliver({ type: "handed-over", item: entry });
        const waited = this.#polls.wake(entry.agentId);
        // Routing counts it as handed over, and asks nobody for a wake.
        if (connection === undefined && !waited) this.#departures.went(entry.agentId);
      } else if (entry.type === "receipt") {
        connection?.receipt(entry);
      } else if (entry.type === "notice") {
        connection?.notice(entry.kind);
      } else if (entry.type === "reconnect") {
        this.#sendAway(connection);
        this.#polls.wake(entry.agentId);
      } else if (connection?.id === entry.connectionId) {
        this.#supersede(connection);
      }
    }
  }

  /** Handovers may have been missed: a sweep finds for whom, in a statement for a thousand, where reading would take one for each. */
  #onGap(): void {
    this.#refresh().catch(this.#deps.onBug);
    void this.#sweep();
  }

  async #refresh(): Promise<void> {
    await this.#claimAgain();
    const held = [...this.#connections.values()]
      .filter((connection) => this.#claimed.has(connection))
      .map((connection) => this.#presenceOf(connection));
    const refreshed = await unlessAway(this.#deps.presence.refresh(held));
    if (refreshed === null) return;
    await this.#arrivals.tellAgain();
    const { lost, regained } = refreshed;
    // Those that counted as offline may have been woken meanwhile.
    await this.#arrivals.add(regained.map(({ agentId }) => agentId));
    if (lost.length === 0) return;
    const holders = await unlessAway(this.#deps.presence.lookup(lost.map(({ agentId }) => agentId)));
    for (const { agentId, connectionId } of lost) {
      const connection = this.#connections.get(agentId);
      const holder = holders?.get(agentId);
      if (connection?.id !== connectionId || holder === undefined) continue;
      if (this.#elsewhere(holder) !== null) this.#supersede(connection);
      // A poll took the place of a presence that had run out, or an older connection of our own that is gone.
      else await unlessAway(this.#deps.presence.claim(agentId, this.#presenceOf(connection)));
    }
  }

  /**
   * What Redis did not answer when it happened. In the meantime the agent may have come to another process, whose claim was: of the two the newer stays, as far as the
   * clocks of processes tell.
   */
  async #claimAgain(): Promise<void> {
    for (const connections of slices([...this.#unclaimed], SWEEP_QUESTIONS_MAX)) {
      const holders = await unlessAway(this.#deps.presence.lookup(connections.map(({ agentId }) => agentId)));
      if (holders === null) return;
      const late = connections.map((connection) =>
        this.#claimLate(connection, holders.get(connection.agentId) ?? null),
      );
      const claimed = (await Promise.all(late)).flatMap((agentId) => agentId ?? []);
      // Behind the presence, as in #announce.
      await this.#arrivals.add(claimed);
    }
  }

  /** Answers whose presence was taken; null when it was not. */
  async #claimLate(connection: Connection, holder: Presence | null): Promise<string | null> {
    const { agentId } = connection;
    const isHere = this.#connections.get(agentId) === connection;
    const own = this.#presenceOf(connection);
    const other = this.#elsewhere(holder);
    const isOlder = other !== null && acceptedAt(other) > acceptedAt(own);
    if (isHere && isOlder) this.#supersede(connection);
    if (!isHere || isOlder) {
      this.#unclaimed.delete(connection);
      return null;
    }
    const replaced = await unlessAway(this.#deps.presence.replace(agentId, holder, own));
    if (replaced !== true) return null;
    this.#unclaimed.delete(connection);
    this.#claimed.add(connection);
    await this.#tellOlder(connection, other);
    return agentId;
  }

  /** Sends away who is not allowed any more: a signature is checked once, at the connect. */
  async #expelInactive(): Promise<void> {
    for (const connections of slices([...this.#connections.values()], SWEEP_QUESTIONS_MAX)) {
      await this.#expelFallen(connections);
    }
  }

  /** While it cannot be known, the mailbox cannot be read either; the next look comes soon. */
  async #expelFallen(connections: readonly Connection[]): Promise<void> {
    const fallen = await unlessAway(findFallen(this.#deps, connections));
    for (const [connection, why] of fallen ?? []) this.#expel(connection, why);
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

/** A poll holds presences as well. */
function isStream({ connectionId }: Presence): boolean {
  return connectionId.startsWith(STREAM_PREFIX);
}

/** Of a stream; 0 of what is none of ours. */
function acceptedAt({ connectionId }: Presence): number {
  const [, ms] = /^stream-(\d+)-\d+$/.exec(connectionId) ?? [];
  return Number(ms ?? 0);
}

function slices<Item>(items: readonly Item[], size: number): Item[][] {
  const parts: Item[][] = [];
  for (let start = 0; start < items.length; start += size) parts.push(items.slice(start, start + size));
  return parts;
}

function delay(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
