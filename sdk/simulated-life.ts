/**
 * Lives of agents: real ones, over stores in memory and a simulated service, with applications that talk, processes that die, state
 * that is lost, and a network that misbehaves. And the laws that must hold whatever happens, which throw `Broken`.
 */
import { createHash } from "node:crypto";
import type { Envelope } from "../protocol/envelope.ts";
import { decodeEnvelope, encodeEnvelope } from "../protocol/envelope.ts";
import { decodeInitiation } from "../protocol/initiation.ts";
import { makeMessageId, messageIdTime } from "../protocol/message-id.ts";
import { forgetSessions } from "../protocol/peer.ts";
import { makePrekeys, prekeyStockDigest } from "../protocol/prekey-stock.ts";
import { nodePrimitives, nodeRandom } from "../protocol/primitives/node.ts";
import { Agent, type Problem } from "./agent.ts";
import type { Chance } from "./chance.ts";
import { AgentStopped, MessageDiscarded } from "./errors.ts";
import type { InboxMessage } from "./message.ts";
import { delay } from "./patience.ts";
import { type Accounts, CALM, type Link, type Message, SimulatedService } from "./simulated-service.ts";
import type { SimulatedTime } from "./simulated-time.ts";
import { Store } from "./store/store.ts";
import { UPKEEP_INTERVAL_MS } from "./upkeep.ts";

class Broken extends Error {
  override readonly name = "Broken";
}

/** One rule broken, as a hand slips: in every store that is opened, and in the service. */
export interface Mutant {
  readonly store?: (store: Store, world: World, owner: Persona) => void;
  readonly service?: (service: SimulatedService) => void;
}

/** An agent at rest. */
export interface Sleeper {
  readonly id: string;
  /** Of its store, 32 bytes. */
  readonly key: Uint8Array;
  readonly contents: Uint8Array;
}

/** How often what happened: a simulation that did nothing must not pass. */
export interface Tally {
  messages: number;
  sessions: number;
  suite2: number;
  crossedStarts: number;
  archivedReceives: number;
  retryRequests: number;
  repaired: number;
  restarts: number;
  rollbacksFound: number;
  prekeysReplaced: number;
  rotations: number;
  rekeys: number;
  forgeriesRefused: number;
}

export function emptyTally(): Tally {
  return {
    messages: 0,
    sessions: 0,
    suite2: 0,
    crossedStarts: 0,
    archivedReceives: 0,
    retryRequests: 0,
    repaired: 0,
    restarts: 0,
    rollbacksFound: 0,
    prekeysReplaced: 0,
    rotations: 0,
    rekeys: 0,
    forgeriesRefused: 0,
  };
}

export function addTally(sum: Tally, tally: Tally): void {
  for (const name of Object.keys(sum) as (keyof Tally)[]) sum[name] += tally[name];
}

/** How the service is named in the stores. */
export const ORIGIN = "https://simulated.example";

/** What nobody fetched for 30 days is lost by right. */
export const EXPIRED = "expired";

/** Applications that take their time. */
const SLOW_PROBABILITY = 0.15;
const SLOW_MS_MAX = 1_500;

interface Process {
  readonly store: Store;
  readonly agent: Agent;
  readonly link: Link;
  isDead: boolean;
  /** Calls of `send`, and waits for the acknowledgement, that are not over. */
  open: number;
}

interface Given {
  readonly messageId: string;
  readonly process: Process;
  /** Null: not as far as the application has heard. */
  handledAt: number | null;
}

/** One agent through all its processes, and the application over it. */
export class Persona {
  readonly id: string;
  readonly #world: World;
  readonly #key: Uint8Array;
  #contents: Uint8Array;
  #snapshot: { readonly contents: Uint8Array; readonly at: number };
  #process: Process | null = null;
  /** What the application was given, by text. */
  readonly #given = new Map<string, Given>();
  /** Every text it was ever given, also by a state that was rolled back. */
  readonly everGiven = new Set<string>();
  /** What it heard of the ends of its messages, by their first ids: `acknowledged`, or why not. */
  readonly ends = new Map<string, string>();
  /** When its store was last rolled back; null: never. */
  rolledBackAt: number | null = null;

