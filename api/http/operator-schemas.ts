/**
 * What stands in requests and answers of operators' calls, in zod; strict, like `value-schemas.ts`.
 */
import { z } from "zod";
import "zod-openapi";
import { catalogue } from "../../streams/catalogue.ts";
import { LETTERS_PAGE_MAX } from "../operations/dead-letters.ts";
import { STUCK_ITEMS_MAX, STUCK_REASONS, STUCK_STATES } from "../operations/stuck.ts";
import { agentId, timestamp, uuid } from "./value-schemas.ts";

const exampleAgent = "Zk1xv0Tn3oY3rW1mZ8v1Rk3eFhQx0mC5s2b7uJ4dN6A";
const exampleId = "0198c0de-7a11-7b2c-9d3e-4f5061728394";

export const agentPath = z.strictObject({ id: agentId });

export const rotatedAnswer = z
  .strictObject({ agent_id: agentId, signed_prekey_id: uuid.describe("The new one") })
  .meta({ id: "Rotated" });

export const rotationAskedAnswer = z
  .strictObject({
    agent_id: agentId,
    connected: z.boolean().describe("The agent's gateway took the notice; otherwise the agent rotates when it is back"),
  })
  .meta({ id: "RotationAsked" });

/** A count in a query, in one spelling. */
export function limit(max: number) {
  return z
    .string()
    .regex(/^[1-9]\d{0,3}$/, { error: "not a count" })
    .transform(Number)
    .refine((count) => count <= max, { error: `more than ${max}` })
    .optional()
    .meta({ description: `1 to ${max}; default 100` });
}

const state = z.enum(STUCK_STATES).meta({ id: "StuckState" });
const reason = z.enum(Object.values(STUCK_REASONS)).describe("What brought it there; one for each state, so far");

