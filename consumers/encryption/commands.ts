/**
 * Which commands are taken, and what they are known by. Pure.
 *
 * Ingress has checked the same; the log is not believed.
 */
import { SESSION_ID_BYTES } from "../../protocol/envelope.ts";
import { isAgentId } from "../../protocol/identity.ts";
import { isTimely, messageIdTime } from "../../protocol/message-id.ts";
import { Refusal } from "../../protocol/refusal.ts";
import type { MessageSend } from "../../schemas/values.ts";
import type { Pair } from "../../store/custody/states.ts";
import type { Inbound } from "../../streams/consumer.ts";

type CommandFault = "malformed" | "item-mismatch" | "id-time-mismatch";

/** @throws Refusal `malformed`, `item-mismatch` or `id-time-mismatch` */
export function checkCommand({ key, timestamp, value }: Inbound<MessageSend>): void {
  const { senderId, recipientId } = value;
  if (key !== keyOf(value)) throw new Refusal<CommandFault>("item-mismatch");
  if (!isAgentId(senderId) || !isAgentId(recipientId)) throw new Refusal<CommandFault>("malformed");
  if (!isWhole(value) || messageIdTime(value.messageId) === null) throw new Refusal<CommandFault>("malformed");
  if (!isTimely(value.messageId, timestamp)) throw new Refusal<CommandFault>("id-time-mismatch");
}

function isWhole({ kind, sealed, sessionId, aboutId }: MessageSend): boolean {
  switch (kind) {
    case "message":
      return sealed.length > 0;
    case "rekey":
      return sessionId.length === SESSION_ID_BYTES;
    case "retry":
    case "repair":
      return aboutId !== null;
  }
}

function keyOf({ senderId, recipientId }: MessageSend): string {
  return `${senderId}:${recipientId}`;
}

export function pairOf({ senderId, recipientId }: MessageSend): Pair {
  return { ownerId: senderId, peerId: recipientId };
}

/** Each once. */
export function distinct<Value>(values: readonly Value[], name: (value: Value) => string): readonly Value[] {
  return [...new Map(values.map((value) => [name(value), value])).values()];
}
