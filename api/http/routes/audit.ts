/** What proves the audit (docs/audit.md). */
import { encodeBase64 } from "../../../protocol/audit/note.ts";
import { checkpointCovering, checkpointOf, proveConsistency, proveInclusion } from "../../operations/audit.ts";
import {
  checkpointQuery,
  consistencyAnswer,
  consistencyQuery,
  inclusionAnswer,
  inclusionQuery,
} from "../audit-schemas.ts";
import { route } from "../route.ts";

const textHeaders = { "content-type": "text/plain; charset=utf-8" };

export const auditCheckpoint = route({
  method: "GET",
  path: "/ops/audit/checkpoint",
  operationId: "auditCheckpoint",
  summary: "The newest signed checkpoint of the audit",
  description:
    "A signed note (C2SP tlog-checkpoint): name of the log, number of records, root; with a size the one of that size.",
  signedBy: "operator",
  request: { query: checkpointQuery },
  answers: { 200: { description: "The signed note", mediaType: "text/plain" } },
  refuses: ["checkpoint-unknown"],
  handle: async (deps, { query: { size = null, at_least: least } }) => {
    const found = least === undefined ? await checkpointOf(deps, size) : await checkpointCovering(deps, least);
    return { status: 200, text: found.note, headers: textHeaders };
  },
});

export const auditKey = route({
  method: "GET",
  path: "/ops/audit/key",
  operationId: "auditKey",
  summary: "The key that the newest checkpoint verifies under, or the one that is named",
  description:
    "A verifier key (C2SP signed-note). Compare it with what the operator gave you: a service that forges checkpoints also shows its own key.",
  signedBy: "operator",
  request: { query: checkpointQuery },
  answers: { 200: { description: "The verifier key, on one line", mediaType: "text/plain" } },
  refuses: ["checkpoint-unknown"],
  handle: async (deps, { query: { size = null, at_least: least } }) => {
    const found = least === undefined ? await checkpointOf(deps, size) : await checkpointCovering(deps, least);
    return { status: 200, text: `${found.verifierKey}\n`, headers: textHeaders };
  },
});

export const auditInclusion = route({
  method: "GET",
  path: "/ops/audit/inclusion",
  operationId: "auditInclusion",
  summary: "Prove that a record is in the log",
  signedBy: "operator",
  request: { query: inclusionQuery },
  answers: { 200: { description: "The proof", schema: inclusionAnswer } },
  refuses: ["checkpoint-unknown", "not-in-log"],
  handle: async (deps, { query: { index, size = null } }) => {
    const { leafHash, proof, ...place } = await proveInclusion(deps, index, size);
    return { status: 200, json: { ...place, leaf_hash: encodeBase64(leafHash), proof: proof.map(encodeBase64) } };
  },
});

export const auditConsistency = route({
  method: "GET",
  path: "/ops/audit/consistency",
  operationId: "auditConsistency",
  summary: "Prove that the log only grew",
  signedBy: "operator",
  request: { query: consistencyQuery },
  answers: { 200: { description: "The proof", schema: consistencyAnswer } },
  refuses: ["checkpoint-unknown", "not-in-log"],
  handle: async (deps, { query: { from, to = null } }) => {
    const answer = await proveConsistency(deps, from, to);
    return { status: 200, json: { ...answer, proof: answer.proof.map(encodeBase64) } };
  },
});
