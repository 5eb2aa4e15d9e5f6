/** Whom the caller lets in. */
import {
  listAgent as addAgent,
  changePolicy,
  listedAgents,
  ownPolicy,
  unlistAgent as removeAgent,
} from "../../operations/policies.ts";
import {
  addedAnswer,
  listAnswer,
  listedPath,
  listPath,
  pageQuery,
  policyAnswer,
  policyBody,
  removedAnswer,
} from "../policy-schemas.ts";
import { route } from "../route.ts";

export const getPolicy = route({
  method: "GET",
  path: "/messaging/policy",
  operationId: "getPolicy",
  summary: "See whom one lets in",
  signedBy: "agent",
  request: {},
  answers: { 200: { description: "The policy, and how long the lists are", schema: policyAnswer } },
  refuses: [],
  handle: async (deps, { caller }) => ({ status: 200, json: await ownPolicy(deps, caller) }),
});

export const putPolicy = route({
  method: "PUT",
  path: "/messaging/policy",
  operationId: "putPolicy",
  summary: "Say whom to let in",
  description: "Holds for every new message within five seconds. What was accepted before is delivered.",
  signedBy: "agent",
  needsRedis: true,
  request: { body: policyBody },
  answers: { 200: { description: "So it is now", schema: policyAnswer } },
  refuses: ["rate-limited"],
  handle: async (deps, { caller, body }) => ({ status: 200, json: await changePolicy(deps, caller, body.policy) }),
});

export const listed = route({
  method: "GET",
  path: "/messaging/policy/{list}",
  operationId: "listedAgents",
  summary: "See who is on a list",
  description: "By agent id, 1,000 a page.",
  signedBy: "agent",
  request: { path: listPath, query: pageQuery },
  answers: { 200: { description: "A page", schema: listAnswer } },
  refuses: [],
  handle: async (deps, { caller, path, query }) => {
    const { entries, more } = await listedAgents(deps, caller, path.list, query.after ?? "");
    return { status: 200, json: { agents: entries, ...(more ? { cursor: entries.at(-1) } : {}) } };
  },
});

export const listAgent = route({
  method: "PUT",
  path: "/messaging/policy/{list}/{agent}",
  operationId: "listAgent",
  summary: "Put an agent on a list",
  description: "At most 10,000 agents a list. An agent may be listed before it registers.",
  signedBy: "agent",
  needsRedis: true,
  request: { path: listedPath },
  answers: { 200: { description: "It is there", schema: addedAnswer } },
  refuses: ["list-full", "rate-limited"],
  handle: async (deps, { caller, path: { list, agent } }) => {
    return { status: 200, json: { agent_id: agent, added: await addAgent(deps, caller, list, agent) } };
  },
});

export const unlistAgent = route({
  method: "DELETE",
  path: "/messaging/policy/{list}/{agent}",
  operationId: "unlistAgent",
  summary: "Take an agent off a list",
  signedBy: "agent",
  needsRedis: true,
  request: { path: listedPath },
  answers: { 200: { description: "It is not there (any more)", schema: removedAnswer } },
  refuses: ["rate-limited"],
  handle: async (deps, { caller, path: { list, agent } }) => {
    return { status: 200, json: { agent_id: agent, removed: await removeAgent(deps, caller, list, agent) } };
  },
});
