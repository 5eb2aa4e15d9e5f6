/**
 * Opens what waits in the mailbox of an agent of server custody.
 *
 * Promises: opening and what is answered are one transaction: the ratchet moves on, used private halves of prekeys go, content and outcome are kept
 * (sealed), or nothing happens at all; asked again, the same content is answered from what was kept. It never sends: what is to be sent because of it
 * is for the caller, after the commit, and comes up again if that is lost.
 *
 * Rows of states are locked in key order, before those of prekeys, and only for senders of whom something is new.
 */
import { decodeFrame, type Frame } from "../../protocol/frame.ts";
import type { Identity } from "../../protocol/identity.ts";
import { DAY_MS } from "../../protocol/limits.ts";
import { messageIdTime } from "../../protocol/message-id.ts";
import type { Peer, PrekeyLookup } from "../../protocol/peer.ts";
import { nodePrimitives, nodeRandom } from "../../protocol/primitives/node.ts";
import { mlKem768PairFrom, x25519PairFrom } from "../../protocol/primitives/primitives.ts";
import { type ProtocolCode, Refusal } from "../../protocol/refusal.ts";
import type { Clock } from "../../protocol/session.ts";
import { findSealedIdentities } from "../agents.ts";
import { type MailboxPage, readMailbox, type StoredItem } from "../mailbox.ts";
import type { MessageDays } from "../message-days.ts";
import type { MessageKey } from "../messages.ts";
import { inTransaction, type Postgres, type Queryable } from "../postgres.ts";
import { type CustodyKeys, contentOf } from "./custody-keys.ts";
import { findOpened, type OpenedRow, writeOpened } from "./opened.ts";
import { openItem, prekeysNamedBy, type Verdict } from "./opening.ts";
import { erasePrivatePrekeys, lockPrivatePrekeys, type PrivatePrekey } from "./private-prekeys.ts";
import { lockStates, type StoredState, writeStates } from "./states.ts";

/** Outcomes are kept as long (store/message-days.ts); a sender keeps content to say it anew for 31 days. */
const REMEMBERED_MS_MAX = 40 * DAY_MS;

/** As far as ids of messages may be ahead of the log. */
const AHEAD_MS_MAX = 10 * 60 * 1000;

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
  /** They stay in the mailbox. */
  readonly failed: readonly (ItemOutcome & { readonly code: ProtocolCode })[];
  /** To be acknowledged by whoever asked for the opening: repeats, and messages of the protocol itself. */
  readonly handled: readonly ItemOutcome[];
  /** To be refused by whoever asked: they will never be of use. */
  readonly refused: readonly (ItemOutcome & { readonly code: ProtocolCode })[];
  /** Sessions in which a peer waits for an answer, each once. */
  readonly rekeys: readonly { readonly peerId: string; readonly sessionId: Uint8Array }[];
  /** Where the next call continues. */
  readonly cursor: number;
  readonly lastSeq: number;
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
export function openMailbox(
  deps: OpenMailboxDeps,
  recipientId: string,
  range: OpenRange,
  now: number,
): Promise<OpenedMailbox> {
  return inTransaction(deps.postgres, async (client) => {
    const page = await readFrom(client, recipientId, range);
    const items = page.items.filter(({ kind }) => kind === "message");
    const known = await findOpened(client, recipientId, items.map(keyOf));
    const opener = new MailboxOpener(deps, client, recipientId, { now, random: nodeRandom });
    const outcomes = await opener.open(items, known);
    const last = page.items.at(-1);
    const cursor = page.end || last === undefined ? page.lastSeq : last.seq;
    return { ...outcomes, cursor, lastSeq: page.lastSeq };
  });
}

/** A cursor beyond the mailbox is from before a restore: only from the start is nothing skipped. */
async function readFrom(client: Queryable, recipientId: string, range: OpenRange): Promise<MailboxPage> {
  const page = await readMailbox(client, recipientId, range);
  return range.afterSeq <= page.lastSeq ? page : readMailbox(client, recipientId, { ...range, afterSeq: 0 });
}

type Outcomes = Omit<OpenedMailbox, "cursor" | "lastSeq">;

