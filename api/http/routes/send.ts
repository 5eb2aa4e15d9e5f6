/** Sending envelopes. */
import { encodeEnvelope, envelopeFromJson } from "../../../protocol/envelope.ts";
import { Refusal } from "../../../protocol/refusal.ts";
import { send } from "../../operations/send.ts";
import { BatchRefusal } from "../../problem.ts";
import { sendAnswer, sendBody } from "../message-schemas.ts";
import { route } from "../route.ts";

export const sendEnvelopes = route({
  method: "POST",
  path: "/messaging/send",
  operationId: "send",
  summary: "Send 1 to 100 envelopes",
  description:
    "All or nothing: when one envelope is refused, none is sent, and errors[] names each one at fault. message_id is the idempotency key: the identical envelope again is answered the same and sent once.",
  signedBy: "agent",
  sends: true,
  request: { body: sendBody, messageIdAt: (body) => (path) => messageIdAt(body, path) },
  answers: { 202: { description: "In the log; what becomes of it: GET /messaging/messages/{id}", schema: sendAnswer } },
  refuses: [
    "custody-mismatch",
    "too-many",
    "recipient-unknown",
    "not-allowed",
    "sender-mismatch",
    "message-id-too-old",
    "message-id-in-future",
    "timestamp-mismatch",
    "message-id-reused",
    "pair-full",
  ],
  handle: async (deps, { caller, body }) => {
    const accepted = await send(
      deps,
      caller,
      body.envelopes.map((json, index) => canonicalBytes(json, index)),
    );
    return { status: 202, json: { accepted: accepted.map(({ messageId }) => ({ message_id: messageId })) } };
  },
});

/** The operation checks the size, and says so better. */
const anySize = { ciphertextBytesMax: Number.POSITIVE_INFINITY };

function canonicalBytes(json: unknown, index: number): Uint8Array {
  try {
    return encodeEnvelope(envelopeFromJson(json, anySize), anySize);
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    const pointer = `/envelopes/${index}${error.field ?? ""}`;
    throw new BatchRefusal([{ pointer, code: "malformed", detail: "it does not have the form of protocol.md §6" }]);
  }
}

/** The id of the envelope that `/envelopes/<n>/…` lies in, as far as it has one. */
function messageIdAt(body: unknown, [member, index]: readonly PropertyKey[]): string | undefined {
  if (member !== "envelopes" || typeof index !== "number") return undefined;
  const id = (body as { envelopes: { message_id?: unknown }[] }).envelopes[index]?.message_id;
  return typeof id === "string" && id.length <= 36 ? id : undefined;
}
