/** Reading the mailbox, and answering what was read. */
import { itemToJson } from "../../item-json.ts";
import { type Answer, acknowledge, resolveSeqs, type SeqAnswer } from "../../operations/acknowledge.ts";
import { RECEIVE_ITEMS_MAX, receive } from "../../operations/receive.ts";
import { reportDelivered } from "../../operations/report-delivered.ts";
import { acknowledgeAnswer, acknowledgeBody, receiveAnswer, receiveQuery } from "../message-schemas.ts";
import { appliedOf, preferWait, waitApplied, waitOf } from "../prefer.ts";
import { route } from "../route.ts";

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
    headers: preferWait,
  },
  answers: {
    200: {
      description: "What waits",
      schema: receiveAnswer,
      headers: waitApplied,
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
      json: { items: received.items.map(itemToJson), cursor: String(received.cursor), last_seq: received.lastSeq },
      headers: appliedOf(waitSeconds),
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
    const accepted = await acknowledge(deps, caller, answers, "http");
    deps.answered(caller.agentId, answers);
    return { status: 202, json: { accepted } };
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
