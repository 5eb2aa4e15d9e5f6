/**
 * Takes a retry request to the sender of a message that could not be opened (protocol.md §4, Repair): an item of kind `retry` in its mailbox.
 *
 * Promise: only who got a message may ask for it again, so nobody is asked for what it never sent. What is answered is in Kafka (acks=all). The same call
 * again is the same answer; as long as its digest is remembered nothing new is appended, and while the item waits it is stored once.
 */
import { createHash } from "node:crypto";
import { messageIdTime } from "../../protocol/message-id.ts";
import { nodePrimitives } from "../../protocol/primitives/node.ts";
import { Refusal } from "../../protocol/refusal.ts";
import { checkRetryRequest, type RetryRequest, retryRequestToJson } from "../../protocol/retry-request.ts";
import type { Limit, LimitsDoor } from "../../store/limits.ts";
import { unlessAway } from "../../store/redis.ts";
import type { Agent, FindAgents } from "../agents.ts";
import type { Caller } from "../auth.ts";
import { type PermissionDeps, requireNotBlocked } from "../authz/permission.ts";
import { ApiRefusal } from "../problem.ts";
import type { Room } from "../room.ts";
import type { Counted } from "./counters.ts";
import { type Appender, itemEvent } from "./events.ts";
import { faultOfIdTime } from "./item-ids.ts";
import { takeRoomForItem } from "./mailbox-room.ts";
import type { MessageStatusDeps } from "./message-status.ts";
import type { Digests } from "./send.ts";

export interface RequestRetryDeps extends Pick<MessageStatusDeps, "findMessages">, PermissionDeps {
  readonly findAgents: FindAgents;
  readonly limits: LimitsDoor;
  readonly digests: Digests;
  readonly room: Room;
  /** For envelopes: at once, without lingering. */
  readonly items: Appender;
  readonly counted: Counted;
  /** ms since the epoch. */
  readonly now: () => number;
}

export interface RequestRetryInput {
  /** UUIDv7 made by the caller: names the item among the caller's. */
  readonly itemId: string;
  readonly retry: RetryRequest;
}

/**
 * Between one caller and one sender. A session that broke loses what was under way, some dozens of messages, each asked for once or twice; more is a loop,
 * and each may cost the other a new session.
 */
const RETRIES: Limit = { name: "retry-requests", points: 60, seconds: 3_600 };

/**
 * @throws ApiRefusal `retry-mismatch`, `malformed`, `message-id-too-old`, `message-id-in-future`, `retry-signature-invalid`, `recipient-unknown`,
 *   `message-unknown`, `not-allowed`, `message-id-reused`, `rate-limited`, `pair-full`; `Unavailable`: the same call may be made again
 */
export async function requestRetry(deps: RequestRetryDeps, caller: Caller, input: RequestRetryInput): Promise<void> {
  const { itemId, retry } = input;
  if (retry.recipientId !== caller.agentId) throw new ApiRefusal("retry-mismatch", { field: "/retry/recipient_id" });
  const idTime = checkedIdTime(itemId, deps.now());
  const body = Buffer.from(JSON.stringify(retryRequestToJson(retry)));
  const digest = createHash("sha256").update(body).digest();
  const [agents, messages, remembered] = await Promise.all([
    deps.findAgents([caller.agentId, retry.senderId]),
    deps.findMessages([{ senderId: retry.senderId, messageId: retry.messageId }]),
    deps.digests.lookup(caller.agentId, [itemId]),
  ]);
  const asking = agents.get(caller.agentId);
  if (asking?.status !== "active") throw new ApiRefusal("agent-suspended");
  checkSigned(retry, asking, deps.now());
  const sender = agents.get(retry.senderId);
  // Suspended is not for good: the request waits in its mailbox, as what is asked for waited.
  if (sender === undefined || sender.status === "revoked") {
    throw new ApiRefusal("recipient-unknown", {
      field: "/retry/sender_id",
      detail: "no agent has this id, or it was revoked",
    });
  }
  if (messages[0]?.recipientId !== caller.agentId) {
    throw new ApiRefusal("message-unknown", { field: "/retry/message_id" });
  }
  await requireNotBlocked(deps, caller, retry.senderId, "/retry/sender_id");
  const [before] = remembered;
  if (before) {
    if (Buffer.compare(before, digest) === 0) return;
    throw new ApiRefusal("message-id-reused", { field: "/item_id", detail: "this item_id stands for other bytes" });
  }
  await withinLimit(deps, `${caller.agentId}:${retry.senderId}`, async () => {
    await takeRoomForItem(deps.room, caller.agentId, {
      ...{ field: "/retry/sender_id", itemId, recipientId: retry.senderId },
    });
    await deps.items.append([
      itemEvent(
        {
          ...{ kind: "retry", itemId, senderId: caller.agentId, recipientId: retry.senderId },
          ...{ custody: asking.custody, body },
        },
        idTime,
      ),
    ]);
  });
  // Not waited for: a later call of this process finds it all the same.
  void deps.digests.remember(caller.agentId, [{ messageId: itemId, digest }]);
  deps.counted("retry_requests_sent", 1);
}

function checkedIdTime(itemId: string, nowMs: number): number {
  const idTime = messageIdTime(itemId);
  if (idTime === null) throw new ApiRefusal("malformed", { field: "/item_id", detail: "item_id is not a UUIDv7" });
  const fault = faultOfIdTime("item_id", idTime, nowMs);
  if (fault !== null) throw new ApiRefusal(fault.code, { field: "/item_id", detail: fault.detail });
  return idTime;
}

/** The sender will check the same; here it is told to the one who can do something about it. */
function checkSigned(retry: RetryRequest, { identityKey: recipientIdentityKey }: Agent, now: number): void {
  try {
    checkRetryRequest(nodePrimitives, retry, { recipientIdentityKey, now });
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    if (error.code === "malformed") {
      throw new ApiRefusal("malformed", {
        field: "/retry/time",
        detail: "time is more than 30 days ago or more than 5 minutes ahead",
      });
    }
    if (error.code === "signature-invalid") {
      throw new ApiRefusal("retry-signature-invalid", { field: "/retry/signature" });
    }
    throw error;
  }
}

/** While Redis is away nobody counts: a broken session must not have to wait for it. What was not taken does not count either. */
async function withinLimit(deps: RequestRetryDeps, pair: string, append: () => Promise<void>): Promise<void> {
  const allowance = await unlessAway(deps.limits.consume(RETRIES, pair));
  if (allowance?.allowed === false) {
    throw new ApiRefusal("rate-limited", {
      field: "/retry/sender_id",
      detail: `an agent may ask another ${RETRIES.points} times an hour`,
      retryAfterMs: allowance.retryAfterMs,
    });
  }
  try {
    await append();
  } catch (error) {
    if (allowance !== null) await unlessAway(deps.limits.giveBack(RETRIES, pair));
    throw error;
  }
}