export const stuckQuery = z.strictObject({
  state: state.optional().describe("Absent: only how many there are of each"),
  recipient_id: agentId.optional(),
  sender_id: agentId.optional(),
  after: z
    .string()
    .regex(/^\d{1,15}\.[A-Za-z0-9_-]{43}\.[A-Za-z0-9_-]{43}\.[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/, {
      error: "not the cursor of an answer",
    })
    .optional()
    .describe("The cursor of the answer before; left out for the first page"),
  limit: limit(STUCK_ITEMS_MAX),
});

const stuckName = {
  recipient_id: agentId,
  sender_id: agentId,
  item_id: uuid.describe("The message's id, or the request's"),
};

export const stuckAnswer = z
  .strictObject({
    groups: z.array(
      z.strictObject({
        state,
        reason,
        count: z.int().min(0).describe("Counted up to 10,000"),
        oldest_since: timestamp.optional(),
      }),
    ),
    items: z
      .array(
        z.strictObject({
          ...stuckName,
          kind: z.enum(["message", "retry"]),
          seq: z.int().min(1).describe("Its place in the mailbox"),
          since: timestamp,
          reason,
        }),
      )
      .optional()
      .describe("With a state: a page of them, who has waited longest first"),
    cursor: z.string().optional().describe("`after` of the next call; absent on the last page"),
  })
  .meta({ id: "Stuck" });

const targetMembers = {
  items: z
    .array(z.strictObject(stuckName))
    .min(1)
    .max(STUCK_ITEMS_MAX)
    .optional()
    .describe("Those that are stuck of these"),
  filter: z
    .strictObject({ state, recipient_id: agentId.optional(), sender_id: agentId.optional() })
    .optional()
    .describe("Or all of these, at most 10,000 a call"),
  dry_run: z.boolean().optional().describe("Only counts"),
};

function oneTarget(body: { readonly items?: unknown; readonly filter?: unknown }): boolean {
  return (body.items === undefined) !== (body.filter === undefined);
}

const oneTargetError = { error: "either items or filter", path: ["items"] };

export const retryStuckBody = z
  .strictObject(targetMembers)
  .refine(oneTarget, oneTargetError)
  .meta({
    id: "RetryStuck",
    example: { filter: { state: "set-aside", recipient_id: exampleAgent }, dry_run: true },
  });

export const deleteStuckBody = z
  .strictObject({
    ...targetMembers,
    reason: z
      .string()
      .regex(/^[a-z][a-z0-9-]{0,63}$/, { error: "not a word of lower-case letters, digits and hyphens" })
      .describe("Stands in message.discarded.v1 and in the message's status: a code, nothing secret"),
  })
  .refine(oneTarget, oneTargetError)
  .meta({
    id: "DeleteStuck",
    example: {
      items: [{ recipient_id: exampleAgent, sender_id: exampleAgent, item_id: exampleId }],
      reason: "recipient-gone",
    },
  });

export const decidedAnswer = z
  .strictObject({
    count: z.int().min(0).describe("How many of them are stuck: so many are asked for, or would be"),
    more: z.boolean().describe("There are more than one call takes"),
    dry_run: z.boolean(),
  })
  .meta({ id: "Decided" });

export const topicNames: readonly string[] = catalogue.filter(({ deadLetters }) => deadLetters).map(({ name }) => name);
const topic = z.enum(topicNames as [string, ...string[]]).describe("A topic of the catalogue, not its .dlq");
const place = z
  .string()
  .regex(/^\d{1,9}\.\d{1,15}$/, { error: "not the cursor of an answer" })
  .describe("The cursor of the answer before; left out for the first page");

export const deadLettersQuery = z.strictObject({
  topic: topic.optional().describe("Absent: only how many lie in each topic"),
  after: place.optional(),
  limit: limit(LETTERS_PAGE_MAX),
});

const text = z.string().nullable();
const count = z.int().min(0);

export const deadLettersAnswer = z
  .strictObject({
    topics: z.array(z.strictObject({ topic, count: count.describe("By offsets") })).describe("Those with letters"),
    letters: z
      .array(
        z.strictObject({
          partition: count.describe("Of the dead-letter topic, as offset"),
          offset: count,
          at: timestamp.describe("When it became a dead letter"),
          code: text.describe("Why"),
          group: text.describe("Who refused it"),
          origin: z.strictObject({ partition: count.nullable(), offset: count.nullable(), at: timestamp.nullable() }),
          ce_id: text,
          ce_subject: text,
          value_bytes: count,
        }),
      )
      .optional()
      .describe("With a topic: a page of them, by partition and offset"),
    cursor: place.optional().describe("`after` of the next call; absent on the last page"),
  })
  .meta({ id: "DeadLetters" });

export const replayBody = z
  .strictObject({
    topic,
    partition: count
      .max(2 ** 31)
      .optional()
      .describe("With offset: this letter"),
    offset: count.max(Number.MAX_SAFE_INTEGER).optional(),
    all: z.literal(true).optional().describe("Or all of the topic, at most 10,000 a call"),
    after: place.optional().describe("With all: from there on"),
    dry_run: z.boolean().optional().describe("Only counts"),
  })
  .superRefine(({ partition, offset, all, after }, { addIssue }) => {
    const isOne = partition !== undefined && offset !== undefined && all === undefined && after === undefined;
    const isAll = all === true && partition === undefined && offset === undefined;
    if (!isOne && !isAll) addIssue({ code: "custom", path: ["all"], message: "either partition and offset, or all" });
  })
  .meta({ id: "Replay", example: { topic: "message.encrypted.v1", partition: 3, offset: 17 } });

export const replayedAnswer = z
  .strictObject({
    count: count.describe("Letters that are back in their topic, or would be"),
    skipped: count.describe(
      "Letters that do not say that they come from there, or do not hold their record whole, and messages more than 7 days old: they stay",
    ),
    cursor: place.optional().describe("There are more: `after` of the next call"),
    dry_run: z.boolean(),
  })
  .meta({ id: "Replayed" });
