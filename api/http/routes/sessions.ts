/** What the service knows of sessions, and asking for a message again. */
import { decodeBase64Url, encodeBase64Url } from "../../../protocol/base64url.ts";
import { retryRequestFromJson } from "../../../protocol/retry-request.ts";
import { formatTimestamp } from "../../../protocol/timestamp.ts";
import type { FactsCursor, SessionFacts } from "../../../store/session-facts.ts";
import { requestRetry } from "../../operations/request-retry.ts";
import { type PairSession, pairCustody, pairSessions, sentSessions } from "../../operations/session-facts.ts";
import { retryAnswer, retryBody } from "../message-schemas.ts";
import { route } from "../route.ts";
import { pairSessionsAnswer, pairSessionsPath, sentSessionsAnswer, sentSessionsQuery } from "../session-schemas.ts";

export const sentFacts = route({
  method: "GET",
  path: "/messaging/sessions",
  operationId: "sentSessions",
  summary: "What the caller sent last in each of its sessions",
  description:
    "Newest first, 100 a page. A message_id that the caller does not know was sent by somebody with its keys: its store is behind.",
  signedBy: "agent",
  request: { query: sentSessionsQuery },
  answers: { 200: { description: "A page", schema: sentSessionsAnswer } },
  refuses: [],
  handle: async (deps, { caller, query }) => {
    const { sessions, next } = await sentSessions(deps, caller, cursorOf(query.after));
    return {
      status: 200,
      json: { sessions: sessions.map(sentToWire), ...(next === null ? {} : { cursor: cursorToWire(next) }) },
    };
  },
});

export const pairFacts = route({
  method: "GET",
  path: "/messaging/sessions/{peer}",
  operationId: "pairSessions",
  summary: "The caller's sessions with a peer",
  description:
    "The newest 100, newest first: what each side sent last, as the log shows it, and who can read what is said between the two. For agents of either custody.",
  signedBy: "agent",
  request: { path: pairSessionsPath },
  answers: { 200: { description: "Their sessions", schema: pairSessionsAnswer } },
  refuses: [],
  handle: async (deps, { caller, path }) => {
    const [sessions, { custody, peerCustody }] = await Promise.all([
      pairSessions(deps, caller, path.peer),
      pairCustody(deps, caller, path.peer),
    ]);
    const isReadable = custody === "server" || peerCustody === "server";
    return {
      status: 200,
      json: {
        custody,
        ...(peerCustody === null ? {} : { peer_custody: peerCustody }),
        readable_by: isReadable ? "agents-and-operator" : "agents",
        sessions: sessions.map((session) => pairToWire(path.peer, session)),
      },
    };
  },
});

export const retryRequest = route({
  method: "POST",
  path: "/messaging/retry-requests",
  operationId: "requestRetry",
  summary: "Ask the sender of a message for its content anew",
  description:
    "For a message that could not be opened: a signed retry request (protocol.md §4), as an item in its sender's mailbox. item_id is the idempotency key.",
  signedBy: "agent",
  request: { body: retryBody },
  answers: { 202: { description: "In the log", schema: retryAnswer } },
  refuses: [
    "retry-mismatch",
    "retry-signature-invalid",
    "message-id-too-old",
    "message-id-in-future",
    "message-id-reused",
    "message-unknown",
    "recipient-unknown",
    "not-allowed",
    "rate-limited",
    "pair-full",
  ],
  handle: async (deps, { caller, body }) => {
    await requestRetry(deps, caller, { itemId: body.item_id, retry: retryRequestFromJson(body.retry) });
    return { status: 202, json: { item_id: body.item_id } };
  },
});

function pairToWire(peerId: string, { sessionId, initiated, sent, received }: PairSession): Record<string, unknown> {
  return {
    session_id: encodeBase64Url(sessionId),
    peer_id: peerId,
    ...(initiated === null
      ? {}
      : {
          initiator_id: initiated.initiatorId,
          suite: initiated.suite,
          initialized_at: formatTimestamp(initiated.at),
        }),
    ...(sent === null ? {} : { sent: sideToWire(sent) }),
    ...(received === null ? {} : { received: sideToWire(received) }),
  };
}

function sideToWire(facts: SessionFacts): Record<string, unknown> {
  return {
    dh_public_key: encodeBase64Url(facts.dhPublicKey),
    send_counter: facts.sendCounter,
    previous_counter: facts.previousCounter,
    message_id: facts.messageId,
    messages: facts.messages,
    first_at: formatTimestamp(facts.firstAt),
    last_at: formatTimestamp(facts.lastAt),
  };
}

function sentToWire(facts: SessionFacts): Record<string, unknown> {
  return {
    peer_id: facts.peerId,
    session_id: encodeBase64Url(facts.sessionId),
    dh_public_key: encodeBase64Url(facts.dhPublicKey),
    send_counter: facts.sendCounter,
    message_id: facts.messageId,
    last_at: formatTimestamp(facts.lastAt),
  };
}

function cursorToWire({ lastAt, peerId, sessionId }: FactsCursor): string {
  return `${lastAt}.${peerId}.${encodeBase64Url(sessionId)}`;
}

/** Of a cursor that the schema let through. */
function cursorOf(text: string | undefined): FactsCursor | null {
  if (text === undefined) return null;
  const [lastAt, peerId = "", session = ""] = text.split(".");
  const sessionId = decodeBase64Url(session);
  if (sessionId === null) throw new Error("the schema let something through that is no cursor");
  return { lastAt: Number(lastAt), peerId, sessionId };
}
