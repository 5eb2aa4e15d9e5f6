/** What owners see and decide of their agents, with a token of their own (docs/identity.md), and operators of all. */
import { formatTimestamp } from "../../../protocol/timestamp.ts";
import type { AgentSummary } from "../../../store/agent-status.ts";
import { type Decision, decide } from "../../operations/manage-agents.ts";
import { agentPath } from "../operator-schemas.ts";
import {
  agentsQuery,
  decisionBody,
  managedAgentAnswer,
  managedAgentsAnswer,
  ownAgentsQuery,
} from "../owner-schemas.ts";
import { route } from "../route.ts";

const PAGE = 100;

export const ownAgents = route({
  method: "GET",
  path: "/owners/agents",
  operationId: "listOwnAgents",
  summary: "See one's agents",
  description: "Those that were registered with this owner's statements, in the order of their ids.",
  signedBy: "owner",
  request: { query: ownAgentsQuery },
  answers: { 200: { description: "A page of them", schema: managedAgentsAnswer } },
  refuses: [],
  handle: async (deps, { owner, query: { status = null, after = null, limit = PAGE } }) => ({
    status: 200,
    json: pageOf(await deps.listAgents({ owner, status }, after, limit)),
  }),
});

export const allAgents = route({
  method: "GET",
  path: "/ops/agents",
  operationId: "listAgents",
  summary: "See agents, and who answers for them",
  signedBy: "operator",
  request: { query: agentsQuery },
  answers: { 200: { description: "A page of them, in the order of their ids", schema: managedAgentsAnswer } },
  refuses: [],
  handle: async (deps, { query }) => {
    const { owner_issuer: issuer, owner_subject: subject, status = null, after = null, limit = PAGE } = query;
    const owner = issuer === undefined || subject === undefined ? null : { issuer, subject };
    return { status: 200, json: pageOf(await deps.listAgents({ owner, status }, after, limit)) };
  },
});

const verbs = {
  suspend: ["suspended", "Its calls are refused and its streams closed within 5 s; its mail waits."],
  resume: ["active", "It goes on where it was."],
  revoke: ["revoked", "As suspended, and for good."],
} as const satisfies Record<string, readonly [Decision["to"], string]>;

function decisionRoute(verb: keyof typeof verbs, signedBy: "owner" | "operator") {
  const [to, description] = verbs[verb];
  const byOwner = signedBy === "owner";
  return route({
    method: "POST",
    path: `/${byOwner ? "owners" : "ops"}/agents/{id}/${verb}`,
    operationId: `${verb}${byOwner ? "Own" : ""}Agent`,
    summary: `${verb[0]?.toUpperCase()}${verb.slice(1)} ${byOwner ? "one of one's agents" : "an agent"}`,
    description: `${description} The same again changes nothing.`,
    signedBy,
    request: { path: agentPath, body: decisionBody },
    answers: { 200: { description: "It is so", schema: managedAgentAnswer } },
    refuses: [
      "no-such-agent",
      "agent-revoked",
      ...(verb === "resume" && byOwner ? (["suspended-by-operator"] as const) : []),
    ],
    handle: async (deps, { owner, path: { id }, body: { reason } }) => ({
      status: 200,
      json: toWire(await decide(deps, owner, { agentId: id, to, reason })),
    }),
  });
}

export const suspendOwn = decisionRoute("suspend", "owner");
export const resumeOwn = decisionRoute("resume", "owner");
export const revokeOwn = decisionRoute("revoke", "owner");
export const suspendAny = decisionRoute("suspend", "operator");
export const resumeAny = decisionRoute("resume", "operator");
export const revokeAny = decisionRoute("revoke", "operator");

function pageOf({ agents, next }: { readonly agents: readonly AgentSummary[]; readonly next: string | null }) {
  return { agents: agents.map(toWire), ...(next === null ? {} : { cursor: next }) };
}

function toWire({ agentId, custody, status, createdAt, owner }: AgentSummary) {
  return {
    agent_id: agentId,
    custody,
    status,
    created_at: formatTimestamp(createdAt),
    ...(owner === null ? {} : { owner: { issuer: owner.issuer, subject: owner.subject } }),
  };
}
