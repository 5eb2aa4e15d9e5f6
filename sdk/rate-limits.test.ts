import { describe, expect, test } from "vitest";
import { problem } from "./fake-service.ts";
import { firstProblem, take, texts, useStage } from "./stage-for-tests.ts";

const stage = useStage();

describe.each(["agent", "server"] as const)("with keys at the %s", (custody) => {
  test("a sender over its limit waits as long as it is asked to, and then everything leaves in order", async () => {
    const { service } = stage;
    const [alice, bob] = [await stage.open("alice", { custody }), await stage.open("bob", { custody })];
    await alice.send(bob.id, "first contact");
    const refusedAt: number[] = [];
    const over = () => {
      if (refusedAt.length > 0 && performance.now() - (refusedAt[0] ?? 0) >= 1_000) return null;
      refusedAt.push(performance.now());
      return problem(429, "rate-limited", { retryable: true, retry_after: 1, policy: "messages" });
    };
    service.onSend = () => over()?.[1] ?? "accept";
    service.custody.onSend = over;
    const waiting = alice.sendMany(["a", "b", "c"].map((body) => ({ to: bob.id, body })));
    expect(await firstProblem(alice, "trouble")).toMatchObject({ error: { retryable: true } });
    expect(texts(await take(bob, 4))).toEqual(["first contact", "a", "b", "c"]);
    await waiting;
    // It asked once, and then not before it may.
    expect(refusedAt).toHaveLength(1);
    expect(performance.now() - (refusedAt[0] ?? 0)).toBeGreaterThanOrEqual(1_000);
  });
});
