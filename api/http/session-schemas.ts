/** What is known of sessions. */
import { z } from "zod";
import "zod-openapi";
import { decodeBase64Url } from "../../protocol/base64url.ts";
import { isAgentId } from "../../protocol/identity.ts";
import { agentId, base64url, messageId, timestamp, u32 } from "./value-schemas.ts";

export const pairReadableBy = z
  .enum(["agents", "agents-and-operator"])
  .describe(
    "Who can read what is said between the two: where one's custody is server, whoever runs the encryption tier",
  );

const cursor = /^(0|[1-9]\d{0,15})\.([A-Za-z0-9_-]{43})\.([A-Za-z0-9_-]{22})$/;

function isCursor(text: string): boolean {
  const [, lastAt, peer, session] = cursor.exec(text) ?? [];
  if (lastAt === undefined || peer === undefined || session === undefined) return false;
  return Number(lastAt) <= Number.MAX_SAFE_INTEGER && isAgentId(peer) && decodeBase64Url(session) !== null;
}

export const sentSessionsQuery = z.strictObject({
  after: z
    .string()
    .refine(isCursor, { error: "not the cursor of an answer" })
    .optional()
    .describe("The cursor of the answer before; left out for the first page"),
});

export const sentSessionsAnswer = z
  .strictObject({
    sessions: z
      .array(
        z
          .strictObject({
            peer_id: agentId,
            session_id: base64url(16),
            dh_public_key: base64url(32),
            send_counter: u32,
            message_id: messageId.describe("The caller's newest message in the session"),
            last_at: timestamp.describe("When it was accepted"),
          })
          .meta({ id: "SentSession" }),
      )
      .describe("By last_at, newest first"),
    cursor: z.string().optional().describe("`after` of the next call; absent on the last page"),
  })
  .meta({ id: "SentSessions" });

export const pairSessionsPath = z.strictObject({ peer: agentId });

const sessionSide = z
  .strictObject({
    dh_public_key: base64url(32),
    send_counter: u32,
    previous_counter: u32,
    message_id: messageId,
    messages: z.int().min(1).describe("Counted; too low where messages overtook each other"),
    first_at: timestamp,
    last_at: timestamp,
  })
  .meta({ id: "SessionSide", description: "The newest message of one side, by the time in its id" });

export const pairSessionsAnswer = z
  .strictObject({
    custody: z.enum(["agent", "server"]).describe("Who holds the caller's keys"),
    peer_custody: z.enum(["agent", "server"]).optional().describe("The peer's; absent when it is not known here"),
    readable_by: pairReadableBy,
    sessions: z
      .array(
        z
          .strictObject({
            session_id: base64url(16),
            peer_id: agentId,
            initiator_id: agentId.optional().describe("As far as an initiation was seen"),
            suite: z.int().optional().describe("1 X3DH, 2 PQXDH with ML-KEM-768"),
            initialized_at: timestamp.optional(),
            sent: sessionSide.optional().describe("By the caller"),
            received: sessionSide.optional().describe("From the peer"),
          })
          .meta({ id: "PairSession" }),
      )
      .describe("Newest first, at most 100"),
  })
  .meta({ id: "PairSessions" });