  constructor(world: World, { id, key, contents }: Sleeper) {
    this.#world = world;
    this.id = id;
    this.#key = key;
    this.#contents = contents;
    this.#snapshot = { contents, at: 0 };
  }

  get isRunning(): boolean {
    return this.#process !== null;
  }

  /** Of the running process. */
  get store(): Store {
    if (this.#process === null) throw new Error("there is no process");
    return this.#process.store;
  }

  async start(): Promise<void> {
    if (this.#process !== null) return;
    const store = Store.inMemory({ key: this.#key, contents: this.#contents });
    this.#world.watch(store, this);
    let link: Link | null = null;
    const agent = await Agent.over(
      store,
      (me, signal) => {
        link = this.#world.service.link(me, signal);
        return link;
      },
      { origin: ORIGIN },
    );
    const process: Process = { store, agent, link: link as unknown as Link, isDead: false, open: 0 };
    this.#process = process;
    this.#world.tally.restarts += 1;
    this.#mind(process, this.#handle(process));
    this.#mind(process, this.#listen(process));
    this.#mind(process, this.#hear(process));
  }

  /** The process dies here and now; what it had committed is what the next one begins with. */
  kill(): void {
    const process = this.#process;
    if (process === null) return;
    this.#contents = process.store.contents();
    this.#process = null;
    process.isDead = true;
    process.link.sever();
    process.agent.close({ drainMsMax: 0 }).catch(() => {});
  }

  async stop(): Promise<void> {
    const process = this.#process;
    if (process === null) return;
    const close = process.store.close.bind(process.store);
    process.store.close = () => {
      this.#contents = process.store.contents();
      close();
    };
    this.#process = null;
    const closed = process.agent.close({ drainMsMax: 1_000 });
    await this.#world.time.run(2_000);
    await closed;
    process.isDead = true;
  }

  snapshot(): void {
    const contents = this.#process?.store.contents() ?? this.#contents;
    this.#snapshot = { contents, at: Date.now() };
  }

  /** Its volume is copied back from the last snapshot, and it starts. */
  async rollBack(): Promise<void> {
    const snapshot = this.#snapshot;
    this.kill();
    this.#contents = snapshot.contents;
    this.rolledBackAt = Date.now();
    for (const [text, { handledAt }] of this.#given) {
      if (handledAt === null || handledAt >= snapshot.at) this.#given.delete(text);
    }
    await this.start();
  }

  /** Its sessions with this peer are lost. */
  async forget(peer: Persona): Promise<void> {
    if (this.#process === null) return;
    const { store } = this.#process;
    const forgotten = store.commit(() => store.peers.put(forgetSessions(store.peers.get(peer.id))));
    await this.#world.time.run(1);
    await forgotten;
  }

  /** It dies in the middle of a rotation, when the new prekeys are stored and nobody knows them; and starts again, if it ran. */
  async rotate(): Promise<void> {
    const { isRunning } = this;
    this.kill();
    const store = Store.inMemory({ key: this.#key, contents: this.#contents });
    const me = store.accounts.identity();
    if (me === null) throw new Error("an agent has an identity");
    const due = { rotation: true, oneTime: 2, kem: 2 };
    const births = { now: Date.now(), random: nodeRandom, newId: () => makeMessageId(Date.now(), nodeRandom) };
    const made = store.commit(() => store.prekeys.add(makePrekeys(nodePrimitives, me, due, births), births.now));
    await this.#world.time.run(0);
    await made;
    this.#contents = store.contents();
    store.close();
    this.#world.tally.rotations += 1;
    if (isRunning) await this.start();
  }

  say(to: Persona, text: string): void {
    const process = this.#process;
    if (process === null) return;
    process.open += 1;
    const said = process.agent.send(to.id, text).then((sent) => sent.acknowledged());
    const over = said.finally(() => {
      process.open -= 1;
    });
    this.#mind(process, over);
  }

  /** Is there nothing that it still has to do? */
  isQuiet(): boolean {
    const process = this.#process;
    if (process === null) return true;
    const { outbox, failed, requests } = process.store;
    const isIdle = outbox.pending(0, 1, 1).length === 0 && outbox.unanswered(0, 1).length === 0;
    const isRepaired =
      failed.nextAsking(null) === null && requests.nextPeer(null) === null && outbox.held().length === 0;
    return isIdle && process.open === 0 && isRepaired;
  }

  async #handle(process: Process): Promise<void> {
    for await (const message of process.agent.inbox()) {
      if (process.isDead) return;
      const given = this.#give(message, process);
      if (this.#world.chance.happens(SLOW_PROBABILITY)) await delay(this.#world.chance.below(SLOW_MS_MAX));
      await message.ack();
      // What a dead process still does has no effect.
      if (process.isDead) return;
      given.handledAt = Date.now();
    }
  }

  #give(message: InboxMessage, process: Process): Given {
    const text = message.text();
    const before = this.#given.get(text);
    if (before !== undefined) {
      if (before.messageId !== message.id) throw new Broken("a content was given to the application under two ids");
      if (before.handledAt !== null) throw new Broken("a message that was handled was given again");
      if (before.process === process) throw new Broken("a message was given twice to one process");
    }
    const given: Given = { messageId: message.id, process, handledAt: null };
    this.#given.set(text, given);
    this.everGiven.add(text);
    return given;
  }

  async #listen(process: Process): Promise<void> {
    for await (const problem of process.agent.problems()) if (!process.isDead) this.#world.onProblem(this, problem);
  }

  async #hear(process: Process): Promise<void> {
    for await (const { messageId, state, code } of process.agent.receipts()) {
      if (!process.isDead && state !== "delivered") this.ends.set(messageId, code ?? state);
    }
  }

  /** What goes wrong in a process that lives is a broken law; what stops with it is not. */
  #mind(process: Process, work: Promise<unknown>): void {
    work.catch((error) => {
      const isExpected =
        (error instanceof AgentStopped && error.code === "closed") ||
        (error instanceof MessageDiscarded && error.code === EXPIRED);
      if (process.isDead || isExpected) return;
      this.#world.fail(error);
    });
  }
}

export interface Spoken {
  readonly text: string;
  readonly from: Persona;
  readonly toId: string;
  readonly messageId: string;
}

/** A session, as the service saw it begin. */
interface Begun {
  readonly fromId: string;
  readonly toId: string;
  readonly at: number;
  readonly oneTimeId: string | null;
  readonly kemId: string | null;
  isAccepted: boolean;
}

export class World {
  readonly time: SimulatedTime;
  readonly service: SimulatedService;
  readonly chance: Chance;
  readonly personas: readonly Persona[];
  readonly tally: Tally = emptyTally();
  readonly #mutant: Mutant;
  /** All that was said by applications, and stored or not. */
  readonly spoken: Spoken[] = [];
  readonly #begun = new Map<string, Begun>();
  /** Which message used a key: by session, direction, ratchet key and counter. */
  readonly #keysUsed = new Map<string, string>();
  readonly #oneTimeUsed = new Map<string, string>();
  readonly #forged = new Set<string>();
  /** Pairs of which one side lost state: what does not open between the two from then on is no fault. */
  readonly #shaken = new Set<string>();
  readonly #taken = createHash("sha256");
  #texts = 0;
  #broken: unknown = null;

  constructor({
    time,
    chance,
    accounts,
    sleepers,
    mutant = {},
  }: {
    readonly time: SimulatedTime;
    readonly chance: Chance;
    readonly accounts: Accounts;
    readonly sleepers: readonly Sleeper[];
    readonly mutant?: Mutant;
  }) {
    this.time = time;
    this.chance = chance;
    this.#mutant = mutant;
    this.service = new SimulatedService(chance, accounts);
    mutant.service?.(this.service);
    this.service.witness = {
      onTaken: (message, messageId) => this.#onTaken(message, messageId),
      onEnded: (message) => this.#onEnded(message),
      onRetryRequested: () => {
        this.tally.retryRequests += 1;
      },
    };
    this.personas = sleepers.map((sleeper) => new Persona(this, sleeper));
  }

  persona(index: number): Persona {
    return this.personas[index % this.personas.length] as Persona;
  }

  /** Every store that is opened, before its agent is. */
  watch(store: Store, owner: Persona): void {
    this.#mutant.store?.(store, this, owner);
    const { outbox } = store;
    const add = outbox.add.bind(outbox);
    outbox.add = (message) => {
      const { messageId, recipientId, isControl, repairs, content } = message;
      if (repairs !== null) this.tally.repaired += 1;
      if (isControl) this.tally.rekeys += 1;
      if (!isControl && repairs === null) {
        const text = Buffer.from(content.body).toString();
        this.spoken.push({ text, from: owner, toId: recipientId, messageId });
      }
      add(message);
    };
  }

  fail(error: unknown): void {
    this.#broken ??= error;
  }

  throwIfBroken(): void {
    if (this.#broken !== null) throw this.#broken;
  }

  say(from: Persona, to: Persona): void {
    if (from === to || !from.isRunning) return;
    this.#texts += 1;
    from.say(to, `text ${this.#texts}`);
  }

  async forget(one: Persona, other: Persona): Promise<void> {
    if (one === other || !one.isRunning) return;
    this.#shaken.add(pairOf(one.id, other.id));
    await one.forget(other);
  }

  async rollBack(one: Persona): Promise<void> {
    for (const other of this.personas) this.#shaken.add(pairOf(one.id, other.id));
    await one.rollBack();
  }

  /** Somebody puts into the mailbox what its sender never sent, made from what it did send; or that again. */
  forge(to: Persona): void {
    const known = [...this.service.messages.values()].filter(({ recipientId }) => recipientId === to.id);
    const message = this.chance.choose(known);
    if (message === null) return;
    const envelope = decodeEnvelope(message.bytes);
    const { senderId } = message;
    if (this.chance.happens(0.3)) {
      this.service.put(to.id, { kind: "message", senderId, itemId: envelope.messageId, body: message.bytes });
      return;
    }
    const forged = this.#forgeryOf(envelope);
    this.#forged.add(forged.messageId);
    this.service.put(to.id, { kind: "message", senderId, itemId: forged.messageId, body: encodeEnvelope(forged) });
  }

  /** The network heals, everybody comes back, everything comes to rest; everybody speaks with everybody once more; and all is well. */
  async quieten(): Promise<void> {
    this.service.weather = CALM;
    this.service.isAway = false;
    for (const persona of this.personas) await persona.start();
    this.service.cut();
    await this.#rest();
    // The first exchange may find out that sessions are lost, and the second settle on one of those that took their place.
    for (let exchanges = 0; exchanges === 0 || !this.#isAgreed(); exchanges++) {
      if (exchanges === EXCHANGES_MAX) throw new Broken("two agents do not agree on one session");
      await this.#exchange();
    }
    this.#checkMessages();
    for (const session of this.#begun.values()) this.#checkUsed(session);
    await this.#checkPrekeys();
    this.throwIfBroken();
  }

  end(): Promise<void> {
    for (const persona of this.personas) persona.kill();
    return this.time.run(20);
  }

  /** Of all that the service has taken. Once. */
  digest(): string {
    return this.#taken.digest("hex");
  }

  onProblem(persona: Persona, problem: Problem): void {
    if (problem.type === "store-rolled-back" || problem.type === "prekeys-replaced") {
      if (persona.rolledBackAt === null) this.fail(new Broken(`${problem.type} of a store that was not rolled back`));
      if (problem.type === "store-rolled-back") this.tally.rollbacksFound += 1;
      else this.tally.prekeysReplaced += 1;
    }
    if (problem.type !== "not-opened") return;
    const { senderId, itemId, code } = problem.item;
    const isForged = this.#forged.has(itemId);
    if (isForged) this.tally.forgeriesRefused += 1;
    if (isForged || this.#shaken.has(pairOf(persona.id, senderId))) return;
    this.fail(new Broken(`a message did not open, and nobody had lost anything: ${code}`));
  }

  async #rest(): Promise<void> {
    // Repairs wait for an hour at most, and for what the service limits per hour.
    const end = Date.now() + REST_MS_MAX;
    for (let ms = 250; !this.#isQuiet(); ms = Math.min(ms * 2, 60_000)) {
      if (Date.now() > end) throw new Broken(`it does not come to rest: ${this.#unrest()}`);
      await this.time.run(ms);
      this.throwIfBroken();
    }
  }

  #isQuiet(): boolean {
    return this.personas.every((persona) => persona.isQuiet() && this.service.account(persona.id).mailbox.length === 0);
  }

  #unrest(): string {
    return this.personas
      .map((persona, index) => {
        const { mailbox } = this.service.account(persona.id);
        return `agent ${index}: ${persona.isQuiet() ? "quiet" : "busy"}, ${mailbox.length} in its mailbox`;
      })
      .join("; ");
  }

  #pairs(): [Persona, Persona][] {
    const talked = new Set(this.spoken.map(({ from, toId }) => pairOf(from.id, toId)));
    return this.personas.flatMap((one, index) =>
      this.personas
        .slice(index + 1)
        .filter((other) => talked.has(pairOf(one.id, other.id)))
        .map((other): [Persona, Persona] => [one, other]),
    );
  }

  #checkMessages(): void {
    for (const { text, from, toId, messageId } of this.spoken) {
      // Never stored, or by a state that was rolled back.
      const status = from.store.outbox.status(messageId);
      if (status === null || status.code === EXPIRED) continue;
      this.tally.messages += 1;
      const to = this.personas.find(({ id }) => id === toId);
      if (to?.everGiven.has(text) !== true) throw new Broken(`a message was lost: ${status.state} ${status.code}`);
      if (status.state !== "acknowledged") throw new Broken(`a message that arrived is ${status.state} ${status.code}`);
    }
  }

  /** Everybody says something to everybody it has talked to, one after the other. */
  async #exchange(): Promise<void> {
    for (const [one, other] of this.#pairs()) this.say(one, other);
    await this.#rest();
    for (const [one, other] of this.#pairs()) this.say(other, one);
    await this.#rest();
  }

  #isAgreed(): boolean {
    return this.#pairs().every(([one, other]) => {
      const active = one.store.peers.get(other.id).active;
      const theirs = other.store.peers.get(one.id).active;
      return active !== null && theirs !== null && Buffer.compare(active.id, theirs.id) === 0;
    });
  }

  #checkUsed({ toId, at, oneTimeId, kemId, isAccepted }: Begun): void {
    const owner = this.personas.find(({ id }) => id === toId);
    if (owner === undefined || !isAccepted || (owner.rolledBackAt ?? 0) > at) return;
    const { prekeys } = owner.store;
    const kem = kemId === null ? null : prekeys.findKem(kemId);
    const isOneTimeLeft = oneTimeId !== null && prekeys.find("one-time", oneTimeId) !== null;
    if (isOneTimeLeft || (kem !== null && !kem.lastResort))
      throw new Broken("a one-time prekey is there after its use");
  }

  /** What an agent did not succeed in telling the service it tells it when it looks after its prekeys next, and replaces all once an hour. */
  async #checkPrekeys(): Promise<void> {
    const end = Date.now() + PREKEYS_WRONG_MS_MAX;
    while (Date.now() < end && this.personas.some((persona) => this.#prekeyFault(persona) !== null)) {
      await this.time.run(UPKEEP_INTERVAL_MS);
    }
    for (const persona of this.personas) {
      const fault = this.#prekeyFault(persona);
      if (fault !== null) throw new Broken(fault);
    }
  }

  #prekeyFault({ id, store: { prekeys } }: Persona): string | null {
    const held = this.service.stock(id);
    const { signedPrekey, lastResort } = this.service.account(id);
    const isHeld =
      prekeys.find("signed", signedPrekey?.id ?? "") !== null && prekeys.findKem(lastResort?.id ?? "") !== null;
    if (!isHeld) return "the service hands out prekeys whose private halves are gone";
    // Equal digests are of rows that are there, private halves and all.
    const digest = prekeyStockDigest(nodePrimitives, prekeys.stock(held));
    return Buffer.compare(digest, held.digest) === 0 ? null : "agent and service hold different prekeys";
  }

  #onTaken(message: Message, messageId: string): void {
    this.#taken.update(message.bytes);
    const { senderId, recipientId } = message;
    const envelope = decodeEnvelope(message.bytes);
    const sessionId = hex(envelope.sessionId);
    const key = `${sessionId}/${senderId}/${hex(envelope.dhPublicKey)}/${envelope.sendCounter}`;
    const before = this.#keysUsed.get(key);
    if (before !== undefined && before !== messageId) this.fail(new Broken("two messages were sealed under one key"));
    this.#keysUsed.set(key, messageId);
    if (envelope.initiation.length > 0 && !this.#begun.has(sessionId)) {
      this.#onBegun(envelope, sessionId, { senderId, recipientId });
    }
  }

  #onBegun(
    envelope: Envelope,
    sessionId: string,
    { senderId, recipientId }: { readonly senderId: string; readonly recipientId: string },
  ): void {
    const initiation = decodeInitiation(envelope.initiation);
    const kemId = initiation.suite === 2 ? initiation.kemPrekeyId : null;
    const { oneTimePrekeyId: oneTimeId } = initiation;
    // Who is rolled back into the middle of a claim gets the same bundle again; the second session is repaired.
    const isRolledBack = this.personas.some(({ id, rolledBackAt }) => id === senderId && rolledBackAt !== null);
    if (oneTimeId !== null && this.#oneTimeUsed.has(oneTimeId) && !isRolledBack) {
      this.fail(new Broken("a one-time prekey was used by two sessions"));
    }
    if (oneTimeId !== null) this.#oneTimeUsed.set(oneTimeId, sessionId);
    const isCrossed = [...this.#begun.values()].some(
      ({ fromId, toId, isAccepted }) => fromId === recipientId && toId === senderId && !isAccepted,
    );
    if (isCrossed) this.tally.crossedStarts += 1;
    this.tally.sessions += 1;
    if (initiation.suite === 2) this.tally.suite2 += 1;
    this.#begun.set(sessionId, {
      fromId: senderId,
      toId: recipientId,
      at: Date.now(),
      oneTimeId,
      kemId,
      isAccepted: false,
    });
  }

  #onEnded(message: Message): void {
    if (message.status !== "acknowledged") return;
    const { sessionId } = decodeEnvelope(message.bytes);
    const session = this.#begun.get(hex(sessionId));
    // An id in whose place another was delivered is acknowledged without having been opened.
    const recipient = this.personas.find(({ id }) => id === message.recipientId);
    const peer = recipient?.isRunning === true ? recipient.store.peers.get(message.senderId) : null;
    const isArchived = peer?.archived.some(({ id }) => Buffer.compare(id, sessionId) === 0) ?? false;
    const isActive = peer?.active !== undefined && peer.active !== null && hex(peer.active.id) === hex(sessionId);
    if (isArchived) this.tally.archivedReceives += 1;
    if (session !== undefined && session.toId === message.recipientId && (isArchived || isActive)) {
      session.isAccepted = true;
    }
  }

  #forgeryOf(envelope: Envelope): Envelope {
    const messageId = makeMessageId(Date.now(), nodeRandom);
    const timestamp = messageIdTime(messageId) ?? 0;
    const forged = { ...envelope, messageId, timestamp };
    switch (this.chance.below(4)) {
      case 0:
        return { ...forged, sendCounter: envelope.sendCounter + 1 + this.chance.below(5) };
      case 1:
        return { ...forged, dhPublicKey: this.chance.bytes(32) };
      case 2:
        return { ...forged, initiation: new Uint8Array(0) };
      default:
        return forged;
    }
  }
}

const EXCHANGES_MAX = 3;

const PREKEYS_WRONG_MS_MAX = 90 * 60_000;

/** Longer than an hour, in which repairs begin one session, and the service takes 60 requests for repair. */
const REST_MS_MAX = 6 * 3_600_000;

function pairOf(one: string, other: string): string {
  return one < other ? `${one}/${other}` : `${other}/${one}`;
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("hex");
}
