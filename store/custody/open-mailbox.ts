/**
 * Opens what waits in the mailbox of an agent of server custody.
 *
 * Promises: opening and what is answered are one transaction: the ratchet moves on, used private halves of prekeys go, content and outcome are kept
 * (sealed), or nothing happens at all; asked again, the same content is answered from what was kept. A state or a prekey that does not open is lost, which
 * its messages bear and no others. It never sends: what is to be sent because of it is for the caller, after the commit, and comes up again with later openings if
 * that is lost, wherever they start. However a page's envelopes are made, it takes some 80 ms of hashing at most: what is left of it comes with the next call.
 *
 * Rows of states are locked in key order, before those of prekeys, and only for senders of whom something is new.
 */
import { decodeFrame, type Frame } from "../../protocol/frame.ts";
import type { Identity } from "../../protocol/identity.ts";
import { DAY_MS, JUMP_MAX } from "../../protocol/limits.ts";
import { messageIdTime } from "../../protocol/message-id.ts";
import { forgetOldInitiations, type Peer } from "../../protocol/peer.ts";
import { nodeRandom } from "../../protocol/primitives/node.ts";
import { type ProtocolCode, Refusal, Unavailable } from "../../protocol/refusal.ts";
import type { Clock } from "../../protocol/session.ts";
import { findSealedIdentities } from "../agents.ts";
import type { SealedCode } from "../at-rest.ts";
import { type ItemKey, type MailboxPage, type PageLimits, readMailbox, type StoredItem } from "../mailbox.ts";
import type { MessageDays } from "../message-days.ts";
import { type MessageKey, messageName } from "../messages.ts";
import { inTransaction, type Postgres, type Queryable } from "../postgres.ts";
import { type CustodyKeys, contentOf, openStateOrLost } from "./custody-keys.ts";
import { findFailed } from "./failed.ts";
import { Failures } from "./failures.ts";
import { type OpenedRow, recallOpened, recallOrForget, writeOpened } from "./opened.ts";
import { CountedPrimitives, openItem, prekeysNamedBy, type Verdict } from "./opening.ts";
import { findPassed } from "./passed.ts";
import { lookUpPrekeys } from "./prekey-lookup.ts";
import { erasePrivatePrekeys, findSignedPrekeys, lockPrivatePrekeys } from "./private-prekeys.ts";
import { lockStates, type StoredState, writeStates } from "./states.ts";

/** Outcomes are kept as long (store/message-days.ts); a sender keeps content to say it anew for 31 days. */
const REMEMBERED_MS_MAX = 40 * DAY_MS;

/** As far as ids of messages may be ahead of the log. */
const AHEAD_MS_MAX = 10 * 60 * 1000;

/**
 * A page ends behind the item with which so many keys have been derived. Counters that any peer may write ask for as many with one envelope, some 40 ms, whether it opens or not: with a
 * hundred of them the process would stand for seconds, and the transaction be idle for so long that PostgreSQL may end it. Less would end pages of honest peers: a hundred first
 * messages derive some 500, and a sender may have lost 1,000.
 */
const DERIVATIONS_MAX = 2 * JUMP_MAX;

/** Of a content alone: that the agent's own keys are there has been proved. */
const UNREADABLE_CODES: ReadonlySet<string> = new Set<SealedCode>(["sealed-damaged", "key-unknown"]);

export interface OpenedMessage extends MessageKey, Frame {
  readonly seq: number;
  /** ms since the epoch, by the sender's clock. */
  readonly sentAt: number;
}

export interface ItemOutcome extends MessageKey {
  readonly seq: number;
}

export interface OpenedMailbox {
  /** By seq. */
  readonly messages: readonly OpenedMessage[];
  /** They stay in the mailbox until encryption has asked for them anew. */
  readonly failed: readonly (ItemOutcome & { readonly code: ProtocolCode })[];
  /** To be acknowledged by whoever asked for the opening: repeats, and messages of the protocol itself. */
  readonly handled: readonly ItemOutcome[];
  /** To be refused by whoever asked: they will never be of use. */
  readonly refused: readonly (ItemOutcome & { readonly code: ProtocolCode })[];
  /** Sessions in which a peer waits for an answer, each once. */
  readonly rekeys: readonly { readonly peerId: string; readonly sessionId: Uint8Array }[];
  /** Failed messages that encryption is to ask for, under these item ids. */
  readonly asks: readonly Asking[];
  /** Where the next call continues. */
  readonly cursor: number;
  readonly lastSeq: number;
}

