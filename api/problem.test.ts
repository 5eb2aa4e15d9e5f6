import { expect, test } from "vitest";
import { Refusal, Unavailable } from "../protocol/refusal.ts";
import { ApiRefusal, BatchRefusal, problemOf } from "./problem.ts";

test("a refusal keeps its code, field and fix", () => {
  const problem = problemOf(
    new ApiRefusal("too-many", { field: "/items", fix: "Send fewer.", detail: "too many by one" }),
    0,
  );
  expect(problem).toMatchObject({
    status: 400,
    code: "too-many",
    field: "/items",
    fix: "Send fewer.",
    detail: "too many by one",
  });
  expect(problem).not.toHaveProperty("server_time");
});

test("a refusal of another layer is told when its code is one of ours", () => {
  expect(problemOf(new Refusal("prekey-conflict"), 0)).toMatchObject({ status: 409, code: "prekey-conflict" });
  expect(problemOf(new Refusal("auth-failed"), 0)).toMatchObject({ status: 500, code: "internal" });
  expect(problemOf(new Refusal("toString"), 0)).toMatchObject({ status: 500, code: "internal" });
});

test("of a batch every fault is told, under the first one's code", () => {
  const problem = problemOf(
    new BatchRefusal([
      { pointer: "/envelopes/1", code: "message-id-reused", detail: "one", messageId: "m" },
      { pointer: "/envelopes/2", code: "malformed", detail: "two" },
    ]),
    0,
  );
  expect(problem).toMatchObject({ status: 409, code: "message-id-reused", field: "/envelopes/1" });
  expect(problem.errors).toEqual([
    { pointer: "/envelopes/1", code: "message-id-reused", detail: "one", message_id: "m" },
    { pointer: "/envelopes/2", code: "malformed", detail: "two" },
  ]);
});

test("an outage is 503 and retryable; too much waiting is said differently", () => {
  expect(problemOf(new Unavailable("kafka", new Error("secret")), 0)).toMatchObject({
    status: 503,
    code: "unavailable",
    retryable: true,
  });
  expect(problemOf(new Unavailable("service"), 0)).toMatchObject({ status: 503, code: "overloaded", retryable: true });
});

test("of anything else nothing is told", () => {
  for (const thrown of [new Error("secret"), "secret", null, { code: "malformed" }]) {
    const problem = problemOf(thrown, 0);
    expect(problem.code).toBe("internal");
    expect(JSON.stringify(problem)).not.toContain("secret");
  }
});

test("where clocks were compared, the service's is told", () => {
  expect(problemOf(new ApiRefusal("signature-expired"), 1_000)).toHaveProperty(
    "server_time",
    "1970-01-01T00:00:01.000Z",
  );
});
