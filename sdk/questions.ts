/** What agents of both custodies ask the service, and tell it, in the same way. Throws what signed-http.ts throws. */
import { SESSION_ID_BYTES } from "../protocol/envelope.ts";
import { JsonReader } from "../protocol/json-reader.ts";
import { formatTimestamp } from "../protocol/timestamp.ts";
import { memberOf, notUnderstood, understood } from "./answers.ts";
import { ServiceRefused } from "./errors.ts";
import {
  MESSAGE_STATUSES,
  type MessageOutcome,
  type PairSession,
  type PairSessions,
  type SessionSide,
  type UsagePage,
  type UsagePeriod,
  type UsageQuestion,
} from "./service.ts";
import type { SignedHttp } from "./signed-http.ts";

const CUSTODIES = ["agent", "server"] as const;

/** What became of messages of this agent, of at most 100; those that the service does not know are missing. */
export async function askOutcomes(http: SignedHttp, messageIds: readonly string[]): Promise<MessageOutcome[]> {
  const json = { messages: messageIds.map((message_id) => ({ message_id })) };
  try {
    const answer = await http.call({ method: "POST", path: "/messaging/messages/status", json });
    const messages = memberOf(answer, "messages");
    // Taken for none, every message would be one that the service does not know.
    if (!Array.isArray(messages)) throw notUnderstood();
    return messages.flatMap(readOutcome);
  } catch (error) {
    if (error instanceof ServiceRefused && error.code === "message-unknown") return [];
    throw error;
  }
}

/** Takes a delegation of this agent's back. */
export async function tellRevocation(http: SignedHttp, tokenId: string): Promise<void> {
  await http.call({ method: "POST", path: `/messaging/delegations/${encodeURIComponent(tokenId)}/revoke` });
}

/** What the service knows of the sessions with a peer, and who can read what is said in them. */
export async function askPairSessions(http: SignedHttp, peerId: string): Promise<PairSessions> {
  const answer = await http.call({ method: "GET", path: `/messaging/sessions/${peerId}` });
  const sessions = memberOf(answer, "sessions");
  if (!Array.isArray(sessions)) throw notUnderstood();
  return understood(() => ({
    custody: custodyOf(memberOf(answer, "custody")),
    peerCustody: custodyOf(memberOf(answer, "peer_custody")),
    isReadByOperator: memberOf(answer, "readable_by") === "agents-and-operator",
    sessions: sessions.map((session) => readPairSession(new JsonReader(session))),
  }));
}

/** What this agent used; a page, the earliest first. */
export async function askUsage(
  http: SignedHttp,
  { from, to, granularity }: UsageQuestion,
  cursor: string | null,
): Promise<UsagePage> {
  const query = {
    ...(from === undefined ? {} : { from: formatTimestamp(from) }),
    ...(to === undefined ? {} : { to: formatTimestamp(to) }),
    ...(granularity === undefined ? {} : { granularity }),
    ...(cursor === null ? {} : { after: cursor }),
  };
  const answer = await http.call({ method: "GET", path: "/messaging/usage", query });
  const [periods, next] = [memberOf(answer, "usage"), memberOf(answer, "cursor")];
  if (!Array.isArray(periods)) throw notUnderstood();
  return {
    periods: understood(() => periods.map((period) => readUsage(new JsonReader(period)))),
    cursor: typeof next === "string" ? next : null,
  };
}

/** None for a message that is not known. */
function readOutcome(json: unknown): MessageOutcome[] {
  const { message_id, status: stated, code } = (json ?? {}) as Record<string, unknown>;
  const status = MESSAGE_STATUSES.find((known) => known === stated);
  if (typeof message_id !== "string" || status === undefined) return [];
  return [{ messageId: message_id, status, code: typeof code === "string" ? code : null }];
}

function custodyOf(stated: unknown): PairSessions["custody"] {
  return CUSTODIES.find((known) => known === stated) ?? null;
}

function readUsage(object: JsonReader): UsagePeriod {
  return {
    start: object.timestamp("start"),
    messagesSent: object.number("messages_sent"),
    bytesSent: object.number("bytes_sent"),
    messagesReceived: object.number("messages_received"),
    bytesReceived: object.number("bytes_received"),
    messagesAcknowledged: object.number("messages_acknowledged"),
    bytesAcknowledged: object.number("bytes_acknowledged"),
    messagesDiscarded: object.number("messages_discarded"),
    bytesDiscarded: object.number("bytes_discarded"),
    messagesStored: object.number("messages_stored"),
    bytesStored: object.number("bytes_stored"),
  };
}

function readPairSession(object: JsonReader): PairSession {
  return {
    sessionId: object.bytes("session_id", SESSION_ID_BYTES),
    initiatorId: object.has("initiator_id") ? object.string("initiator_id") : null,
    suite: object.has("suite") ? object.number("suite") : null,
    initializedAt: object.has("initialized_at") ? object.timestamp("initialized_at") : null,
    sent: object.has("sent") ? readSide(object.object("sent")) : null,
    received: object.has("received") ? readSide(object.object("received")) : null,
  };
}

function readSide(object: JsonReader): SessionSide {
  return {
    messages: object.number("messages"),
    sendCounter: object.number("send_counter"),
    lastMessageId: object.uuid("message_id"),
    lastAt: object.timestamp("last_at"),
  };
}
