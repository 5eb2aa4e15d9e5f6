import { expect, test } from "vitest";
import { Unavailable } from "../protocol/refusal.ts";
import { openTurns } from "./turns.ts";

/** Work that notes its beginning and ends when told. */
function stage() {
  const begun: string[] = [];
  const ends = new Map<string, PromiseWithResolvers<string>>();
  const work = (name: string) => () => {
    begun.push(name);
    const end = Promise.withResolvers<string>();
    ends.set(name, end);
    return end.promise;
  };
  return { begun, work, end: (name: string) => ends.get(name) };
}

const settled = () => new Promise((resolve) => setTimeout(resolve, 0));

test("of one name one is done after the other, in the order of asking, and other names do not wait", async () => {
  const turns = openTurns();
  const { begun, work, end } = stage();
  const all = [turns.take("a", work("a1")), turns.take("a", work("a2")), turns.take("b", work("b1"))];
  await settled();
  expect(begun).toEqual(["a1", "b1"]);
  end("a1")?.resolve("first");
  await settled();
  expect(begun).toEqual(["a1", "b1", "a2"]);
  for (const name of ["a2", "b1"]) end(name)?.resolve(name);
  expect(await Promise.all(all)).toEqual(["first", "a2", "b1"]);
});

test("what fails by itself does not take along who waits behind it; what was unavailable does, and whoever comes later tries anew", async () => {
  const turns = openTurns();
  const { begun, work, end } = stage();
  const all = [1, 2, 3].map((n) => turns.take("a", work(`a${n}`)));
  const outcomes = Promise.allSettled(all);
  await settled();
  end("a1")?.reject(new Error("its own fault"));
  await settled();
  const away = new Unavailable("postgres");
  end("a2")?.reject(away);
  expect((await outcomes).map((outcome) => outcome.status === "rejected" && outcome.reason.message)).toEqual([
    "its own fault",
    away.message,
    away.message,
  ]);
  const later = turns.take("a", work("a4"));
  await settled();
  end("a4")?.resolve("done");
  expect(await later).toBe("done");
  expect(begun).toEqual(["a1", "a2", "a4"]);
});
