/**
 * Takes finished envelopes and appends them to `message.encrypted.v1`.
 *
 * Promise: all or nothing at validation: when one envelope is refused, nothing of the call is appended. What is answered is in
 * Kafka (acks=all). The same envelope again is accepted again, and as long as its digest is remembered nothing new is appended. When
 * that memory is gone (Redis may lose it at any time; `messaging_messages` is not asked here, it would cost every send a query), the
 * append happens, and queuing drops the repeat or discards other bytes as `id-reused`.
 */
import { createHash } from "node:crypto";
import { decodeEnvelope, type Envelope } from "../../protocol/envelope.ts";
import { CIPHERTEXT_BYTES_MAX } from "../../protocol/limits.ts";
import { messageIdTime } from "../../protocol/message-id.ts";
import { Refusal } from "../../protocol/refusal.ts";
import type { FindAgents } from "../agents.ts";
import type { Caller } from "../auth.ts";
import { actingFor, type Chain } from "../authz/delegation.ts";
import { faultOf, type PermissionDeps, rulesAgainst } from "../authz/permission.ts";
import { mayBeMessaged } from "../may-message.ts";
import { ApiRefusal, BatchRefusal, type Fault, type ProblemCode } from "../problem.ts";
import { type Appender, itemEvent } from "./events.ts";
import { faultOfIdTime } from "./item-ids.ts";
import { type MailboxRoomDeps, takeRoom } from "./mailbox-room.ts";

/** Digests of what Kafka has, per sender and message id. Loses everything at any time; never throws. */
export interface Digests {
  lookup(senderId: string, messageIds: readonly string[]): Promise<readonly (Uint8Array | null)[]>;
  remember(senderId: string, digests: readonly { messageId: string; digest: Uint8Array }[]): Promise<void>;
}

export interface SendDeps extends MailboxRoomDeps, PermissionDeps {
  readonly findAgents: FindAgents;
  readonly digests: Digests;
  /** For envelopes: at once, without lingering. */
  readonly items: Appender;
  /** ms since the epoch. */
  readonly now: () => number;
  /** The operator's limit; default `CIPHERTEXT_BYTES_MAX`. */
  readonly ciphertextBytesMax?: number;
}

export interface Accepted {
  readonly messageId: string;
}

/** Envelopes that passed every check, and which of them Kafka does not have yet. */
export interface CheckedSend {
  readonly senderId: string;
  readonly chain: Chain | undefined;
  /** One for each envelope of the call, in its order. */
  readonly accepted: readonly Accepted[];
  readonly fresh: readonly CheckedEnvelope[];
}

interface CheckedEnvelope {
  /** Its place in the call. */
  readonly index: number;
  readonly envelope: Envelope;
  /** Canonical bytes. */
  readonly body: Uint8Array;
  /** SHA-256 of the canonical bytes. */
  readonly digest: Uint8Array;
}

/** One call, one frame, one problem document: more envelopes make no call cheaper. */
export const SEND_ENVELOPES_MAX = 100;

/**
 * @param bodies canonical bytes of 1 to 100 envelopes
 * @returns one entry per envelope, in order
 * @throws BatchRefusal naming each refused envelope as `/envelopes/<index>`, `ApiRefusal`, `Unavailable`. Envelopes without room in their mailbox
 *   (`pair-full`, `overloaded`) are named only when no other is at fault: what is refused for them may be sent later, unchanged
 */
export async function send(
  deps: SendDeps,
  caller: Caller,
  bodies: readonly Uint8Array[],
): Promise<readonly Accepted[]> {
  return appendSend(deps, await checkSend(deps, caller, bodies));
}

/** The first half of `send`: nothing is appended. A stream checks calls at the same time and appends them in order. */
export async function checkSend(deps: SendDeps, caller: Caller, bodies: readonly Uint8Array[]): Promise<CheckedSend> {
  checkCount(bodies);
  const faults: Fault[] = [];
  const envelopes = bodies.map((body, index) => checkedAlone(deps, caller, body, index, faults));
  const whole = envelopes.filter((envelope) => envelope !== null);
  const recipientIds = [...new Set(whole.map(({ envelope }) => envelope.recipientId))];
  const [agents, rules, remembered] = await Promise.all([
    deps.findAgents([caller.agentId, ...recipientIds]),
    rulesAgainst(deps, caller, recipientIds, "send"),
    deps.digests.lookup(
      caller.agentId,
      whole.map(({ envelope }) => envelope.messageId),
    ),
  ]);
  // A stream lives longer than the check of its signature.
  const sender = agents.get(caller.agentId);
  if (sender?.status !== "active") throw new ApiRefusal("agent-suspended");
  if (sender.custody !== "agent") throw new ApiRefusal("custody-mismatch");

  const known = new Map<string, Uint8Array>();
  whole.forEach(({ envelope }, n) => {
    const digest = remembered[n];
    if (digest) known.set(envelope.messageId, digest);
  });
  const fresh: CheckedEnvelope[] = [];
  envelopes.forEach((checked, index) => {
    if (checked === null) return;
    const { messageId, recipientId } = checked.envelope;
    const before = known.get(messageId);
    const rule = rules.get(recipientId);
    if (before !== undefined && !sameBytes(before, checked.digest)) {
      faults.push(
        fault(index, "/message_id", "message-id-reused", "this message_id stands for other bytes", messageId),
      );
    } else if (before === undefined && !mayBeMessaged(agents.get(recipientId))) {
      faults.push(fault(index, "/recipient_id", "recipient-unknown", "no active agent has this id", messageId));
    } else if (before === undefined && rule !== undefined) {
      faults.push(faultOf(rule, { pointer: `/envelopes/${index}/recipient_id`, messageId, recipientId }));
    } else if (before === undefined) {
      fresh.push(checked);
    }
    if (before === undefined) known.set(messageId, checked.digest);
  });
  refuse(deps, faults);
  await takeRoom(
    deps,
    caller.agentId,
    fresh.map(({ index, envelope: { messageId, recipientId } }) => {
      return { pointer: `/envelopes/${index}`, messageId, recipientId };
    }),
  );
  const accepted = whole.map(({ envelope }) => ({ messageId: envelope.messageId }));
  return { senderId: caller.agentId, chain: caller.chain, accepted, fresh };
}

