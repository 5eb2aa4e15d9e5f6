/**
 * Commands to the encryption tier, as they are appended by whoever has something for it to do.
 */
import { EMPTY } from "../protocol/bytes.ts";
import type { MessageSend } from "../schemas/values.ts";
import { messageSend } from "./catalogue.ts";
import { appendEventId, type NewEvent } from "./headers.ts";

/** @param source `ce_source` */
export function commandEvent(command: MessageSend, source: string): NewEvent<MessageSend> {
  const { senderId, recipientId, messageId, sentAt } = command;
  return {
    topic: messageSend,
    key: `${senderId}:${recipientId}`,
    id: appendEventId(messageSend.name, senderId, messageId),
    source,
    subject: `${senderId}/${messageId}`,
    time: sentAt,
    value: command,
  };
}

type ProtocolCommand = Pick<MessageSend, "messageId" | "senderId" | "recipientId" | "sentAt"> &
  (
    | { readonly kind: "rekey"; readonly sessionId: Uint8Array }
    | { readonly kind: "retry" | "repair"; readonly aboutId: string }
  );

/** A command of the protocol itself: it brings no content. */
export function protocolCommand(command: ProtocolCommand): MessageSend {
  return { sealed: EMPTY, hmac: EMPTY, sessionId: EMPTY, aboutId: null, ...command };
}
