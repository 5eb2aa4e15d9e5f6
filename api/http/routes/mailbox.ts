/** Reading the mailbox, and answering what was read. */
import { decodeEnvelope, type EnvelopeJson, envelopeToJson } from "../../../protocol/envelope.ts";
import type { StoredItem } from "../../../store/mailbox.ts";
import { type Answer, acknowledge, resolveSeqs, type SeqAnswer } from "../../operations/acknowledge.ts";
import { RECEIVE_ITEMS_MAX, receive, WAIT_SECONDS_MAX } from "../../operations/receive.ts";
import { reportDelivered } from "../../operations/report-delivered.ts";
import { route } from "../route.ts";
import { acknowledgeAnswer, acknowledgeBody, receiveAnswer, receiveQuery } from "../schemas.ts";

export const poll = route({
  method: "GET",
  path: "/messaging/receive",
  operationId: "receive",
  summary: "Read what waits, or wait for it",
  description:
    "Up to 100 items and 4 MiB by seq, after the cursor. Items wait until they are answered: a sweep from the start brings them again.",
  signedBy: "agent",
  request: {
    query: receiveQuery,
    headers: { Prefer: `wait=<seconds, 0 to ${WAIT_SECONDS_MAX}>: how long to wait for a first item (RFC 7240)` },
  },
  answers: {
    200: {
      description: "What waits",
      schema: receiveAnswer,
      headers: { "Preference-Applied": "wait=<seconds>, when Prefer was followed" },
    },
  },
  refuses: ["stream-open"],
  handle: async (deps, { caller, query, headers: { prefer }, signal }) => {
    const waitSeconds = waitOf(prefer);
    const received = await receive(deps, caller, {
      afterSeq: Number(query.after ?? "0"),
      limit: Number(query.limit ?? RECEIVE_ITEMS_MAX),
      waitMs: (waitSeconds ?? 0) * 1000,
      signal,
    });
    return {
      status: 200,
      json: { items: received.items.map(toWire), cursor: String(received.cursor), last_seq: received.lastSeq },
      ...(waitSeconds === null ? {} : { headers: { "preference-applied": `wait=${waitSeconds}` } }),
      written: () => reportDelivered(deps, caller.agentId, received.items, "http"),
    };
  },
});

export const answerItems = route({
  method: "POST",
  path: "/messaging/acknowledge",
  operationId: "acknowledge",
  summary: "Answer up to 1,000 items",
  description:
    "Says of items in the caller's own mailbox that they were decrypted, or (refused) that they can never be used. An answer ends the item; the first one counts.",
  signedBy: "agent",
  request: { body: acknowledgeBody },
  answers: { 202: { description: "In the log", schema: acknowledgeAnswer } },
  refuses: ["too-many"],
  handle: async (deps, { caller, body }) => {
    const { byId, bySeq } = sorted(body.items);
    const answers = [...byId, ...(await resolveSeqs(deps, caller, bySeq))];
    return { status: 202, json: { accepted: await acknowledge(deps, caller, answers, "http") } };
  },
});

interface WireAnswer {
  readonly sender_id?: string | undefined;
  readonly message_id?: string | undefined;
  readonly seq?: number | undefined;
  readonly refused?: Exclude<Answer["code"], undefined> | undefined;
}

function sorted(items: readonly WireAnswer[]): { byId: Answer[]; bySeq: SeqAnswer[] } {
  const byId: Answer[] = [];
  const bySeq: SeqAnswer[] = [];
  for (const { sender_id: senderId, message_id: messageId, seq, refused } of items) {
    const verdict =
      refused === undefined ? { outcome: "acknowledged" as const } : { outcome: "refused" as const, code: refused };
    if (seq !== undefined) bySeq.push({ seq, ...verdict });
    else if (senderId !== undefined && messageId !== undefined) byId.push({ senderId, messageId, ...verdict });
  }
  return { byId, bySeq };
}

/** What was accepted under an operator's older, larger limit is still handed out. */
const anySize = { ciphertextBytesMax: Number.POSITIVE_INFINITY };

function toWire({ seq, kind, senderId, itemId, body }: StoredItem): Record<string, unknown> {
  const content =
    kind === "message" ? { envelope: envelopeJson(body) } : { retry: JSON.parse(Buffer.from(body).toString("utf8")) };
  return { seq, kind, sender_id: senderId, item_id: itemId, ...content };
}

/** The platform encodes a long ciphertext a hundred times as fast as the codec; both spell it the one right way. */
function envelopeJson(body: Uint8Array): EnvelopeJson {
  const envelope = decodeEnvelope(body, anySize);
  const json = envelopeToJson({ ...envelope, ciphertext: new Uint8Array() }, anySize);
  return { ...json, ciphertext: Buffer.from(envelope.ciphertext).toString("base64url") };
}

/** RFC 7240: null when nothing was preferred that is understood here; more than the most is the most. */
function waitOf(prefer: string | string[] | undefined): number | null {
  const preferences = (Array.isArray(prefer) ? prefer.join(",") : (prefer ?? "")).split(/[,;]/);
  for (const preference of preferences) {
    const match = /^\s*wait\s*=\s*"?(\d{1,6})"?\s*$/i.exec(preference);
    if (match !== null) return Math.min(Number(match[1]), WAIT_SECONDS_MAX);
  }
  return null;
}