class MailboxOpener {
  readonly #deps: OpenMailboxDeps;
  readonly #client: Queryable;
  readonly #recipientId: string;
  readonly #clock: Clock;
  readonly #known = new Map<string, OpenedRow>();
  readonly #made: OpenedRow[] = [];
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
  }

  async open(items: readonly StoredItem[], known: readonly OpenedRow[]): Promise<Outcomes> {
    this.#remember(known);
    const fresh = items.filter((item) => !this.#known.has(nameOf(keyOf(item))));
    if (fresh.length > 0) await this.#openFresh(fresh);
    for (const item of items) this.#answer(item);
    return {
      messages: this.#messages,
      // A repair that came with it has settled it.
      failed: this.#failed.filter((item) => !this.#known.has(nameOf(item))),
      handled: this.#handled,
      refused: this.#refused,
      rekeys: [...this.#rekeys.values()],
    };
  }

  async #openFresh(items: readonly StoredItem[]): Promise<void> {
    const [client, recipientId] = [this.#client, this.#recipientId];
    const pairs = [...new Set(items.map(({ senderId }) => senderId))].map((peerId) => ({
      ownerId: recipientId,
      peerId,
    }));
    const states = new Map(
      (await lockStates(client, pairs, { areThere: false })).map((state) => [state.peerId, state]),
    );
    const peers = new Map([...states.values()].map((state) => [state.peerId, this.#deps.keys.openState(state)]));
    const me = await this.#identity();
    const prekeys = await lockPrivatePrekeys(client, recipientId, [...new Set(items.flatMap(prekeysNamedBy))]);
    const lookup = this.#lookupOf(prekeys);
    // Whoever held the locks before may have opened some of them.
    this.#remember(await findOpened(client, recipientId, items.map(keyOf)));
    const changed = new Set<string>();
    for (const item of items) {
      if (this.#known.has(nameOf(keyOf(item)))) continue;
      const opening = openItem(me, lookup.prekeys, peers.get(item.senderId) as Peer, item, this.#clock);
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
  }

  async #judge(item: StoredItem, verdict: Verdict): Promise<void> {
    const { senderId } = item;
    switch (verdict.type) {
      case "failed":
        this.#failed.push({ ...keyOf(item), seq: item.seq, code: verdict.code });
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
    if (!this.#known.has(nameOf(key))) this.#remember(await findOpened(this.#client, this.#recipientId, [key]));
    return this.#known.has(nameOf(key));
  }

  #make(row: OpenedRow): void {
    this.#made.push(row);
    this.#remember([row]);
  }

  #remember(rows: readonly OpenedRow[]): void {
    for (const row of rows) this.#known.set(nameOf(row), row);
  }

  async #write(
    states: ReadonlyMap<string, StoredState>,
    peers: ReadonlyMap<string, Peer>,
    changed: ReadonlySet<string>,
    usedPrekeys: readonly string[],
  ): Promise<void> {
    const ownerId = this.#recipientId;
    const written = [...changed].map((peerId) => {
      const readVersion = states.get(peerId)?.version ?? 0;
      const state = this.#deps.keys.sealState(ownerId, peers.get(peerId) as Peer, readVersion + 1);
      return { ownerId, peerId, readVersion, state };
    });
    // One after the other: a statement that is sent after another one's failure would be sent behind the rollback, and stay.
    await writeOpened(this.#client, this.#deps.days, ownerId, this.#made);
    await erasePrivatePrekeys(this.#client, ownerId, usedPrekeys);
    await writeStates(this.#client, written);
  }

  /** What is known of the item, said. */
  #answer(item: StoredItem): void {
    const row = this.#known.get(nameOf(keyOf(item)));
    if (row === undefined) return;
    const place = { ...keyOf(item), seq: item.seq };
    if (row.outcome === "handled") this.#handled.push(place);
    else if (row.outcome !== "content") this.#refused.push({ ...place, code: row.outcome });
    // Without content it has ended, and the mailbox is about to know.
    else if (row.content !== null) this.#messages.push({ ...place, sentAt: timeOf(item), ...this.#contentOf(row) });
  }

  #contentOf({ senderId, messageId, content }: OpenedRow): Frame {
    const frame = decodeFrame(
      this.#deps.keys.openContent(this.#recipientId, { senderId, messageId }, content as Uint8Array),
    );
    if (typeof frame === "string") throw new Error("an opened content cannot be read");
    return frame;
  }

  async #identity(): Promise<Identity> {
    const sealed = (await findSealedIdentities(this.#client, [this.#recipientId])).get(this.#recipientId);
    if (sealed === undefined) throw new Refusal("key-unknown");
    return this.#deps.keys.openIdentity(this.#recipientId, sealed);
  }

  /** Opened before any message is: that one does not open is the agent's trouble, and no message's. */
  #lookupOf(rows: readonly PrivatePrekey[]) {
    const privateKeys = new Map(
      rows.map(({ prekeyId, privateKeyEncrypted }) => [
        prekeyId,
        this.#deps.keys.openPrekey(this.#recipientId, prekeyId, privateKeyEncrypted),
      ]),
    );
    const keyTypes = new Map(rows.map(({ prekeyId, keyType }) => [prekeyId, keyType]));
    const used = new Set<string>();
    const privateKeyOf = (id: string, ...wanted: readonly PrivatePrekey["keyType"][]) => {
      const keyType = keyTypes.get(id);
      if (keyType === undefined || used.has(id) || !wanted.includes(keyType)) return null;
      return privateKeys.get(id) ?? null;
    };
    const pairOf = (id: string, keyType: PrivatePrekey["keyType"]) => {
      const privateKey = privateKeyOf(id, keyType);
      return privateKey === null ? null : x25519PairFrom(nodePrimitives, privateKey);
    };
    const prekeys: PrekeyLookup = {
      signedPrekey: (id) => pairOf(id, "signed"),
      oneTimePrekey: (id) => pairOf(id, "one-time"),
      kemPrekey: (id) => {
        const seed = privateKeyOf(id, "kem", "kem-last-resort");
        if (seed === null) return null;
        return { pair: mlKem768PairFrom(nodePrimitives, seed), lastResort: keyTypes.get(id) === "kem-last-resort" };
      },
      // The service publishes KEM prekeys with an agent's very first prekeys (jobs/rotation.ts).
      kemPublished: true,
    };
    return { prekeys, used };
  }
}

function keyOf({ senderId, itemId }: StoredItem): MessageKey {
  return { senderId, messageId: itemId };
}

function nameOf({ senderId, messageId }: MessageKey): string {
  return `${senderId}/${messageId}`;
}

function timeOf({ itemId }: StoredItem): number {
  const time = messageIdTime(itemId);
  if (time === null) throw new Error("an id in a mailbox is a UUIDv7");
  return time;
}
