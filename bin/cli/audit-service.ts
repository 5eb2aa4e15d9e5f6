/** What the service says about its audit log, over its port for operators; and what it is told about replays. */
import { decodeBase64 } from "../../protocol/audit/note.ts";
import type { AuditLog } from "../../replay/audit-log.ts";
import { requestLines } from "../../replay/manifest.ts";
import type { ReplayRequest } from "../../replay/request.ts";
import type { OperatorConfig } from "../config.ts";
import { askAsOperator, callAsOperator, type OperatorText } from "../operator-call.ts";
import { Late, NotSo } from "./terminal.ts";

const ANSWER_MS_MAX = 20_000;

export interface AuditService extends AuditLog {
  /** Takes down that the log is replayed. */
  readonly record: (request: ReplayRequest, result: ReplayResult | null) => Promise<void>;
}

export interface ReplayResult {
  readonly records: number;
  readonly manifestSha256: string;
}

/**
 * @param pinned the log's keys as its owner gave them; none: the service's word for them. All reject with `Late` where there is no answer, and with `NotSo`
 * where the service refuses.
 */
export async function openAuditService(
  config: OperatorConfig,
  pinned: readonly string[],
  signal: AbortSignal,
): Promise<AuditService> {
  const get = async (path: string): Promise<OperatorText> => {
    const answer = await askAsOperator(config, { method: "GET", path, msMax: ANSWER_MS_MAX, signal });
    signal.throwIfAborted();
    if (answer === null)
      throw new Late(`there is no answer from ${config.url}: name the port for operators with --url`);
    return answer;
  };
  if (pinned.length === 0) await keyOf(get);
  return {
    keysFor: async (sizeMin) => (pinned.length > 0 ? pinned : [await keyOf(get, sizeMin)]),

    async checkpoint(sizeMin) {
      const query = sizeMin === undefined ? "" : `?at_least=${sizeMin}`;
      const answer = await get(`/ops/audit/checkpoint${query}`);
      return isUnknown(answer) ? null : taken(answer).text;
    },

    async inclusion(index, size) {
      const answer = await get(`/ops/audit/inclusion?index=${index}&size=${size}`);
      if (isUnknown(answer)) return null;
      const { proof } = JSON.parse(taken(answer).text) as { readonly proof?: unknown };
      if (!Array.isArray(proof)) return null;
      const hashes = proof.map((hash) => decodeBase64(String(hash)));
      return hashes.every((hash) => hash !== null) ? hashes : null;
    },

    async record(request, result) {
      const { from, to, agents, actions, format } = requestLines(request);
      const done = result === null ? {} : { records: result.records, manifest_sha256: result.manifestSha256 };
      const body = { state: result === null ? "begun" : "done", from, to, agents, actions, format, ...done };
      const call = { method: "POST", path: "/ops/audit/replays", body, msMax: ANSWER_MS_MAX } as const;
      const answer = await callAsOperator(config, call);
      if (answer === null) throw new Late(`the replay is not taken down: there is no answer from ${config.url}`);
      if (answer.status !== 202) throw new NotSo(`the replay is not taken down: ${refusalOf(answer.json)}`);
    },
  };
}

async function keyOf(get: (path: string) => Promise<OperatorText>, sizeMin?: number): Promise<string> {
  const answer = await get(`/ops/audit/key${sizeMin === undefined ? "" : `?at_least=${sizeMin}`}`);
  if (!isUnknown(answer)) return taken(answer).text.trimEnd();
  throw new NotSo(
    "the log has no checkpoint yet: see that jobs has the key that signs them, or give --allow-unverified",
  );
}

function isUnknown({ status, text }: OperatorText): boolean {
  return status === 404 && /"code":"(checkpoint-unknown|not-in-log)"/.test(text);
}

function taken(answer: OperatorText): OperatorText {
  if (answer.status === 200) return answer;
  throw new NotSo(refusalOf(jsonOf(answer.text)));
}

function refusalOf(json: Readonly<Record<string, unknown>>): string {
  return `${json["code"]}: ${json["detail"]}: ${json["fix"] ?? json["title"]}`;
}

function jsonOf(text: string): Readonly<Record<string, unknown>> {
  try {
    return JSON.parse(text) as Readonly<Record<string, unknown>>;
  } catch {
    return {
      code: "no-problem",
      detail: "the answer is not the service's",
      fix: "name the port for operators with --url",
    };
  }
}
