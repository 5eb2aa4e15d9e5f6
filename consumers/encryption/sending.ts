/**
 * A step of encryption: from commands to envelopes, and to the states they leave behind.
 *
 * Everything a step needs is looked up in one statement each. Bundles are claimed before rows are locked, where it can be known that one is needed: the
 * claim has a transaction of its own, and its request is named after the command, so that a step that is done again gets the same one.
 */
import { EMPTY, equalBytes } from "../../protocol/bytes.ts";
import { encodeEnvelope } from "../../protocol/envelope.ts";
import type { Frame } from "../../protocol/frame.ts";
import type { Identity } from "../../protocol/identity.ts";
import {
  initiate,
  isRekeyAnswerOwed,
  lastingSession,
  type Peer,
  type Sealed,
  sealMessage,
  sealRekeyAnswer,
  sendingSession,
} from "../../protocol/peer.ts";
import type { Bundle } from "../../protocol/prekeys.ts";
import { nodePrimitives, nodeRandom } from "../../protocol/primitives/node.ts";
import { drawAhead } from "../../protocol/primitives/primitives.ts";
import { Refusal } from "../../protocol/refusal.ts";
import { makeRetryRequest, retryRequestToJson } from "../../protocol/retry-request.ts";
import type { Clock } from "../../protocol/session.ts";
import type { MessageSend, ReceiptItem } from "../../schemas/values.ts";
import type { DoneCommand, NewCommand, RecalledCommand } from "../../store/custody/commands.ts";
import { type CustodyKeys, openStateOrLost } from "../../store/custody/custody-keys.ts";
import type { DiscardedCommand } from "../../store/custody/discarded.ts";
import type { StateCache } from "../../store/custody/state-cache.ts";
import { type LockedState, pairName, type StateMark, type StoredState, sealOf } from "../../store/custody/states.ts";
import type { Ingress } from "../../store/ingress.ts";
import { messageName } from "../../store/messages.ts";
import type { Tx } from "../../store/tx.ts";
import type { Emit, Inbound } from "../../streams/consumer.ts";
import { answerRequest, saidInAnswer } from "./answering.ts";
import { distinct, pairOf } from "./commands.ts";
import { contentOrFault, firstSaid, REKEY, recallContents, type Said, saidOrNull } from "./contents.ts";
import { type Discard, discard, discardByRule, encryptedEvent, reusedEvent, settledEvent } from "./events.ts";
import { rulesAgainst } from "./permissions.ts";
import { Repairs } from "./repairs.ts";

export interface EncryptionDeps {
  readonly keys: Pick<CustodyKeys, "openIdentity" | "openState" | "sealState" | "sealSaid" | "openSaid" | "commandMac">;
  readonly ingress: Pick<Ingress, "open">;
  readonly states: Pick<StateCache, "find" | "prepare">;
  /** A bundle for one initiation; the same for the same request. Null when the target has none. Throws `Unavailable`. */
  readonly claim: (claim: BundleClaim) => Promise<Bundle | null>;
  /** How long the encryption of one message took, from its sealed content to its envelope. */
  readonly observeSeconds: (seconds: number) => void;
  /** Where the states of so many pairs of a step were found. */
  readonly countStates: (found: StateSource, pairs: number) => void;
  /** ms since the epoch. */
  readonly now: () => number;
}

/** `stale`: a cache had another than the row. `nowhere`: no cache had one. Both are read from PostgreSQL. */
export type StateSource = "process" | "redis" | "stale" | "nowhere";

export interface BundleClaim {
  readonly claimerId: string;
  readonly targetId: string;
  readonly requestId: string;
}

type Command = Inbound<MessageSend>;

const random = drawAhead(nodeRandom);

/** How large content is was decided before; a record cannot be larger than this. */
const anySize = { ciphertextBytesMax: 1024 * 1024 };

/** A pair's row, and its state as it is now. */
interface Current {
  readonly ownerId: string;
  readonly version: number;
  readonly generation: number;
  readonly peer: Peer;
}