/**
 * The second half of `send`. Calls reach Kafka in the order in which this function is called.
 *
 * @throws Unavailable: the same envelopes may be sent again
 */
export async function appendSend(deps: SendDeps, checked: CheckedSend): Promise<readonly Accepted[]> {
  const { senderId, chain, accepted, fresh } = checked;
  if (fresh.length > 0) {
    await deps.items.append(
      fresh.map(({ envelope, body }) => itemEvent(itemOf(envelope, body, chain), envelope.timestamp)),
    );
    // Not waited for: a later call of this process finds them all the same.
    void deps.digests.remember(
      senderId,
      fresh.map(({ envelope, digest }) => ({ messageId: envelope.messageId, digest })),
    );
  }
  deps.counted("messages_sent", fresh.length);
  deps.counted("messages_repeated", accepted.length - fresh.length);
  return accepted;
}

function checkCount(bodies: readonly Uint8Array[]): void {
  if (bodies.length > SEND_ENVELOPES_MAX) {
    throw new ApiRefusal("too-many", {
      field: "/envelopes",
      detail: `a call takes at most ${SEND_ENVELOPES_MAX} envelopes`,
    });
  }
  if (bodies.length === 0)
    throw new ApiRefusal("malformed", { field: "/envelopes", detail: "a call takes at least one envelope" });
}

/** What the envelope alone can tell; null when it was refused. */
function checkedAlone(
  deps: SendDeps,
  caller: Caller,
  body: Uint8Array,
  index: number,
  faults: Fault[],
): CheckedEnvelope | null {
  const envelope = decoded(deps, body, index, faults);
  if (envelope === null) return null;
  const found = faultOfEnvelope(envelope, caller, deps.now(), index);
  if (found !== null) {
    faults.push(found);
    return null;
  }
  return { index, envelope, body, digest: createHash("sha256").update(body).digest() };
}

function decoded(deps: SendDeps, body: Uint8Array, index: number, faults: Fault[]): Envelope | null {
  const ciphertextBytesMax = deps.ciphertextBytesMax ?? CIPHERTEXT_BYTES_MAX;
  try {
    return decodeEnvelope(body, { ciphertextBytesMax });
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    const field = error.field ?? "";
    // Any bytes are a ciphertext; only there can be too many of them.
    if (field === "/ciphertext") {
      faults.push(fault(index, field, "too-large", `a ciphertext has at most ${ciphertextBytesMax} bytes`));
    } else {
      faults.push(fault(index, field, "malformed", "these are not the canonical bytes of an envelope"));
    }
    return null;
  }
}

function faultOfEnvelope(envelope: Envelope, caller: Caller, nowMs: number, index: number): Fault | null {
  const { messageId } = envelope;
  const idTime = messageIdTime(messageId);
  if (envelope.senderId !== caller.agentId) {
    return fault(index, "/sender_id", "sender-mismatch", "sender_id is not the caller's agent id", messageId);
  }
  if (idTime === null) return fault(index, "/message_id", "malformed", "message_id is not a UUIDv7", messageId);
  if (envelope.timestamp !== idTime) {
    return fault(index, "/timestamp", "timestamp-mismatch", "timestamp is not the time in message_id", messageId);
  }
  const late = faultOfIdTime("message_id", idTime, nowMs);
  return late === null ? null : fault(index, "/message_id", late.code, late.detail, messageId);
}

function refuse(deps: SendDeps, faults: readonly Fault[]): void {
  const inOrder = faults.toSorted((a, b) => indexOf(a) - indexOf(b));
  const [first, ...others] = inOrder;
  if (first === undefined) return;
  deps.counted("messages_refused", faults.length);
  throw new BatchRefusal([first, ...others]);
}

function fault(index: number, field: string, code: ProblemCode, detail: string, messageId?: string): Fault {
  return { pointer: `/envelopes/${index}${field}`, code, detail, ...(messageId === undefined ? {} : { messageId }) };
}

function indexOf({ pointer }: Fault): number {
  return Number(pointer.split("/")[2]);
}

function itemOf(envelope: Envelope, body: Uint8Array, chain: Chain | undefined) {
  return {
    kind: "message" as const,
    itemId: envelope.messageId,
    senderId: envelope.senderId,
    recipientId: envelope.recipientId,
    custody: "agent" as const,
    body,
    delegation: actingFor(chain, "send", envelope.recipientId).delegation,
  };
}

function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0;
}