export interface Asking extends MessageKey {
  readonly requestId: string;
}

export interface OpenMailboxDeps {
  readonly postgres: Postgres;
  /** On connections of their own: openings that hold all others must not wait for one more. */
  readonly days: MessageDays;
  readonly keys: CustodyKeys;
}

export interface OpenRange {
  readonly afterSeq: number;
  readonly limit: number;
  readonly maxBytes: number;
}

/** @throws Unavailable; Refusal of `SealedCode` when the agent's keys are gone */
export async function openMailbox(
  deps: OpenMailboxDeps,
  recipientId: string,
  range: OpenRange,
  now: number,
): Promise<OpenedMailbox> {
  deps.keys.require(recipientId);
  return inTransaction(deps.postgres, async (client) => {
    // Requests of peers are not among them: those that wait for long would keep messages out.
    const { afterSeq, ...page } = await readFrom(client, recipientId, { ...range, kind: "message" });
    // Who turns pages comes by with the last one.
    const passed = page.end ? await findPassed(client, recipientId, afterSeq, now) : [];
    const opener = new MailboxOpener(deps, client, recipientId, { now, random: nodeRandom });
    const { lastToldSeq, ...outcomes } = await opener.open(page.items, passed);
    const isWhole = lastToldSeq === (page.items.at(-1)?.seq ?? 0);
    const cursor = page.end && isWhole ? page.lastSeq : lastToldSeq;
    return { ...outcomes, cursor, lastSeq: page.lastSeq };
  });
}

/** A cursor beyond the mailbox is from before a restore: only from the start is nothing skipped. */
async function readFrom(client: Queryable, recipientId: string, range: PageLimits) {
  const read = async (afterSeq: number): Promise<MailboxPage & { readonly afterSeq: number }> => {
    return { ...(await readMailbox(client, recipientId, { ...range, afterSeq })), afterSeq };
  };
  const page = await read(range.afterSeq);
  return range.afterSeq <= page.lastSeq ? page : read(0);
}

interface Outcomes extends Omit<OpenedMailbox, "cursor" | "lastSeq"> {
  /** Of the last of the items that was opened or known; 0 when there was none. */
  readonly lastToldSeq: number;
}

class MailboxOpener {
  readonly #deps: OpenMailboxDeps;
  readonly #client: Queryable;
  readonly #recipientId: string;
  readonly #clock: Clock;
  readonly #counted = new CountedPrimitives();
  readonly #known = new Map<string, OpenedRow>();
  readonly #made: OpenedRow[] = [];
  readonly #failures: Failures;
  readonly #messages: OpenedMessage[] = [];
  readonly #failed: (ItemOutcome & { readonly code: ProtocolCode })[] = [];
  readonly #handled: ItemOutcome[] = [];
  readonly #refused: (ItemOutcome & { readonly code: ProtocolCode })[] = [];
  readonly #rekeys = new Map<string, { readonly peerId: string; readonly sessionId: Uint8Array }>();

  constructor(deps: OpenMailboxDeps, client: Queryable, recipientId: string, clock: Clock) {
    this.#deps = deps;
    this.#client = client;
    this.#recipientId = recipientId;
    this.#clock = clock;
    this.#failures = new Failures(clock);
  }