/** A state as it was before the row was locked. */
interface Seen extends StateMark {
  readonly peer: Peer;
  readonly from: "process" | "redis" | "postgres";
}

/** What one record led to; `made` is null when nothing leaves because of it. `discarded`: it never will, unless it is sent again. */
interface Outcome {
  readonly emits: readonly Emit[];
  readonly made: NewCommand | null;
  readonly discarded?: DiscardedCommand;
}

const NOTHING: Outcome = { emits: [], made: null };

const ANSWERED = { outcome: "acknowledged", code: null } as const;

/** @throws Refusal when one record is at fault; Unavailable */
export async function encryptAll(
  deps: EncryptionDeps,
  batch: readonly Command[],
  tx: Pick<Tx, "custody">,
): Promise<readonly Emit[]> {
  const values = batch.map(({ value }) => value);
  const found = await tx.custody.findCommands(distinct(values, messageName));
  const done = new Map(found.map((command) => [messageName(command), command]));
  const undone = batch.filter(({ value }) => !done.has(messageName(value)));
  const ruleAgainst = await rulesAgainst(
    undone.map(({ value }) => value),
    tx,
  );
  const fresh = undone.filter(({ value }) => ruleAgainst(value) === null);
  const recalled = await recallContents(deps, values, done);
  for (const command of recalled) done.set(messageName(command), command);
  const step = await Step.begin(deps, { batch, fresh, recalled }, tx);
  const emits: Emit[] = [];
  const made: NewCommand[] = [];
  const discarded: DiscardedCommand[] = [];
  for (const record of batch) {
    const before = done.get(messageName(record.value));
    const rule = before === undefined ? ruleAgainst(record.value) : null;
    let outcome: Outcome;
    if (rule !== null) outcome = outcomeOf(discardByRule(record, rule));
    else outcome = before === undefined ? await step.encrypt(record) : await step.repeat(record, before);
    emits.push(...outcome.emits);
    if (outcome.discarded !== undefined) discarded.push(outcome.discarded);
    if (outcome.made === null) continue;
    done.set(messageName(outcome.made), outcome.made);
    made.push(outcome.made);
  }
  await step.write(made);
  await tx.custody.writeDiscarded(discarded);
  return emits;
}

function outcomeOf({ emit, row }: Discard): Outcome {
  return { emits: [emit], made: null, discarded: row };
}

class Step {
  readonly #deps: EncryptionDeps;
  readonly #tx: Pick<Tx, "custody">;
  readonly #clock: Clock;
  readonly #identities: ReadonlyMap<string, Uint8Array>;
  readonly #bundles: Map<string, Bundle | null>;
  readonly #current: Map<string, Current>;
  readonly #repairs: Repairs;
  readonly #changed = new Set<string>();
  readonly #recalled: Map<string, RecalledCommand>;

  private constructor(
    deps: EncryptionDeps,
    tx: Pick<Tx, "custody">,
    clock: Clock,
    {
      identities,
      bundles,
      current,
      repairs,
      recalled,
    }: {
      identities: ReadonlyMap<string, Uint8Array>;
      bundles: Map<string, Bundle | null>;
      current: Map<string, Current>;
      repairs: Repairs;
      recalled: readonly RecalledCommand[];
    },
  ) {
    this.#deps = deps;
    this.#tx = tx;
    this.#clock = clock;
    this.#identities = identities;
    this.#bundles = bundles;
    this.#current = current;
    this.#repairs = repairs;
    this.#recalled = new Map(recalled.map((command) => [messageName(command), command]));
  }

