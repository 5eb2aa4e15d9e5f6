/** Seeing agents and deciding about them: the same words for owners and for operators. */
import { managedAgentAnswer, managedAgentsAnswer } from "../../api/http/owner-schemas.ts";
import type { OperatorCall } from "../operator-call.ts";
import { linesOf, moreOf, queryOf, read } from "./ops-text.ts";
import { WrongWords } from "./terminal.ts";

type Json = Readonly<Record<string, unknown>>;

export const decisionOptions = {
  status: { type: "string" },
  issuer: { type: "string" },
  subject: { type: "string" },
  limit: { type: "string" },
  after: { type: "string" },
  reason: { type: "string" },
} as const;

export interface DecisionWords {
  readonly status?: string | undefined;
  readonly issuer?: string | undefined;
  readonly subject?: string | undefined;
  readonly limit?: string | undefined;
  readonly after?: string | undefined;
  readonly reason?: string | undefined;
}

export interface AskedDecision {
  readonly call: Pick<OperatorCall, "method" | "path" | "body">;
  readonly text: (json: Json) => string;
}

/** @param prefix `/owners` or `/ops`. Throws `WrongWords`. */
export function decisionOf(prefix: string, words: readonly string[], values: DecisionWords): AskedDecision {
  const [verb, id, ...rest] = words;
  const { status, issuer, subject, limit, after, reason } = values;
  if (verb === "list" && id === undefined) {
    if (reason !== undefined) throw new WrongWords("a --reason goes with suspend, resume and revoke");
    const query = queryOf({ owner_issuer: issuer, owner_subject: subject, status, limit, after });
    return { call: { method: "GET", path: `${prefix}/agents${query}` }, text: agentsText };
  }
  if ((verb !== "suspend" && verb !== "resume" && verb !== "revoke") || id === undefined || rest.length > 0) {
    throw new WrongWords("agents takes list, or suspend, resume or revoke and an agent's id");
  }
  if ([status, issuer, subject, limit, after].some((value) => value !== undefined)) {
    throw new WrongWords(`${verb} takes an agent's id and a --reason`);
  }
  if (reason === undefined) throw new WrongWords(`${verb} takes a --reason`);
  const path = `${prefix}/agents/${encodeURIComponent(id)}/${verb}`;
  return {
    call: { method: "POST", path, body: { reason } },
    text: (json) => linesOf([lineOf(read(managedAgentAnswer, json))]),
  };
}

function agentsText(json: Json): string {
  const { agents, cursor } = read(managedAgentsAnswer, json);
  return linesOf([...(agents.length === 0 ? ["there are no such agents"] : agents.map(lineOf)), ...moreOf(cursor)]);
}

interface Line {
  readonly agent_id: string;
  readonly status: string;
  readonly custody: string;
  readonly created_at: string;
  readonly owner?: { readonly issuer: string; readonly subject: string } | undefined;
}

function lineOf({ agent_id: id, status, custody, created_at: at, owner }: Line): string {
  const whose = owner === undefined ? "without an owner" : `of ${owner.subject} (${owner.issuer})`;
  return `${id} ${status} ${custody} since ${at} ${whose}`;
}
