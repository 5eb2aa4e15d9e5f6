import { expect, test, vi } from "vitest";
import type { Delegation } from "../../schemas/values.ts";
import { cachedRevocations } from "./revocations.ts";

const one: Delegation = { issuerId: "a", tokenId: "1" };
const other: Delegation = { issuerId: "a", tokenId: "2" };

test("a revocation is seen within 2 s, also of a token that was just good; what is not known is asked for", async () => {
  let nowMs = 0;
  const revoked = new Set<Delegation>();
  const asked: number[] = [];
  const isRevoked = cachedRevocations(
    async (links) => {
      asked.push(links.length);
      return links.some((link) => revoked.has(link));
    },
    () => nowMs,
  );
  expect(await isRevoked([one])).toBe(false);
  expect(await isRevoked([one, other])).toBe(false);
  expect(await isRevoked([one, other])).toBe(false);
  expect(asked).toEqual([1, 1]);
  revoked.add(one);
  nowMs = 1_999;
  expect(await isRevoked([one])).toBe(false);
  nowMs = 2_000;
  expect(await isRevoked([one, other])).toBe(true);
  expect(await isRevoked([one])).toBe(true);
  expect(await isRevoked([other])).toBe(false);
});

test("a clock that is set back keeps no revoked delegation for longer", async () => {
  vi.useFakeTimers();
  try {
    let revoked = false;
    const isRevoked = cachedRevocations(async () => revoked);
    vi.setSystemTime(Date.now() + 3_600_000);
    expect(await isRevoked([one])).toBe(false);
    vi.setSystemTime(Date.now() - 3_600_000);
    revoked = true;
    vi.advanceTimersByTime(2_001);
    expect(await isRevoked([one])).toBe(true);
  } finally {
    vi.useRealTimers();
  }
});
