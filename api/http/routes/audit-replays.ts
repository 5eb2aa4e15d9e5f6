/** Who replays the audit log says so (docs/audit-replay.md). */
import { z } from "zod";
import "zod-openapi";
import { parseTimestamp } from "../../../protocol/timestamp.ts";
import { recordReplay } from "../../operations/record-replay.ts";
import { route } from "../route.ts";
import { agentId, timestamp, uuid } from "../value-schemas.ts";

/** Of a replay: each agent gets a fact of its own. */
const AGENTS_MAX = 100;

const body = z
  .strictObject({
    state: z.enum(["begun", "done"]).describe("Told before the first record is read, and when the files are whole"),
    from: timestamp.describe("The range, by occurred_at; its beginning is in"),
    to: timestamp.describe("Its end is out"),
    agents: z.array(agentId).max(AGENTS_MAX).describe("None: everybody"),
    actions: z
      .array(z.string().regex(/^[a-z.*-]{1,64}$/, { error: "not an action" }))
      .max(AGENTS_MAX)
      .describe("None: all"),
    format: z.enum(["jsonl", "csv", "parquet"]),
    records: z.int().min(0).optional().describe("With done: how many were written"),
    manifest_sha256: z
      .string()
      .regex(/^[0-9a-f]{64}$/, { error: "not a SHA-256 in hexadecimal" })
      .optional()
      .describe("With done: of manifest.json, which names the hash of every file"),
  })
  .superRefine(({ state, records, manifest_sha256 }, { addIssue }) => {
    const isDone = records !== undefined && manifest_sha256 !== undefined;
    const isBegun = records === undefined && manifest_sha256 === undefined;
    if (state === "done" ? !isDone : !isBegun)
      addIssue({
        code: "custom",
        path: ["state"],
        message: "records and manifest_sha256 go with done, and only with it",
      });
  })
  .meta({ id: "AuditReplay" });

const answer = z
  .strictObject({ event_ids: z.array(uuid).describe("ce_id of the facts in agent.changed.v1") })
  .meta({ id: "AuditReplayRecorded" });

export const auditReplays = route({
  method: "POST",
  path: "/ops/audit/replays",
  operationId: "recordAuditReplay",
  summary: "Take down that the audit log is replayed",
  description: "A fact like every other: agent.changed.v1 with change audit-replayed, and with it an audit record.",
  signedBy: "operator",
  request: { body },
  answers: { 202: { description: "In the log", schema: answer } },
  refuses: [],
  handle: async (deps, { body: { state, agents, actions, format, ...rest } }) => {
    const { records, manifest_sha256: manifestSha256 } = rest;
    const result = records === undefined || manifestSha256 === undefined ? null : { records, manifestSha256 };
    // The schema let no other spelling through.
    const [from, to] = [parseTimestamp(rest.from) ?? 0, parseTimestamp(rest.to) ?? 0];
    const ids = await recordReplay(deps, { state, from, to, agents, actions, format, result });
    return { status: 202, json: { event_ids: ids } };
  },
});
