/**
 * From an item of the mailbox to what is to be done with it, inside one transaction: the ratchet moves on, used prekeys go, the message and
 * its id are kept, or nothing happens at all.
 */
import { decodeEnvelope, type Envelope } from "../protocol/envelope.ts";
import type { Frame } from "../protocol/frame.ts";
import type { Identity } from "../protocol/identity.ts";
import { REPAIRS_MAX } from "../protocol/limits.ts";
import { makeMessageId } from "../protocol/message-id.ts";
import { openEnvelope, type PrekeyLookup, planRepair } from "../protocol/peer.ts";
import { nodePrimitives, nodeRandom } from "../protocol/primitives/node.ts";
import { type ProtocolCode, Refusal } from "../protocol/refusal.ts";
import { splitRepairParameter } from "../protocol/repair-parameter.ts";
import { isRepairable, makeRetryRequest, type RetryRequest, retryRequestFromJson } from "../protocol/retry-request.ts";
import { REKEY_CONTENT_TYPE } from "../protocol/session.ts";
import type { ItemFrame } from "../protocol/stream-frames.ts";
import { decodeUtf8 } from "../protocol/utf8.ts";
import { jitter } from "./patience.ts";
import type { ReceivedMessage } from "./store/inbox.ts";
import type { Store } from "./store/store.ts";

/**
 * A peer that lost its sessions asks for many messages at once, and all its peers are asked: answers are spread over this time. Longer
 * for what failed before, so that two ends that never agree do not keep each other busy.
 */
const ANSWER_JITTER_MS = 250;

export type Opening =
  /** For the application. */
  | { readonly type: "message"; readonly message: ReceivedMessage; readonly rekeyIn: Uint8Array | null }
  /** Done with: a repeat, or a message of the protocol itself. */
  | { readonly type: "answered"; readonly rekeyIn: null }
  /** Will never open. `isKnown`: it came before. */
  | {
      readonly type: "refused";
      readonly code: ProtocolCode;
      readonly isKnown: boolean;
      readonly rekeyIn: Uint8Array | null;
    }
  /** To be left in the mailbox: its application has it but has not succeeded yet. */
  | { readonly type: "waiting"; readonly rekeyIn: null }
  /** To be left in the mailbox until the service has taken the request to say it anew. */
  | { readonly type: "failed"; readonly code: ProtocolCode; readonly isKnown: boolean; readonly rekeyIn: null }
  /** A peer could not open one of this agent's messages; its request is kept. */
  | { readonly type: "retry-request"; readonly rekeyIn: null };

export class Opener {
  readonly #store: Store;
  readonly #me: Identity;
  readonly #prekeys: PrekeyLookup;
  #usedPrekeysCount = 0;

  /** `requirePq`: nothing below suite 2 is accepted, whatever this agent has published. */
  constructor(store: Store, me: Identity, { requirePq }: { readonly requirePq: boolean }) {
    this.#store = store;
    this.#me = me;
    this.#prekeys = {
      signedPrekey: (id) => store.prekeys.find("signed", id),
      oneTimePrekey: (id) => store.prekeys.find("one-time", id),
      kemPrekey: (id) => store.prekeys.findKem(id),
      get kemPublished() {
        return requirePq || store.prekeys.kemPublished();
      },
    };
  }

  /** Only in a transaction. */
  open(item: ItemFrame): Opening {
    if (item.kind === "retry") return this.#openRequest(item, Date.now());
    const outcome = this.#store.inbox.outcome(item.senderId, item.itemId);
    if (outcome === "handled") return ANSWERED;
    if (outcome === "waiting") return { type: "waiting", rekeyIn: null };
    if (outcome !== null) return refused(outcome, true);
    const failed = this.#store.failed.find(item.senderId, item.itemId);
    if (failed?.isAsking === true) return { type: "failed", code: failed.code, isKnown: true, rekeyIn: null };
    if (failed !== null) return refused(failed.code, true);
    return this.#openMessage(item, Date.now());
  }

  /** Were at least so many one-time prekeys used since it last said so? */
  takeUsedPrekeys(countMin: number): boolean {
    if (this.#usedPrekeysCount < countMin) return false;
    this.#usedPrekeysCount = 0;
    return true;
  }

  #openMessage(item: ItemFrame, now: number): Opening {
    let envelope: Envelope | null = null;
    try {
      envelope = envelopeOf(item);
      return this.#openNew(item, envelope, now);
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      const { code } = error as Refusal<ProtocolCode>;
      if (envelope === null || !isRepairable(code) || this.#store.failed.isFull(item.senderId)) return refused(code);
      const request = makeRetryRequest(nodePrimitives, this.#me, envelope, now);
      const requestId = makeMessageId(now, nodeRandom);
      this.#store.failed.add({ senderId: item.senderId, itemId: item.itemId, code, requestId, request }, now);
      return { type: "failed", code, isKnown: false, rekeyIn: null };
    }
  }

  /** A request for what has ended, was never said, or was said anew as often as may be, is done with. */
  #openRequest({ senderId, body }: ItemFrame, now: number): Opening {
    try {
      const request = retryRequestFromBytes(body);
      if (request.recipientId !== senderId) throw new Refusal("malformed");
      const { outbox, peers, requests } = this.#store;
      const asked = outbox.repairable(request.messageId);
      if (asked?.recipientId !== senderId || (asked.repairs?.count ?? 0) >= REPAIRS_MAX) return ANSWERED;
      planRepair(nodePrimitives, this.#me, peers.get(senderId), request, now);
      requests.add(request, now + jitter(ANSWER_JITTER_MS * 2 ** (asked.repairs?.count ?? 0)));
      return { type: "retry-request", rekeyIn: null };
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      return refused((error as Refusal<ProtocolCode>).code);
    }
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
      return { type: "refused", code: frame, isKnown: false, rekeyIn };
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

function refused(code: ProtocolCode, isKnown = false): Opening {
  return { type: "refused", code, isKnown, rekeyIn: null };
}

/** Refuses `malformed`. */
function retryRequestFromBytes(body: Uint8Array): RetryRequest {
  const text = decodeUtf8(body);
  let json: unknown;
  try {
    json = JSON.parse(text ?? "");
  } catch {
    throw new Refusal("malformed");
  }
  return retryRequestFromJson(json);
}

/** Refuses (`malformed`) what is not the envelope of its item. */
function envelopeOf({ body, senderId, itemId }: ItemFrame): Envelope {
  const envelope = decodeEnvelope(body);
  if (envelope.senderId !== senderId || envelope.messageId !== itemId) throw new Refusal("malformed");
  return envelope;
}
