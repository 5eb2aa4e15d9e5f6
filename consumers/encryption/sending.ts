/**
 * A step of encryption: from commands to envelopes, and to the states they leave behind.
 *
 * Everything a step needs is looked up in one statement each. Bundles are claimed before rows are locked, where it can be known that one is needed: the
 * claim has a transaction of its own, and its request is named after the command, so that a step that is done again gets the same one.
 */
import { equalBytes } from "../../protocol/bytes.ts";
import { encodeEnvelope } from "../../protocol/envelope.ts";
import { decodeFrame, type Frame } from "../../protocol/frame.ts";
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
import { Refusal } from "../../protocol/refusal.ts";
import type { Clock } from "../../protocol/session.ts";
import type { MessageSend } from "../../schemas/values.ts";
import type { DoneCommand } from "../../store/custody/commands.ts";
import type { CustodyKeys } from "../../store/custody/custody-keys.ts";
import type { StoredState } from "../../store/custody/states.ts";
import type { Ingress } from "../../store/ingress.ts";
import type { Tx } from "../../store/tx.ts";
import type { Emit, Inbound } from "../../streams/consumer.ts";
import { distinct, nameOf, pairName, pairOf } from "./commands.ts";
import { discardedEvent, encryptedEvent } from "./events.ts";

export interface EncryptionDeps {
  readonly keys: Pick<CustodyKeys, "openIdentity" | "openState" | "sealState">;
  readonly ingress: Pick<Ingress, "open">;
  /** A bundle for one initiation; the same for the same request. Null when the target has none. Throws `Unavailable`. */
  readonly claim: (claim: BundleClaim) => Promise<Bundle | null>;
  /** How long the encryption of one message took, from its sealed content to its envelope. */
  readonly observeSeconds: (seconds: number) => void;
  /** ms since the epoch. */
  readonly now: () => number;
}

export interface BundleClaim {
  readonly claimerId: string;
  readonly targetId: string;
  readonly requestId: string;
}

type Command = Inbound<MessageSend>;

/** How large content is was decided at ingress; a record cannot be larger than this. */
const anySize = { ciphertextBytesMax: 1024 * 1024 };

/** A pair's row, and its state as it is now. */
interface Current {
  readonly stored: StoredState;
  readonly peer: Peer;
}

/** What one record led to. */
type Outcome =
  | { readonly type: "sealed"; readonly envelope: Uint8Array }
  | { readonly type: "discarded"; readonly code: string }
  | { readonly type: "nothing" };

/** @throws Refusal when one record is at fault; Unavailable */
export async function encryptAll(
  deps: EncryptionDeps,
  batch: readonly Command[],
  tx: Pick<Tx, "custody">,
): Promise<readonly Emit[]> {
  const keys = distinct(
    batch.map(({ value }) => value),
    nameOf,
  );
  const done = new Map((await tx.custody.findCommands(keys)).map((command) => [nameOf(command), command]));
  const fresh = batch.filter(({ value }) => !done.has(nameOf(value)));
  const step = await Step.begin(deps, fresh, tx);
  const emits: Emit[] = [];
  const made: DoneCommand[] = [];
  for (const record of batch) {
    const before = done.get(nameOf(record.value));
    if (before !== undefined) {
      emits.push(repeated(record, before));
      continue;
    }
    const outcome = await step.encrypt(record);
    if (outcome.type === "discarded") emits.push(discardedEvent(record, outcome.code));
    if (outcome.type !== "sealed") continue;
    const { senderId, messageId, hmac } = record.value;
    const command = { senderId, messageId, hmac, envelope: outcome.envelope };
    done.set(nameOf(command), command);
    made.push(command);
    emits.push(encryptedEvent(record, outcome.envelope));
  }
  await step.write(made);
  return emits;
}

function repeated(record: Command, { hmac, envelope }: DoneCommand): Emit {
  return equalBytes(hmac, record.value.hmac) ? encryptedEvent(record, envelope) : discardedEvent(record, "id-reused");
}

class Step {
  readonly #deps: EncryptionDeps;
  readonly #tx: Pick<Tx, "custody">;
  readonly #clock: Clock;
  readonly #identities: ReadonlyMap<string, Uint8Array>;
  readonly #bundles: Map<string, Bundle | null>;
  readonly #current: Map<string, Current>;
  readonly #changed = new Set<string>();

  private constructor(
    deps: EncryptionDeps,
    tx: Pick<Tx, "custody">,
    clock: Clock,
    {
      identities,
      bundles,
      current,
    }: {
      identities: ReadonlyMap<string, Uint8Array>;
      bundles: Map<string, Bundle | null>;
      current: Map<string, Current>;
    },
  ) {
    this.#deps = deps;
    this.#tx = tx;
    this.#clock = clock;
    this.#identities = identities;
    this.#bundles = bundles;
    this.#current = current;
  }

