/**
 * Takes content from agents whose keys the service holds, sealed by the agent itself or by this, and appends it to `message.send.v1`.
 *
 * Promise: all or nothing at validation. What is answered is in Kafka (acks=all), and stands there only sealed. The same message again is taken again,
 * also when it was sealed anew; *encryption*, which opens it, publishes the envelope it has, or discards another content under the same id as `id-reused`.
 */
import { EMPTY } from "../../protocol/bytes.ts";
import { encodeFrame, padme } from "../../protocol/frame.ts";
import { INGRESS_OVERHEAD_BYTES, ingressEpoch } from "../../protocol/ingress.ts";
import { CIPHERTEXT_BYTES_MAX } from "../../protocol/limits.ts";
import { messageIdTime } from "../../protocol/message-id.ts";
import { Refusal } from "../../protocol/refusal.ts";
import { fitsAnew } from "../../protocol/repair-parameter.ts";
import { isProtocolsOwn } from "../../protocol/session.ts";
import type { MessageSend } from "../../schemas/values.ts";
import { commandEvent } from "../../streams/command-events.ts";
import type { Caller } from "../auth.ts";
import { actingFor } from "../authz/delegation.ts";
import { faultOf, type PermissionDeps, rulesAgainst } from "../authz/permission.ts";
import { mayBeMessaged } from "../may-message.ts";
import { BatchRefusal, type Fault, type ProblemCode } from "../problem.ts";
import { type CustodyDeps, type CustodyDoor, requireHeldKeys, withHeldKeys } from "./custody.ts";
import { API_SOURCE, type Appender } from "./events.ts";
import { faultOfIdTime } from "./item-ids.ts";
import { type MailboxRoomDeps, takeRoom } from "./mailbox-room.ts";

export interface SendMessagesDeps extends CustodyDeps, MailboxRoomDeps, PermissionDeps {
  readonly items: Appender;
  /** ms since the epoch. */
  readonly now: () => number;
  /** The operator's limit; default `CIPHERTEXT_BYTES_MAX`. */
  readonly ciphertextBytesMax?: number;
}

interface MessageIds {
  readonly messageId: string;
  readonly recipientId: string;
}

/** The API sees it, and seals it. */
interface PlainMessage extends MessageIds {
  readonly contentType: string;
  readonly body: Uint8Array;
}

/** Its sender sealed the padded frame (protocol/ingress.ts). */
interface SealedMessage extends MessageIds {
  readonly sealed: Uint8Array;
}

export type NewMessage = PlainMessage | SealedMessage;

/** What passed the checks: a padded frame that is to be sealed, or what its sender sealed. */
type Content = { readonly frame: Uint8Array } | { readonly sealed: Uint8Array };

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
  messages: readonly NewMessage[],
): Promise<readonly string[]> {
  const custody = await requireHeldKeys(deps, caller);
  const contents = await checked(deps, caller, custody, messages);
  await takeRoom(
    deps,
    caller.agentId,
    messages.map(({ messageId, recipientId }, index) => ({ pointer: `/messages/${index}`, messageId, recipientId })),
  );
  const now = deps.now();
  const commands = await withHeldKeys(async () => {
    custody.requireKeys(caller.agentId);
    return Promise.all(
      messages.map(async ({ messageId, recipientId }, index): Promise<MessageSend> => {
        const ids = { senderId: caller.agentId, recipientId, messageId };
        const content = contents[index] as Content;
        const sealed = "sealed" in content ? content.sealed : await custody.sealContent(ids, content.frame);
        const { delegation } = actingFor(caller.chain, "send", recipientId);
        return {
          kind: "message",
          ...ids,
          sealed,
          hmac: EMPTY,
          sessionId: EMPTY,
          aboutId: null,
          sentAt: now,
          delegation,
        };
      }),
    );
  });
  await deps.items.append(commands.map((command) => commandEvent(command, API_SOURCE)));
  deps.counted("messages_sent", commands.length);
  return messages.map(({ messageId }) => messageId);
}

type Refuse = (field: string, code: ProblemCode, detail: string) => Content;

const NOTHING: Content = { sealed: EMPTY };

async function checked(
  deps: SendMessagesDeps,
  caller: Caller,
  custody: CustodyDoor,
  messages: readonly NewMessage[],
): Promise<readonly Content[]> {
  const recipientIds = [...new Set(messages.map(({ recipientId }) => recipientId))];
  const [agents, rules] = await Promise.all([
    deps.findAgents(recipientIds),
    rulesAgainst(deps, caller, recipientIds, "send"),
  ]);
  const faults: Fault[] = [];
  const seen = new Set<string>();
  const contents = messages.map((message, index) => {
    const { messageId, recipientId } = message;
    const refuse: Refuse = (field, code, detail) => {
      faults.push({ pointer: `/messages/${index}${field}`, code, detail, messageId });
      return NOTHING;
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
    const rule = rules.get(recipientId);
    if (rule !== undefined) {
      faults.push(faultOf(rule, { pointer: `/messages/${index}/recipient_id`, messageId, recipientId }));
      return NOTHING;
    }
    return "sealed" in message ? sealedContent(deps, custody, message, refuse) : plainContent(deps, message, refuse);
  });
  const [first, ...others] = faults;
  if (first === undefined) return contents;
  deps.counted("messages_refused", faults.length);
  throw new BatchRefusal([first, ...others]);
}

/** All that can be said of what only the encryption tier opens. */
function sealedContent(
  { ciphertextBytesMax = CIPHERTEXT_BYTES_MAX }: SendMessagesDeps,
  custody: CustodyDoor,
  { sealed }: SealedMessage,
  refuse: Refuse,
): Content {
  const frameBytes = sealed.length - INGRESS_OVERHEAD_BYTES;
  if (frameBytes > ciphertextBytesMax) {
    return refuse("/sealed", "too-large", `type and body, padded, have at most ${ciphertextBytesMax} bytes`);
  }
  let epoch: number;
  try {
    epoch = ingressEpoch(sealed);
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    return refuse("/sealed", "malformed", "it does not have the form of content sealed to the service");
  }
  // The log shows how long it is.
  if (padme(frameBytes) !== frameBytes) return refuse("/sealed", "malformed", "what was sealed is not a padded frame");
  if (!custody.isEpochAccepted(epoch)) {
    return refuse("/sealed", "epoch-refused", "it is sealed to another key than those of today and yesterday");
  }
  return { sealed };
}

function plainContent(
  { ciphertextBytesMax = CIPHERTEXT_BYTES_MAX }: SendMessagesDeps,
  { contentType, body }: PlainMessage,
  refuse: Refuse,
): Content {
  if (isProtocolsOwn(contentType)) return refuse("/content_type", "malformed", "the protocol's own");
  try {
    const frame = encodeFrame({ contentType, body });
    if (fitsAnew({ contentType, body }, ciphertextBytesMax)) return { frame };
    return refuse(
      "/body",
      "too-large",
      `type and body, padded, have at most ${ciphertextBytesMax} bytes, with 51 to spare`,
    );
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    return refuse("/content_type", "malformed", "it has no UTF-8, or too much of it");
  }
}
