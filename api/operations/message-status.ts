/**
 * What became of messages, for their sender and their recipient; for everybody else they do not exist. What the service said anew for its sender stays one message for that: what became
 * of the first is what became of its newest successor.
 */
import type { DiscardedCommand } from "../../store/custody/discarded.ts";
import { type MessageState, messageName } from "../../store/messages.ts";
import type { Caller } from "../auth.ts";
import { ApiRefusal } from "../problem.ts";

export interface MessageKey {
  readonly senderId: string;
  readonly messageId: string;
}

export interface MessageStatus extends MessageKey {
  readonly recipientId: string;
  /** `discarded`: the service, which was to encrypt it, did not, and nobody else has it. */
  readonly status: MessageState | "discarded";
  /** SHA-256 of the canonical bytes; null for what was discarded: there are none. */
  readonly digest: Uint8Array | null;
  /** Why it was refused or discarded. */
  readonly code: string | null;
  /** Times in ms since the epoch. */
  readonly acceptedAt: number;
  /** Null for what was discarded. */
  readonly queuedAt: number | null;
  /** When its recipient could not be woken; it waits all the same. */
  readonly undeliverableAt: number | null;
  readonly deliveredAt: number | null;
  readonly endedAt: number | null;
}

export interface MessageStatusDeps {
  /** In any order; unknown ones are left out. Throws `Unavailable`. */
  readonly findMessages: (keys: readonly MessageKey[]) => Promise<readonly MessageStatus[]>;
  /** In any order; those that were discarded before they were encrypted, and were not since. Throws `Unavailable`. */
  readonly findDiscarded: (keys: readonly MessageKey[]) => Promise<readonly DiscardedCommand[]>;
  /** By `messageName`, the newest last; those that were not said anew are left out. Throws `Unavailable`. */
  readonly findSuccessors: (keys: readonly MessageKey[]) => Promise<ReadonlyMap<string, readonly MessageKey[]>>;
}

/** As many as a call may send. */
export const STATUS_MESSAGES_MAX = 100;

/** @throws ApiRefusal `message-unknown`; `Unavailable` */
export async function messageStatus(deps: MessageStatusDeps, caller: Caller, key: MessageKey): Promise<MessageStatus> {
  const [status] = await messageStatuses(deps, caller, [key]);
  if (status === undefined || status === null) throw new ApiRefusal("message-unknown");
  return status;
}

/**
 * @returns one entry per key, in order; null for what is unknown, or is not the caller's to know
 * @throws ApiRefusal `too-many`; `Unavailable`
 */
export async function messageStatuses(
  deps: MessageStatusDeps,
  caller: Caller,
  keys: readonly MessageKey[],
): Promise<readonly (MessageStatus | null)[]> {
  if (keys.length > STATUS_MESSAGES_MAX) {
    throw new ApiRefusal("too-many", {
      field: "/messages",
      detail: `a call takes at most ${STATUS_MESSAGES_MAX} messages`,
    });
  }
  const found = new Map((await deps.findMessages(keys)).map((status) => [messageName(status), status]));
  for (const status of await saidAnew(deps, caller, [...found.values()])) found.set(messageName(status), status);
  // A recipient never had what was discarded: it is its sender's to know, and nobody else's.
  const own = keys.filter((key) => key.senderId === caller.agentId && !found.has(messageName(key)));
  for (const command of own.length === 0 ? [] : await deps.findDiscarded(own)) {
    found.set(messageName(command), statusOf(command));
  }
  return keys.map((key) => {
    const status = found.get(messageName(key));
    return status !== undefined && concerns(status, caller) ? status : null;
  });
}

/** Of the caller's messages that have ended without an answer, those that were said anew: as their newest successor stands that is stored. */
async function saidAnew(
  { findMessages, findSuccessors }: MessageStatusDeps,
  { agentId }: Caller,
  statuses: readonly MessageStatus[],
): Promise<readonly MessageStatus[]> {
  const lost = statuses.filter(
    ({ senderId, status, endedAt }) => senderId === agentId && endedAt !== null && status !== "acknowledged",
  );
  const successors = lost.length === 0 ? new Map<string, readonly MessageKey[]>() : await findSuccessors(lost);
  if (successors.size === 0) return [];
  const found = await findMessages([...successors.values()].flat());
  const stored = new Map(found.map((status) => [messageName(status), status]));
  return lost.flatMap((first) => {
    const newest = (successors.get(messageName(first)) ?? [])
      .flatMap((key) => stored.get(messageName(key)) ?? [])
      .at(-1);
    return newest === undefined ? [] : [{ ...newest, messageId: first.messageId }];
  });
}

function concerns({ senderId, recipientId }: MessageStatus, { agentId }: Caller): boolean {
  return senderId === agentId || recipientId === agentId;
}

/** It was judged by the time at which the log took it. */
function statusOf({ discardedAt, ...command }: DiscardedCommand): MessageStatus {
  return {
    ...command,
    status: "discarded",
    digest: null,
    acceptedAt: discardedAt,
    queuedAt: null,
    undeliverableAt: null,
    deliveredAt: null,
    endedAt: discardedAt,
  };
}