  static async begin(deps: EncryptionDeps, fresh: readonly Command[], tx: Pick<Tx, "custody">): Promise<Step> {
    const clock = { now: deps.now(), random: nodeRandom };
    const values = fresh.map(({ value }) => value);
    const pairs = distinct(values.map(pairOf), pairName);
    const owners = [...new Set(pairs.map(({ ownerId }) => ownerId))];
    const [identities, seen] = await Promise.all([tx.custody.findIdentities(owners), tx.custody.findStates(pairs)]);
    const peeked = currentOf(deps, seen, new Map());
    const bundles = new Map<string, Bundle | null>();
    for (const value of values) {
      const name = pairName(pairOf(value));
      const peer = peeked.get(name)?.peer;
      const hasSession = peer !== undefined && sendingSession(peer, clock.now) !== null;
      // Named after the first of the pair, which is the first of it as well when the step is done in halves.
      const isWanted = value.kind === "message" && !hasSession && !bundles.has(name);
      if (isWanted) bundles.set(name, await deps.claim(claimOf(value)));
    }
    const locked = await tx.custody.lockStates(pairs, { areThere: seen.length === pairs.length });
    return new Step(deps, tx, clock, { identities, bundles, current: currentOf(deps, locked, peeked) });
  }

  /** @throws Refusal when the record can never be encrypted and nobody but an operator can say why */
  async encrypt({ value }: Command): Promise<Outcome> {
    const startedAt = performance.now();
    const name = pairName(pairOf(value));
    const current = this.#current.get(name);
    if (current === undefined) throw new Error("a pair of the step was not locked");
    const me = this.#identityOf(value.senderId);
    const sealed =
      value.kind === "rekey" ? this.#answerRekey(me, current.peer, value) : await this.#seal(me, current.peer, value);
    if (sealed === null) return { type: "nothing" };
    if (typeof sealed === "string") return { type: "discarded", code: sealed };
    this.#current.set(name, { ...current, peer: sealed.peer });
    this.#changed.add(name);
    const envelope = encodeEnvelope(sealed.envelope, anySize);
    this.#deps.observeSeconds((performance.now() - startedAt) / 1_000);
    return { type: "sealed", envelope };
  }

  async write(made: readonly DoneCommand[]): Promise<void> {
    const states = [...this.#changed].flatMap((name) => {
      const current = this.#current.get(name);
      if (current === undefined) return [];
      const { ownerId, peerId, version } = current.stored;
      const state = this.#deps.keys.sealState(ownerId, current.peer, version + 1);
      return [{ ownerId, peerId, readVersion: version, state }];
    });
    // One after the other: a statement that is sent after the other one's failure would be sent behind the rollback, and stay.
    await this.#tx.custody.writeCommands(made);
    await this.#tx.custody.writeStates(states);
  }

  /** A code when the message is discarded. */
  async #seal(me: Identity, peer: Peer, value: MessageSend): Promise<Sealed | string> {
    const frame = await openContent(this.#deps, value);
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

  /** The peer with a session that sends; null when there is none to be had. */
  async #withSession(me: Identity, peer: Peer, value: MessageSend): Promise<Peer | null> {
    const { now } = this.#clock;
    if (sendingSession(peer, now) !== null) return peer;
    const bundle = await this.#bundleFor(value);
    if (bundle === null) return lastingSession(peer, now) === null ? null : peer;
    return initiate(nodePrimitives, me, peer, bundle, this.#clock);
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

  #identityOf(agentId: string): Identity {
    const sealed = this.#identities.get(agentId);
    if (sealed === undefined) throw new Refusal("key-unknown");
    return this.#deps.keys.openIdentity(agentId, sealed);
  }
}

/** What was opened before the lock and has not changed since is not opened again. */
function currentOf(
  { keys }: EncryptionDeps,
  states: readonly StoredState[],
  before: ReadonlyMap<string, Current>,
): Map<string, Current> {
  return new Map(
    states.map((stored) => {
      const known = before.get(pairName(stored));
      const peer = known?.stored.version === stored.version ? known.peer : keys.openState(stored);
      return [pairName(stored), { stored, peer }];
    }),
  );
}

/** @throws Refusal as `Ingress.open` does, and `malformed` */
async function openContent({ ingress }: EncryptionDeps, value: MessageSend): Promise<Frame> {
  const frame = decodeFrame(await ingress.open(value, value.sealed));
  if (typeof frame === "string") throw new Refusal("malformed");
  return frame;
}

function claimOf({ senderId, recipientId, messageId }: MessageSend): BundleClaim {
  return { claimerId: senderId, targetId: recipientId, requestId: `command:${messageId}` };
}
