/**
 * Answers a peer's request to say a message anew (protocol.md §4, Repair), for an agent whose keys the service holds.
 *
 * The pair's row is locked. What is said anew has a name of its own and the content of the one that failed, which loses it in the same transaction: however often
 * a message is asked for, one of its successors is under way at a time.
 */
import { EMPTY } from "../../protocol/bytes.ts";
import { decodeFrame, type Frame } from "../../protocol/frame.ts";
import type { Identity } from "../../protocol/identity.ts";
import { REPAIR_SESSION_INTERVAL_MS_MIN } from "../../protocol/limits.ts";
import { initiate, type Peer, planRepair, type RepairPlan, type Sealed, sealMessage } from "../../protocol/peer.ts";
import type { Bundle } from "../../protocol/prekeys.ts";
import { nodePrimitives } from "../../protocol/primitives/node.ts";
import { Refusal } from "../../protocol/refusal.ts";
import { withRepairParameter } from "../../protocol/repair-parameter.ts";
import type { RetryRequest } from "../../protocol/retry-request.ts";
import { type Clock, REKEY_CONTENT_TYPE } from "../../protocol/session.ts";
import type { Delegation, MessageSend } from "../../schemas/values.ts";
import type { KeptMessage } from "../../store/custody/commands.ts";
import { type CustodyKeys, contentOf } from "../../store/custody/custody-keys.ts";
import type { Said } from "./contents.ts";
import type { Repairs } from "./repairs.ts";

/** For a peer that has no bundle to give, or has had its new session of this hour: another may have begun in the meantime. */
const LOOK_AGAIN_MS = 10 * 60_000;

export type Answer =
  | {
      readonly type: "sealed";
      readonly sealed: Sealed;
      readonly said: Said;
      /** Under which it was said first: it is the same message. */
      readonly delegation: readonly Delegation[];
    }
  /** The request is done with. */
  | { readonly type: "ended"; readonly outcome: "acknowledged"; readonly code: null }
  | { readonly type: "ended"; readonly outcome: "refused"; readonly code: string }
  /** It waits in the mailbox, or is gone from there. */
  | { readonly type: "nothing" };

const ANSWERED: Answer = { type: "ended", outcome: "acknowledged", code: null };
const NOTHING: Answer = { type: "nothing" };

export interface AnsweringParts {
  readonly keys: Pick<CustodyKeys, "openSaid" | "sealSaid">;
  readonly repairs: Repairs;
  readonly me: Identity;
  readonly clock: Clock;
  /** A bundle for this command, the same each time; null when there is none. */
  readonly claim: () => Promise<Bundle | null>;
  /** The peer with a session that sends; null when there is none to be had. */
  readonly withSession: (peer: Peer) => Promise<Peer | null>;
}

/** @throws Unavailable */
export async function answerRequest(parts: AnsweringParts, state: Peer, command: MessageSend): Promise<Answer> {
  const { repairs, me, clock, keys } = parts;
  const asked = repairs.asked(command);
  if (asked === null) return NOTHING;
  if (asked.kept === null) return ANSWERED;
  const { request, kept } = asked;
  const peer = repairs.known(state);
  const plan = planOf(me, peer, request, clock.now);
  if (plan instanceof Refusal) return { type: "ended", outcome: "refused", code: plan.code };
  const said = saidIn(keys, kept);
  const isControl = said?.contentType === REKEY_CONTENT_TYPE;
  // A control message is said anew only to tell the peer of a new session.
  if (said === null || (isControl && plan !== "new-session")) {
    repairs.spend(kept, null);
    return ANSWERED;
  }
  const ready = plan === "not-yet" ? null : await readyFor(parts, peer, plan, request);
  if (ready === null) {
    const nextSessionAt = (peer.repairedAt ?? 0) + REPAIR_SESSION_INTERVAL_MS_MIN;
    const lookAgainAt = clock.now + LOOK_AGAIN_MS;
    repairs.postpone(kept, plan === "not-yet" ? Math.min(nextSessionAt, lookAgainAt) : lookAgainAt);
    return NOTHING;
  }
  const firstId = kept.firstId ?? kept.messageId;
  const contentType = isControl ? REKEY_CONTENT_TYPE : withRepairParameter(said.contentType, firstId);
  const { messageId } = command;
  const sealed = sealedOrNull(parts, ready, { messageId, contentType, body: said.body });
  repairs.spend(kept, sealed === null ? null : messageId);
  if (sealed === null) return ANSWERED;
  return { type: "sealed", sealed, said: movedTo(keys, command, kept, said), delegation: kept.delegation };
}

/**
 * What an answer said that has been sealed already, and whose envelope a recovery brought back (docs/restore.md). Nothing, where the request has ended meanwhile: only
 * that says what it was the answer to.
 */
export function saidInAnswer(keys: AnsweringParts["keys"], repairs: Repairs, command: MessageSend): Said {
  const kept = repairs.asked(command)?.kept ?? null;
  const said = kept === null ? null : saidIn(keys, kept);
  if (kept === null || said === null) return { hmac: EMPTY, content: null, firstId: null, repairs: 0 };
  repairs.spend(kept, command.messageId);
  return movedTo(keys, command, kept, said);
}

function movedTo(keys: AnsweringParts["keys"], successor: MessageSend, kept: KeptMessage, said: Frame): Said {
  const content = keys.sealSaid(successor, contentOf(said));
  return { hmac: EMPTY, content, firstId: kept.firstId ?? kept.messageId, repairs: kept.repairs + 1 };
}

/** A refusal is the request's: badly signed, too old, or about somebody else's message. */
function planOf(me: Identity, peer: Peer, request: RetryRequest, now: number): RepairPlan | Refusal {
  try {
    return planRepair(nodePrimitives, me, peer, request, now);
  } catch (error) {
    if (error instanceof Refusal) return error;
    throw error;
  }
}

/** Null when it does not open (any more): then nobody can say it. */
function saidIn(keys: AnsweringParts["keys"], kept: KeptMessage): Frame | null {
  try {
    const frame = decodeFrame(keys.openSaid(kept, kept.content));
    if (typeof frame === "string") throw new Error("a kept content cannot be read");
    return frame;
  } catch (error) {
    if (error instanceof Refusal) return null;
    throw error;
  }
}

/** Null for what no message can be made of, however often it is asked for. */
function sealedOrNull({ me, clock }: AnsweringParts, peer: Peer, message: Parameters<typeof sealMessage>[3]) {
  try {
    return sealMessage(nodePrimitives, me, peer, message, clock);
  } catch (error) {
    if (error instanceof Refusal) return null;
    throw error;
  }
}

/** The peer with the session that the plan wants; null when there is no bundle, or none that holds. */
async function readyFor(
  { me, clock, claim, withSession }: AnsweringParts,
  peer: Peer,
  plan: RepairPlan,
  { sessionId }: RetryRequest,
): Promise<Peer | null> {
  try {
    if (plan === "active-session") return await withSession(peer);
    const bundle = await claim();
    return bundle === null ? null : initiate(nodePrimitives, me, peer, bundle, { ...clock, repaired: sessionId });
  } catch (error) {
    if (error instanceof Refusal) return null;
    throw error;
  }
}
