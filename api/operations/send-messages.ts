/**
 * Takes content from agents whose keys the service holds, and appends it, sealed to the encryption tier, to `message.send.v1`.
 *
 * Promise: all or nothing at validation. What is answered is in Kafka (acks=all), and stands there only sealed. The same message again is taken again;
 * *encryption* publishes the envelope it has, or discards another content under the same id as `id-reused`.
 */
import { encodeFrame } from "../../protocol/frame.ts";
import { CIPHERTEXT_BYTES_MAX } from "../../protocol/limits.ts";
import { messageIdTime } from "../../protocol/message-id.ts";
import { Refusal } from "../../protocol/refusal.ts";
import { splitRepairParameter } from "../../protocol/repair-parameter.ts";
import { REKEY_CONTENT_TYPE } from "../../protocol/session.ts";
import type { MessageSend } from "../../schemas/values.ts";
import { messageSend } from "../../streams/catalogue.ts";
import { appendEventId, type NewEvent } from "../../streams/headers.ts";
import type { Caller } from "../auth.ts";
import { mayBeMessaged } from "../may-message.ts";
import { BatchRefusal, type Fault, type ProblemCode } from "../problem.ts";
import type { Counted } from "./counters.ts";
import { type CustodyDeps, requireHeldKeys, withHeldKeys } from "./custody.ts";
import { API_SOURCE, type Appender } from "./events.ts";
import { faultOfIdTime } from "./item-ids.ts";

export interface SendMessagesDeps extends CustodyDeps {
  readonly items: Appender;
  readonly counted: Counted;
  /** ms since the epoch. */
  readonly now: () => number;
  /** The operator's limit; default `CIPHERTEXT_BYTES_MAX`. */
  readonly ciphertextBytesMax?: number;
}

export interface PlainMessage {
  readonly messageId: string;
  readonly recipientId: string;
  readonly contentType: string;
  readonly body: Uint8Array;
}

/** As many as a call with envelopes. */
export const SEND_MESSAGES_MAX = 100;

/**
 * @returns the ids, in order
 * @throws ApiRefusal `custody-mismatch`, `custody-unavailable`, `keys-destroyed`, `keys-unavailable`; BatchRefusal naming each refused message as
 *   `/messages/<index>`; `Unavailable`
 */
export async function sendMessages(
  deps: SendMessagesDeps,
  caller: Caller,
  messages: readonly PlainMessage[],
): Promise<readonly string[]> {
  const custody = await requireHeldKeys(deps, caller);
  const frames = await checked(deps, messages);
  const now = deps.now();
  const commands = await withHeldKeys(() =>
    Promise.all(
      messages.map(async ({ messageId, recipientId }, index): Promise<MessageSend> => {
        const ids = { senderId: caller.agentId, recipientId, messageId };
        const { sealed, hmac } = await custody.sealContent(ids, frames[index] as Uint8Array);
        return { kind: "message", ...ids, sealed, hmac, sessionId: new Uint8Array(), sentAt: now };
      }),
    ),
  );
  await deps.items.append(commands.map(commandEvent));
  deps.counted("messages_sent", commands.length);
  return messages.map(({ messageId }) => messageId);
}

/** A command on its way to the encryption tier. */
export function commandEvent(command: MessageSend): NewEvent<MessageSend> {
  const { senderId, recipientId, messageId, sentAt } = command;
  return {
    topic: messageSend,
    key: `${senderId}:${recipientId}`,
    id: appendEventId(messageSend.name, senderId, messageId),
    source: API_SOURCE,
    subject: `${senderId}/${messageId}`,
    time: sentAt,
    value: command,
  };
}

/** The padded frames. */
async function checked(deps: SendMessagesDeps, messages: readonly PlainMessage[]): Promise<readonly Uint8Array[]> {
  const agents = await deps.findAgents([...new Set(messages.map(({ recipientId }) => recipientId))]);
  const faults: Fault[] = [];
  const seen = new Set<string>();
  const frames = messages.map((message, index) => {
    const { messageId, recipientId, contentType } = message;
    const refuse = (field: string, code: ProblemCode, detail: string) => {
      faults.push({ pointer: `/messages/${index}${field}`, code, detail, messageId });
      return new Uint8Array();
    };
    const idTime = messageIdTime(messageId);
    if (idTime === null) return refuse("/message_id", "malformed", "message_id is not a UUIDv7");
    const late = faultOfIdTime("message_id", idTime, deps.now());
    if (late !== null) return refuse("/message_id", late.code, late.detail);
    if (seen.has(messageId)) return refuse("/message_id", "message-id-reused", "this message_id stands there twice");
    seen.add(messageId);
    if (!mayBeMessaged(agents.get(recipientId))) {
      return refuse("/recipient_id", "recipient-unknown", "no active agent has this id");
    }
    const isProtocols = contentType === REKEY_CONTENT_TYPE || splitRepairParameter(contentType).inRepairOf !== null;
    if (isProtocols) return refuse("/content_type", "malformed", "the protocol's own");
    return frameOf(deps, message, refuse);
  });
  const [first, ...others] = faults;
  if (first === undefined) return frames;
  deps.counted("messages_refused", faults.length);
  throw new BatchRefusal([first, ...others]);
}

function frameOf(
  { ciphertextBytesMax = CIPHERTEXT_BYTES_MAX }: SendMessagesDeps,
  { contentType, body }: PlainMessage,
  refuse: (field: string, code: ProblemCode, detail: string) => Uint8Array,
): Uint8Array {
  try {
    const frame = encodeFrame({ contentType, body });
    if (frame.length <= ciphertextBytesMax) return frame;
    return refuse("/body", "too-large", `type and body, padded, have at most ${ciphertextBytesMax} bytes`);
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    return refuse("/content_type", "malformed", "it has no UTF-8, or too much of it");
  }
}
