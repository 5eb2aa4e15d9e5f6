import { expect, test } from "vitest";
import { growthOf } from "./memory.ts";
import { merged, Tally } from "./tally.ts";

const mark = (liveMib: number, rssMib: number) => ({ liveMib, rssMib });

test.each([
  ["a plateau", [mark(70, 180), mark(71, 240), mark(72, 241)], []],
  [
    "live memory that grows by some in each round",
    [mark(70, 180), mark(75, 240), mark(80, 240)],
    ["live memory grew from 70 to 80 MiB"],
  ],
  [
    "pages that grow in the last of two equal rounds",
    [mark(70, 180), mark(70, 240), mark(70, 280)],
    ["the resident set grew from 240 to 280 MiB"],
  ],
  ["no looks at all", [], ["nobody looked at the memory"]],
])("%s: is it growth?", (_, memory, found) => {
  expect(growthOf(memory)).toEqual(found);
});

test("what had no input in one round but in another was not missed, and counts add up", () => {
  const [first, second] = [new Tally("http", ["GET /a", "GET /b"]), new Tally("http", ["GET /a", "GET /b"])];
  first.put("GET /a", 2);
  second.put("GET /a");
  expect(merged([first, second, second]).map((tally) => tally.report())).toMatchObject([
    { inputs: 3, findings: ["GET /b had no input"] },
  ]);
  second.put("GET /b");
  expect(merged([first, second]).map((tally) => tally.report())).toMatchObject([{ inputs: 4, findings: [] }]);
});
