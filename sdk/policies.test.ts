import { expect, test } from "vitest";
import { newIdentity } from "../tests/signing.ts";
import { MessageDiscarded, SendRejected } from "./errors.ts";
import { Policies } from "./policies.ts";
import { readProblem, refusedBy } from "./problem.ts";

type Call = { readonly method: string; readonly path: string; readonly query?: Readonly<Record<string, string>> };

/** Answers the calls in turn, the last one for ever. */
function given(...answers: unknown[]) {
  const calls: Call[] = [];
  const call = async ({ method, path, query }: Call) => {
    calls.push({ method, path, ...(query === undefined ? {} : { query }) });
    return answers[Math.min(calls.length, answers.length) - 1];
  };
  return { calls, policies: new Policies(() => ({ call })) };
}

test("a list is read to its end, page by page", async () => {
  const ids = Array.from({ length: 5 }, () => newIdentity().agentId).toSorted();
  const [, second, , fourth] = ids;
  const { calls, policies } = given(
    { agents: ids.slice(0, 2), cursor: second },
    { agents: ids.slice(2, 4), cursor: fourth },
    { agents: ids.slice(4) },
  );
  expect(await policies.listed("block")).toEqual(ids);
  expect(calls.map(({ query }) => query?.["after"])).toEqual([undefined, second, fourth]);
});

test("a service whose pages do not move on, or are none, is not asked for ever", async () => {
  const cursor = newIdentity().agentId;
  for (const { policies, calls } of [given({ agents: [], cursor }), given({ agents: "all" }), given(null)]) {
    await expect(policies.listed("allow")).rejects.toMatchObject({ code: "answer-malformed" });
    expect(calls.length).toBeLessThanOrEqual(2);
  }
});

test("a contact is asked for by its state, and what is no agent is not asked for at all", async () => {
  const agentId = newIdentity().agentId;
  const { calls, policies } = given({
    contacts: [{ agent_id: agentId, state: "pending", changed_at: "2025-08-19T05:47:42.481Z", more: 1 }],
  });
  expect(await policies.contacts("pending")).toEqual([{ agentId, state: "pending", changedAt: 1755582462481 }]);
  expect(calls[0]).toMatchObject({ path: "/messaging/contacts", query: { state: "pending" } });
  for (const act of [() => policies.block("../agents"), () => policies.request(""), () => policies.remove("bob")]) {
    await expect((async () => act())()).rejects.toMatchObject({ code: "agent-malformed" });
  }
  expect(calls).toHaveLength(1);
});

test("a refusal's rule reaches who sent, wherever it was refused", () => {
  const problem = readProblem(
    {
      ...{ code: "not-allowed", status: 403, retryable: false, rule: "contacts-only" },
      errors: [
        { pointer: "/envelopes/1/recipient_id", code: "not-allowed", rule: "blocked" },
        { pointer: "/envelopes/2/recipient_id", code: "recipient-unknown", rule: "../" },
      ],
    },
    403,
  );
  expect(problem.itemFaults).toEqual([
    { index: 1, code: "not-allowed", rule: "blocked" },
    { index: 2, code: "recipient-unknown", rule: null },
  ]);
  expect(refusedBy(problem, { status: 403, date: null, retryAfter: null })).toMatchObject({
    ...{ code: "not-allowed", rule: "contacts-only" },
  });
  const ids = { messageId: "m", recipientId: "r" };
  expect(new SendRejected("blocked", ids)).toMatchObject({ code: "not-allowed", rule: "blocked" });
  expect(new SendRejected("recipient-unknown", ids)).toMatchObject({ code: "recipient-unknown", rule: null });
  expect(new MessageDiscarded("not-on-allow-list", "m")).toMatchObject({
    ...{ code: "not-allowed", rule: "not-on-allow-list" },
  });
  expect(new MessageDiscarded("expired", "m")).toMatchObject({ code: "expired", rule: null });
});