  /** Of those that the caller's cursor has `passed`, only what the service itself has to tell. */
  async open(items: readonly StoredItem[], passed: readonly ItemKey[]): Promise<Outcomes> {
    await this.#look([...passed, ...items], recallOpened);
    const fresh = items.filter((item) => this.#isNew(item));
    const left = fresh.length === 0 ? null : await this.#openFresh(fresh);
    const told = left === null ? items : items.filter(({ seq }) => seq < left.seq);
    for (const item of [...passed, ...told]) this.#answer(item);
    const asks = await this.#failures.write(this.#client, this.#deps.days, this.#failed);
    const passedSeq = passed.at(-1)?.seq ?? 0;
    return {
      messages: this.#messages,
      failed: this.#failed.filter(({ seq }) => seq > passedSeq),
      handled: this.#handled,
      refused: this.#refused,
      rekeys: [...this.#rekeys.values()],
      asks,
      lastToldSeq: told.at(-1)?.seq ?? 0,
    };
  }

  async #look(items: readonly ItemKey[], recall: typeof recallOpened): Promise<void> {
    const recipientId = this.#recipientId;
    this.#remember(await recall(this.#client, this.#deps.keys, recipientId, items.map(keyOf)));
    const keys = items.map((item) => ({ recipientId, ...keyOf(item) }));
    this.#failures.know(await findFailed(this.#client, keys));
  }

  #isNew(item: ItemKey): boolean {
    return !this.#known.has(messageName(keyOf(item))) && this.#failures.find(keyOf(item)) === null;
  }

  /** The first that is left for the next opening, or null; never the first of all. */
  async #openFresh(items: readonly StoredItem[]): Promise<StoredItem | null> {
    const [client, recipientId] = [this.#client, this.#recipientId];
    const pairs = [...new Set(items.map(({ senderId }) => senderId))].map((peerId) => ({
      ownerId: recipientId,
      peerId,
    }));
    const states = new Map(
      (await lockStates(client, pairs, { areThere: false })).map((state) => [state.peerId, state]),
    );
    const me = await this.#identity();
    const { keys } = this.#deps;
    const peers = new Map([...states.values()].map((state) => [state.peerId, openStateOrLost(keys, state)]));
    const prekeys = await lockPrivatePrekeys(client, recipientId, [...new Set(items.flatMap(prekeysNamedBy))]);
    const lookup = lookUpPrekeys(keys, recipientId, prekeys);
    // Whoever held the locks before may have opened some of them.
    await this.#look(items, recallOrForget);
    const changed = new Set<string>();
    let left: StoredItem | null = null;
    for (const item of items) {
      if (!this.#isNew(item)) continue;
      if (this.#counted.derivations >= DERIVATIONS_MAX) {
        left = item;
        break;
      }
      const { primitives } = this.#counted;
      const opening = openItem(primitives, me, lookup, peers.get(item.senderId) as Peer, item, this.#clock);
      const { peer, usedPrekeys, rekeyIn, verdict } = opening;
      if (peer !== null) {
        peers.set(item.senderId, peer);
        changed.add(item.senderId);
      }
      for (const id of usedPrekeys) lookup.used.add(id);
      if (rekeyIn !== null) {
        const name = `${item.senderId}/${Buffer.from(rekeyIn).toString("hex")}`;
        this.#rekeys.set(name, { peerId: item.senderId, sessionId: rekeyIn });
      }
      await this.#judge(item, verdict);
    }
    await this.#write(states, peers, changed, [...lookup.used]);
    return left;
  }

  async #judge(item: StoredItem, verdict: Verdict): Promise<void> {
    const { senderId } = item;
    switch (verdict.type) {
      case "failed":
        this.#failures.add({ recipientId: this.#recipientId, ...keyOf(item), ...verdict });
        return;
      case "refused":
        this.#make({ ...keyOf(item), outcome: verdict.code, content: null });
        return;
      case "handled":
        this.#make({ ...keyOf(item), outcome: "handled", content: null });
        return;
      case "content": {
        const { inRepairOf, frame } = verdict;
        // A message in place of itself is one of its own: its sender made the parameter up.
        if (inRepairOf !== null && inRepairOf !== item.itemId && this.#canBeRemembered(inRepairOf)) {
          const first = { senderId, messageId: inRepairOf };
          if (await this.#isOpened(first)) {
            this.#make({ ...keyOf(item), outcome: "handled", content: null });
            return;
          }
          this.#make({ ...first, outcome: "handled", content: null });
        }
        const content = this.#deps.keys.sealContent(this.#recipientId, keyOf(item), contentOf(frame));
        this.#make({ ...keyOf(item), outcome: "content", content });
      }
    }
  }

  /** Its sender may name any id; what is remembered has a time about now, as ids of messages have. */
  #canBeRemembered(messageId: string): boolean {
    const time = messageIdTime(messageId);
    const ageMs = time === null ? Number.POSITIVE_INFINITY : this.#clock.now - time;
    return ageMs < REMEMBERED_MS_MAX && ageMs > -AHEAD_MS_MAX;
  }

