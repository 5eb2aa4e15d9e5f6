/** What agents used: each its own, and all of them for operators (docs/usage.md). */
import { formatTimestamp } from "../../../protocol/timestamp.ts";
import { agentUsage, hourUsage, type UsageQuestion } from "../../operations/usage.ts";
import { agentPath } from "../operator-schemas.ts";
import { type HttpDeps, type Reply, route } from "../route.ts";
import { countsToWire, hourUsageAnswer, hourUsageQuery, usageAnswer, usageQuery } from "../usage-schemas.ts";

const description =
  "Messages and bytes by the hour or the day in which they happened, and what was stored at its end. Some seconds behind; an hour that is over may still get what is late.";

export const ownUsage = route({
  method: "GET",
  path: "/messaging/usage",
  operationId: "ownUsage",
  summary: "What the caller used",
  description,
  signedBy: "agent",
  request: { query: usageQuery },
  answers: { 200: { description: "A page", schema: usageAnswer } },
  refuses: [],
  handle: (deps, { caller, query }) => answer(deps, caller.agentId, query),
});

export const usageOfAgent = route({
  method: "GET",
  path: "/ops/agents/{id}/usage",
  operationId: "usageOfAgent",
  summary: "What an agent used",
  description,
  signedBy: "operator",
  request: { path: agentPath, query: usageQuery },
  answers: { 200: { description: "A page; empty for an agent of which nothing was counted", schema: usageAnswer } },
  refuses: [],
  handle: (deps, { path, query }) => answer(deps, path.id, query),
});

export const usageOfHour = route({
  method: "GET",
  path: "/ops/usage",
  operationId: "usageOfHour",
  summary: "What all agents used in an hour",
  signedBy: "operator",
  request: { query: hourUsageQuery },
  answers: { 200: { description: "A page of those that used something", schema: hourUsageAnswer } },
  refuses: [],
  handle: async (deps, { query: { hour, after = "", limit } }) => {
    const { periods, next } = await hourUsage(deps, hour, after, limit);
    const usage = periods.map((period) => ({ agent_id: period.agentId, ...countsToWire(period) }));
    return { status: 200, json: { hour: formatTimestamp(hour), usage, ...(next === null ? {} : { cursor: next }) } };
  },
});

type Query = Omit<UsageQuestion, "from" | "to" | "after"> &
  Partial<Record<"from" | "to" | "after", number | undefined>>;

async function answer(deps: HttpDeps, agentId: string, query: Query): Promise<Reply> {
  const question = { ...query, from: query.from, to: query.to, after: query.after };
  const { from, to, periods, next } = await agentUsage(deps, agentId, question);
  const { granularity } = query;
  const json = {
    ...{ agent_id: agentId, granularity, from: formatTimestamp(from), to: formatTimestamp(to) },
    usage: periods.map((period) => ({ start: formatTimestamp(period.at), ...countsToWire(period) })),
    ...(next === null ? {} : { cursor: formatTimestamp(next) }),
  };
  return { status: 200, json };
}