  /** `fresh`: those of the batch that are not done; `recalled`: of those that are, what they said. */
  static async begin(
    deps: EncryptionDeps,
    {
      batch,
      fresh,
      recalled,
    }: {
      readonly batch: readonly Command[];
      readonly fresh: readonly Command[];
      readonly recalled: readonly RecalledCommand[];
    },
    tx: Pick<Tx, "custody">,
  ): Promise<Step> {
    const clock = { now: deps.now(), random };
    const values = fresh.map(({ value }) => value);
    // To ask for something no session is needed.
    const sealing = values.filter(({ kind }) => kind !== "retry");
    const pairs = distinct(sealing.map(pairOf), pairName);
    const owners = [...new Set(values.map(({ senderId }) => senderId))];
    const cached = await deps.states.find(pairs);
    const isCached = new Set(cached.map(pairName));
    const [identities, read] = await Promise.all([
      tx.custody.findIdentities(owners),
      tx.custody.findStates(pairs.filter((pair) => !isCached.has(pairName(pair)))),
    ]);
    const seen = new Map([...cached, ...openAll(deps, read)].map((state) => [pairName(state), state]));
    const bundles = new Map<string, Bundle | null>();
    for (const value of values) {
      const name = pairName(pairOf(value));
      const peer = seen.get(name)?.peer;
      const hasSession = peer !== undefined && sendingSession(peer, clock.now) !== null;
      // Named after the first of the pair, which is the first of it as well when the step is done in halves.
      const isWanted = value.kind === "message" && !hasSession && !bundles.has(name);
      if (isWanted) bundles.set(name, await deps.claim(claimOf(value)));
    }
    const areThere = cached.length + read.length === pairs.length;
    const locked = await tx.custody.lockStates(pairs, { areThere, known: [...seen.values()] });
    const current = currentOf(deps, locked, seen);
    const repairs = await Repairs.begin(
      tx.custody,
      batch.map(({ value }) => value),
      clock.now,
    );
    for (const command of recalled) repairs.keep(command);
    return new Step(deps, tx, clock, { identities, bundles, current, repairs, recalled });
  }

