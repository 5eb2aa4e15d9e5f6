import { expect, test } from "vitest";
import { LocalNonces } from "./local-nonces.ts";

const at = (nowS: number) => nowS * 1000;

function open(max = 3) {
  return new LocalNonces((nowMs) => Math.ceil(nowMs / 1000) + 2, max);
}

test("what was signed before the memory began is refused, clocks that are ahead included", () => {
  const nonces = open();
  expect(nonces.remember("a", 1_002, 1_300, at(1_000))).toBe("sign-again");
  expect(nonces.remember("a", 1_003, 1_300, at(1_001))).toBe("fresh");
  expect(nonces.remember("a", 1_003, 1_300, at(1_001))).toBe("replayed");
});

test("a full memory begins anew, and says that it has forgotten", () => {
  const nonces = open();
  nonces.remember("first", 1_000, 1_300, at(1_000));
  for (const name of ["a", "b", "c"]) expect(nonces.remember(name, 1_005, 1_300, at(1_005))).toBe("fresh");
  expect(nonces.forgottenUntilS).toBe(0);
  expect(nonces.remember("d", 1_005, 1_300, at(1_005))).toBe("sign-again");
  expect(nonces.forgottenUntilS).toBe(1_007);
  for (const name of ["a", "b", "c", "d"]) expect(nonces.remember(name, 1_005, 1_300, at(1_006))).toBe("sign-again");
  expect(nonces.remember("e", 1_008, 1_300, at(1_008))).toBe("fresh");
  expect([...nonces.taken()]).toEqual([["e", 1_300]]);
});

test("what has expired for every clock makes room first", () => {
  const nonces = open();
  nonces.remember("first", 1_000, 1_300, at(1_000));
  for (const name of ["a", "b", "c"]) nonces.remember(name, 1_005, name === "c" ? 1_300 : 1_010, at(1_005));
  expect(nonces.remember("d", 1_071, 1_300, at(1_071))).toBe("fresh");
  expect([...nonces.taken()].map(([name]) => name)).toEqual(["c", "d"]);
  expect(nonces.forgottenUntilS).toBe(0);
});