  async #isOpened(key: MessageKey): Promise<boolean> {
    if (!this.#known.has(messageName(key))) {
      this.#remember(await recallOrForget(this.#client, this.#deps.keys, this.#recipientId, [key]));
    }
    return this.#known.has(messageName(key));
  }

  #make(row: OpenedRow): void {
    this.#made.push(row);
    this.#remember([row]);
  }

  #remember(rows: readonly OpenedRow[]): void {
    for (const row of rows) this.#known.set(messageName(row), row);
  }

  async #write(
    states: ReadonlyMap<string, StoredState>,
    peers: ReadonlyMap<string, Peer>,
    changed: ReadonlySet<string>,
    usedPrekeys: readonly string[],
  ): Promise<void> {
    const ownerId = this.#recipientId;
    const tidy = await this.#forgetting([...changed].map((peerId) => peers.get(peerId) as Peer));
    const written = tidy.map((peer) => {
      const { peerId, version: readVersion, generation } = states.get(peer.agentId) as StoredState;
      const state = this.#deps.keys.sealState(ownerId, peer, readVersion + 1);
      return { ownerId, peerId, readVersion, generation, state };
    });
    // One after the other: a statement that is sent after another one's failure would be sent behind the rollback, and stay.
    await writeOpened(this.#client, this.#deps.days, ownerId, this.#made);
    await erasePrivatePrekeys(this.#client, ownerId, usedPrekeys);
    await writeStates(this.#client, written);
  }

  /** Without what is remembered to protect signed prekeys that are gone. */
  async #forgetting(peers: readonly Peer[]): Promise<readonly Peer[]> {
    if (peers.every(({ remembered }) => remembered.length === 0)) return peers;
    const there = await findSignedPrekeys(this.#client, this.#recipientId);
    return peers.map((peer) => forgetOldInitiations(peer, { signedPrekey: (id) => (there.has(id) ? id : null) }));
  }

  /** What is known of the item, said. */
  #answer(item: ItemKey): void {
    const row = this.#known.get(messageName(keyOf(item)));
    const failure = this.#failures.find(keyOf(item));
    const place = { ...keyOf(item), seq: item.seq };
    if (row === undefined) {
      if (failure !== null) this.#failed.push({ ...place, code: failure.code });
      return;
    }
    // A repair has taken its place: its sender learns what became of it, and not that it was read.
    if (row.outcome === "handled" && failure !== null) this.#refused.push({ ...place, code: failure.code });
    else if (row.outcome === "handled") this.#handled.push(place);
    else if (row.outcome !== "content") this.#refused.push({ ...place, code: row.outcome });
    // Without content it has ended, and the mailbox is about to know.
    else if (row.content !== null) this.#answerContent(place, timeOf(item), row.content);
  }

  #answerContent(place: ItemOutcome, sentAt: number, content: Uint8Array): void {
    try {
      const frame = decodeFrame(this.#deps.keys.openContent(this.#recipientId, place, content));
      if (typeof frame === "string") throw new Error("an opened content cannot be read");
      this.#messages.push({ ...place, sentAt, ...frame });
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      // Its key was there when it was recalled: the content was sealed anew since, and the next opening reads that. Where it is the agent's keys that are gone, that one says so.
      if (error.code === "key-destroyed") throw new Unavailable("keyring", error);
      if (!UNREADABLE_CODES.has(error.code)) throw error;
      // Opened once, and damaged since: nobody can bring it back, and it keeps nothing else back.
      this.#failed.push({ ...place, code: "message-key-gone" });
    }
  }

  async #identity(): Promise<Identity> {
    const sealed = (await findSealedIdentities(this.#client, [this.#recipientId])).get(this.#recipientId);
    if (sealed === undefined) throw new Refusal("key-unknown");
    return this.#deps.keys.openIdentity(this.#recipientId, sealed);
  }
}

function keyOf({ senderId, itemId }: ItemKey): MessageKey {
  return { senderId, messageId: itemId };
}

function timeOf({ itemId }: ItemKey): number {
  const time = messageIdTime(itemId);
  if (time === null) throw new Error("an id in a mailbox is a UUIDv7");
  return time;
}