  /** @throws Refusal when the record can never be encrypted and nobody but an operator can say why */
  async encrypt(record: Command): Promise<Outcome> {
    const { value } = record;
    if (value.kind === "repair" && !this.#canSpeak(value.senderId)) return this.#ended(record, ANSWERED);
    const me = this.#identityOf(value.senderId);
    if (value.kind === "retry") return this.#ask(me, record);
    const peer = this.#current.get(pairName(pairOf(value)))?.peer;
    if (peer === undefined) throw new Error("a pair of the step was not locked");
    switch (value.kind) {
      case "message":
        return this.#encryptMessage(me, peer, record);
      case "rekey": {
        const sealed = this.#answerRekey(me, peer, value);
        return sealed === null ? NOTHING : this.#leave(record, sealed, firstSaid(this.#deps, value, REKEY));
      }
      case "repair":
        return this.#repair(me, peer, record);
    }
  }

  /** A command that is done leads to the same again; another content under its id does not. */
  async repeat(record: Command, before: DoneCommand): Promise<Outcome> {
    const { value } = record;
    if (value.kind === "message") {
      // Sealed anew the same content is other bytes: only opened it can be compared. What does not open (any more) is not known to be the same.
      const said = await saidOrNull(this.#deps, value);
      const isSame = said === null ? before.hmac === null : before.hmac !== null && equalBytes(before.hmac, said.hmac);
      if (!isSame) return { emits: [reusedEvent(record, said?.hmac ?? null)], made: null };
    }
    if (value.kind === "repair") this.#recallAnswer(value, before);
    return {
      emits: [encryptedEvent(record, before.envelope, before.delegation), ...this.#settled(record)],
      made: null,
    };
  }

  /** The content moves to an answer that a recovery brought back, as it did when that was sealed. */
  #recallAnswer(value: MessageSend, before: DoneCommand): void {
    if (before.hmac !== null || this.#recalled.has(messageName(value))) return;
    const command = { ...before, ...saidInAnswer(this.#deps.keys, this.#repairs, value) };
    this.#recalled.set(messageName(value), command);
    this.#repairs.keep(command);
  }

  async write(made: readonly NewCommand[]): Promise<void> {
    const states = [...this.#changed].flatMap((name) => {
      const current = this.#current.get(name);
      if (current === undefined) return [];
      const { ownerId, peer, version: readVersion, generation } = current;
      const version = readVersion + 1;
      const state = this.#deps.keys.sealState(ownerId, peer, version);
      return [{ ownerId, peerId: peer.agentId, readVersion, version, generation, state, peer }];
    });
    this.#deps.states.prepare(states);
    // One after the other: a statement that is sent after the other one's failure would be sent behind the rollback, and stay.
    // New rows first: a day that is made for them is not seen by a transaction that has changed the table before.
    await this.#tx.custody.writeCommands(made);
    await this.#tx.custody.recallCommands([...this.#recalled.values()]);
    await this.#tx.custody.changeKept(this.#repairs.changes());
    await this.#tx.custody.writeStates(states);
  }

  async #encryptMessage(me: Identity, peer: Peer, record: Command): Promise<Outcome> {
    const startedAt = performance.now();
    const frame = await contentOrFault(this.#deps, record.value);
    if (typeof frame === "string") return outcomeOf(discard(record, frame));
    const sealed = await this.#seal(me, peer, record.value, frame);
    if (typeof sealed === "string") return outcomeOf(discard(record, sealed));
    const outcome = this.#leave(record, sealed, firstSaid(this.#deps, record.value, frame));
    this.#deps.observeSeconds((performance.now() - startedAt) / 1_000);
    return outcome;
  }

  /** The state moves on, and the envelope leaves with it. */
  #leave(
    { value, ...record }: Command,
    { peer, envelope }: Sealed,
    said: Said,
    delegation = value.delegation ?? [],
  ): Outcome {
    const name = pairName(pairOf(value));
    this.#current.set(name, { ...(this.#current.get(name) as Current), peer });
    this.#changed.add(name);
    const { senderId, messageId } = value;
    const made = { senderId, messageId, envelope: encodeEnvelope(envelope, anySize), delegation, ...said };
    return { emits: [encryptedEvent({ value, ...record }, made.envelope, delegation)], made };
  }

  /** The request leaves, and the end of the message that it is about, together: its successor is under way, or as good as. */
  #ask(me: Identity, record: Command): Outcome {
    const failed = this.#repairs.failed(record.value);
    if (failed === null) return NOTHING;
    const request = makeRetryRequest(nodePrimitives, me, failed, this.#clock.now);
    const envelope = Buffer.from(JSON.stringify(retryRequestToJson(request)));
    const { senderId, messageId } = record.value;
    const said = { hmac: EMPTY, content: null, firstId: null, repairs: 0 };
    const made = { senderId, messageId, envelope, delegation: [], ...said };
    return { emits: [encryptedEvent(record, envelope, made.delegation), ...this.#settled(record)], made };
  }

  async #repair(me: Identity, peer: Peer, record: Command): Promise<Outcome> {
    const { value } = record;
    const answer = await answerRequest(
      {
        ...{ keys: this.#deps.keys, repairs: this.#repairs, me, clock: this.#clock },
        claim: () => this.#deps.claim(claimOf(value)),
        withSession: (known) => this.#withSession(me, known, value),
      },
      peer,
      value,
    );
    switch (answer.type) {
      case "nothing":
        return NOTHING;
      case "ended":
        return this.#ended(record, answer);
      case "sealed": {
        const { emits, made } = this.#leave(record, answer.sealed, answer.said, answer.delegation);
        return { emits: [...emits, ...this.#settled(record)], made };
      }
    }
  }

  #ended(record: Command, end: Pick<ReceiptItem, "outcome" | "code">): Outcome {
    return { emits: [settledEvent(record, record.value.aboutId ?? "", end)], made: null };
  }

  /** The end of the item that a command of Repair is about. */
  #settled(record: Command): readonly Emit[] {
    const { kind, aboutId } = record.value;
    if (aboutId === null) return [];
    if (kind === "repair") return [settledEvent(record, aboutId, ANSWERED)];
    const failed = kind === "retry" ? this.#repairs.failed(record.value) : null;
    return failed === null ? [] : [settledEvent(record, aboutId, { outcome: "refused", code: failed.code })];
  }

  /** A code when the message is discarded. */
  async #seal(me: Identity, peer: Peer, value: MessageSend, frame: Frame): Promise<Sealed | string> {
    try {
      const ready = await this.#withSession(me, peer, value);
      if (ready === null) return "prekeys-unavailable";
      return sealMessage(nodePrimitives, me, ready, { messageId: value.messageId, ...frame }, this.#clock);
    } catch (error) {
      // The recipient's bundle does not hold.
      if (error instanceof Refusal) return error.code;
      throw error;
    }
  }

  /** The peer with a session that sends; null when there is none to be had. A long chain goes on where no bundle is, or none that holds. */
  async #withSession(me: Identity, peer: Peer, value: MessageSend): Promise<Peer | null> {
    const { now } = this.#clock;
    if (sendingSession(peer, now) !== null) return peer;
    const lasting = lastingSession(peer, now) === null ? null : peer;
    const bundle = await this.#bundleFor(value);
    if (bundle === null) return lasting;
    try {
      return initiate(nodePrimitives, me, peer, bundle, this.#clock);
    } catch (error) {
      if (error instanceof Refusal && lasting !== null) return lasting;
      throw error;
    }
  }

  /** Each is used once. */
  async #bundleFor(value: MessageSend): Promise<Bundle | null> {
    const name = pairName(pairOf(value));
    const ahead = this.#bundles.get(name);
    this.#bundles.delete(name);
    return ahead === undefined ? this.#deps.claim(claimOf(value)) : ahead;
  }

  #answerRekey(me: Identity, peer: Peer, { messageId, sessionId }: MessageSend): Sealed | null {
    if (!isRekeyAnswerOwed(peer, sessionId)) return null;
    return sealRekeyAnswer(nodePrimitives, me, peer, { sessionId, messageId }, this.#clock);
  }

  /** An agent whose keys are destroyed says nothing anew, and no peer's request can change that. */
  #canSpeak(agentId: string): boolean {
    try {
      this.#identityOf(agentId);
      return true;
    } catch (error) {
      if (error instanceof Refusal) return false;
      throw error;
    }
  }

  #identityOf(agentId: string): Identity {
    const sealed = this.#identities.get(agentId);
    if (sealed === undefined) throw new Refusal("key-unknown");
    return this.#deps.keys.openIdentity(agentId, sealed);
  }
}

/** Those that have one. */
function openAll({ keys }: EncryptionDeps, states: readonly StoredState[]): readonly Seen[] {
  return states.flatMap((stored) => {
    const { ownerId, peerId, version, state } = stored;
    if (state === null) return [];
    const peer = openStateOrLost(keys, stored);
    return [{ ownerId, peerId, version, seal: sealOf(state), peer, from: "postgres" as const }];
  });
}

/** What was seen before the lock is the present state where the row holds the very same. */
function currentOf(
  { keys, countStates }: EncryptionDeps,
  locked: readonly LockedState[],
  seen: ReadonlyMap<string, Seen>,
): Map<string, Current> {
  const counts = new Map<StateSource, number>();
  const current = new Map<string, Current>();
  for (const stored of locked) {
    const name = pairName(stored);
    const before = seen.get(name);
    const from = before?.from ?? "postgres";
    const source = from === "postgres" ? "nowhere" : stored.isKnown ? from : "stale";
    counts.set(source, (counts.get(source) ?? 0) + 1);
    const peer = stored.isKnown && before !== undefined ? before.peer : openStateOrLost(keys, stored);
    current.set(name, { ownerId: stored.ownerId, version: stored.version, generation: stored.generation, peer });
  }
  for (const [source, pairs] of counts) countStates(source, pairs);
  return current;
}

function claimOf({ senderId, recipientId, messageId }: MessageSend): BundleClaim {
  return { claimerId: senderId, targetId: recipientId, requestId: `command:${messageId}` };
}
