/**
 * What an item of the mailbox of an agent of server custody turns out to be. Pure, over the states and prekeys that the caller has locked.
 *
 * The rules are those of the SDK (sdk/opening.ts): the same duplicates, repairs, control messages and refusals for good.
 */
import { decodeEnvelope, type Envelope } from "../../protocol/envelope.ts";
import type { Frame } from "../../protocol/frame.ts";
import type { Identity } from "../../protocol/identity.ts";
import { decodeInitiation } from "../../protocol/initiation.ts";
import { openEnvelope, type Peer, type PrekeyLookup } from "../../protocol/peer.ts";
import { nodePrimitives } from "../../protocol/primitives/node.ts";
import type { Primitives } from "../../protocol/primitives/primitives.ts";
import { type ProtocolCode, Refusal } from "../../protocol/refusal.ts";
import { splitRepairParameter } from "../../protocol/repair-parameter.ts";
import { isRepairable } from "../../protocol/retry-request.ts";
import { type Clock, REKEY_CONTENT_TYPE } from "../../protocol/session.ts";
import type { StoredItem } from "../mailbox.ts";

/** What was accepted under an operator's older, larger limit is still opened. */
const anySize = { ciphertextBytesMax: Number.POSITIVE_INFINITY };

export interface Opening {
  /** To be stored with the outcome; null when nothing has changed. */
  readonly peer: Peer | null;
  /** One-time prekeys whose private halves are used up. */
  readonly usedPrekeys: readonly string[];
  /** The session in which the peer waits for an answer. */
  readonly rekeyIn: Uint8Array | null;
  readonly verdict: Verdict;
}

export type Verdict =
  | { readonly type: "content"; readonly frame: Frame; readonly inRepairOf: string | null }
  /** A message of the protocol itself. */
  | { readonly type: "handled" }
  /** It will never be of use. */
  | { readonly type: "refused"; readonly code: ProtocolCode }
  /** Only its sender could say it anew, who is to be told where it failed. */
  | ({ readonly type: "failed"; readonly code: ProtocolCode } & Pick<Envelope, "sessionId" | "dhPublicKey">);

/**
 * The primitives, and how often a key was derived with them: what counters in a header can make long, also of an envelope whose tag does not hold in the end. All else that
 * one opening costs has a bound of its own.
 */
export class CountedPrimitives {
  readonly primitives: Primitives = {
    ...nodePrimitives,
    hkdfSha256: (...asked) => {
      this.#derivations++;
      return nodePrimitives.hkdfSha256(...asked);
    },
  };
  #derivations = 0;

  get derivations(): number {
    return this.#derivations;
  }
}

export function openItem(
  primitives: Primitives,
  me: Identity,
  prekeys: PrekeyLookup,
  peer: Peer,
  item: StoredItem,
  clock: Clock,
): Opening {
  const envelope = envelopeOf(item);
  if (envelope === null) return unchanged({ type: "refused", code: "malformed" });
  try {
    const opened = openEnvelope(primitives, me, prekeys, peer, envelope, clock);
    const { peer: next, usedPrekeys, rekeyAnswerDue } = opened;
    const rekeyIn = rekeyAnswerDue ? envelope.sessionId : null;
    return { peer: next, usedPrekeys, rekeyIn, verdict: verdictOf(opened.frame) };
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    const { code } = error as Refusal<ProtocolCode>;
    if (!isRepairable(code)) return unchanged({ type: "refused", code });
    const { sessionId, dhPublicKey } = envelope;
    return unchanged({ type: "failed", code, sessionId, dhPublicKey });
  }
}

/** The ids of the prekeys that an item's initiation names. */
export function prekeysNamedBy(item: StoredItem): readonly string[] {
  const initiation = envelopeOf(item)?.initiation;
  if (initiation === undefined || initiation.length === 0) return [];
  try {
    const named = decodeInitiation(initiation);
    const kem = named.suite === 2 ? named.kemPrekeyId : null;
    return [named.signedPrekeyId, named.oneTimePrekeyId, kem].filter((id) => id !== null);
  } catch (error) {
    if (error instanceof Refusal) return [];
    throw error;
  }
}

function verdictOf(frame: Frame | ProtocolCode): Verdict {
  if (typeof frame === "string") return { type: "refused", code: frame };
  if (frame.contentType === REKEY_CONTENT_TYPE) return { type: "handled" };
  const { contentType, inRepairOf } = splitRepairParameter(frame.contentType);
  return { type: "content", frame: { contentType, body: frame.body }, inRepairOf };
}

function unchanged(verdict: Verdict): Opening {
  return { peer: null, usedPrekeys: [], rekeyIn: null, verdict };
}

/** Null for what is not the envelope of its item. */
function envelopeOf({ body, senderId, itemId }: StoredItem): Envelope | null {
  try {
    const envelope = decodeEnvelope(body, anySize);
    return envelope.senderId === senderId && envelope.messageId === itemId ? envelope : null;
  } catch (error) {
    if (error instanceof Refusal) return null;
    throw error;
  }
}
