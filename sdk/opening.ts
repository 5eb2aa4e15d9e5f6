/**
 * From an item of the mailbox to what is to be done with it, inside one transaction: the ratchet moves on, used prekeys go, the message and
 * its id are kept, or nothing happens at all.
 */
import { decodeEnvelope, type Envelope } from "../protocol/envelope.ts";
import type { Frame } from "../protocol/frame.ts";
import type { Identity } from "../protocol/identity.ts";
import { openEnvelope, type PrekeyLookup } from "../protocol/peer.ts";
import { nodePrimitives, nodeRandom } from "../protocol/primitives/node.ts";
import { type ProtocolCode, Refusal } from "../protocol/refusal.ts";
import { REKEY_CONTENT_TYPE } from "../protocol/session.ts";
import type { ItemFrame } from "../protocol/stream-frames.ts";
import { splitRepairParameter } from "./repair-parameter.ts";
import type { ReceivedMessage } from "./store/inbox.ts";
import type { Store } from "./store/store.ts";

/**
 * Failures after which the sender can say it anew (protocol.md §4, Repair): such a message stays in the mailbox. Any other
 * refusal is one for good.
 */
const REPAIRABLE: ReadonlySet<ProtocolCode> = new Set<ProtocolCode>([
  "prekey-unknown",
  "auth-failed",
  "session-unknown",
  "counter-too-far",
  "message-key-gone",
]);

export type Opening =
  /** For the application. */
  | { readonly type: "message"; readonly message: ReceivedMessage; readonly rekeyIn: Uint8Array | null }
  /** Done with: a repeat, or a message of the protocol itself. */
  | { readonly type: "answered"; readonly rekeyIn: null }
  /** Will never open. */
  | { readonly type: "refused"; readonly code: ProtocolCode; readonly rekeyIn: Uint8Array | null }
  /** To be left in the mailbox: its application has it but has not succeeded yet. */
  | { readonly type: "waiting"; readonly rekeyIn: null }
  /** To be left in the mailbox for Repair. */
  | { readonly type: "failed"; readonly code: ProtocolCode; readonly rekeyIn: null }
  /** A retry request: left in the mailbox, for the same reason. */
  | { readonly type: "retry-request"; readonly rekeyIn: null };

export class Opener {
  readonly #store: Store;
  readonly #me: Identity;
  readonly #prekeys: PrekeyLookup;
  #usedPrekeysCount = 0;

  constructor(store: Store, me: Identity) {
    this.#store = store;
    this.#me = me;
    this.#prekeys = {
      signedPrekey: (id) => store.prekeys.find("signed", id),
      oneTimePrekey: (id) => store.prekeys.find("one-time", id),
      kemPrekey: () => null,
      kemPublished: false,
    };
  }

  /** Only in a transaction. */
  open(item: ItemFrame): Opening {
    if (item.kind === "retry") return { type: "retry-request", rekeyIn: null };
    const outcome = this.#store.inbox.outcome(item.senderId, item.itemId);
    if (outcome === "handled") return ANSWERED;
    if (outcome === "waiting") return { type: "waiting", rekeyIn: null };
    if (outcome !== null) return { type: "refused", code: outcome, rekeyIn: null };
    try {
      return this.#openNew(item, envelopeOf(item), Date.now());
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      const { code } = error as Refusal<ProtocolCode>;
      return { type: REPAIRABLE.has(code) ? "failed" : "refused", code, rekeyIn: null };
    }
  }

  /** Were at least so many one-time prekeys used since it last said so? */
  takeUsedPrekeys(countMin: number): boolean {
    if (this.#usedPrekeysCount < countMin) return false;
    this.#usedPrekeysCount = 0;
    return true;
  }

  #openNew(item: ItemFrame, envelope: Envelope, now: number): Opening {
    const { peers, prekeys, inbox } = this.#store;
    const peer = peers.get(item.senderId);
    const clock = { now, random: nodeRandom };
    const opened = openEnvelope(nodePrimitives, this.#me, this.#prekeys, peer, envelope, clock);
    peers.put(opened.peer);
    for (const id of opened.usedPrekeys) prekeys.remove(id);
    this.#usedPrekeysCount += opened.usedPrekeys.length;
    const { frame } = opened;
    const rekeyIn = opened.rekeyAnswerDue ? envelope.sessionId.slice() : null;
    if (typeof frame === "string") {
      inbox.remember(item.senderId, item.itemId, frame, now);
      return { type: "refused", code: frame, rekeyIn };
    }
    if (frame.contentType === REKEY_CONTENT_TYPE) {
      inbox.remember(item.senderId, item.itemId, "handled", now);
      return ANSWERED;
    }
    return this.#keep(item, envelope, frame, rekeyIn, now);
  }

  #keep(item: ItemFrame, envelope: Envelope, frame: Frame, rekeyIn: Uint8Array | null, now: number): Opening {
    const { inbox } = this.#store;
    const { senderId, itemId } = item;
    const { contentType, inRepairOf } = splitRepairParameter(frame.contentType);
    // A message in place of itself is one of its own: its sender made the parameter up, and an id is remembered once.
    if (inRepairOf !== null && inRepairOf !== itemId) {
      if (inbox.outcome(senderId, inRepairOf) !== null) {
        inbox.remember(senderId, itemId, "handled", now);
        return ANSWERED;
      }
      inbox.remember(senderId, inRepairOf, "handled", now);
    }
    const message: ReceivedMessage = {
      senderId,
      messageId: itemId,
      seq: item.seq,
      sentAt: envelope.timestamp,
      contentType,
      body: frame.body,
    };
    inbox.remember(senderId, itemId, "waiting", now);
    inbox.add(message);
    return { type: "message", message, rekeyIn };
  }
}

const ANSWERED: Opening = { type: "answered", rekeyIn: null };

/** Refuses (`malformed`) what is not the envelope of its item. */
function envelopeOf({ body, senderId, itemId }: ItemFrame): Envelope {
  const envelope = decodeEnvelope(body);
  if (envelope.senderId !== senderId || envelope.messageId !== itemId) throw new Refusal("malformed");
  return envelope;
}
