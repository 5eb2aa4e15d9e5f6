import { expect, test } from "vitest";
import { Unavailable } from "../protocol/refusal.ts";
import { behindRows, createCommits, type Offset } from "./commits.ts";
import type { OutboxRow } from "./consumer.ts";
import type { Subscription } from "./subscription.ts";

const at = (nextOffset: number, partition = 0): Offset => ({ topic: "in", partition, nextOffset });

/** Commits whose answers are given by hand. */
function house() {
  const told: (readonly Offset[])[] = [];
  const answers: ((answer: "yes" | "no") => void)[] = [];
  const subscription: Pick<Subscription, "commit"> = {
    commit: (offsets) =>
      new Promise((resolve, reject) => {
        told.push(offsets);
        answers.push((answer) => (answer === "yes" ? resolve() : reject(new Unavailable("kafka"))));
      }),
  };
  const commits = createCommits(() => subscription as Subscription, { hit: () => undefined });
  const answer = async (word: "yes" | "no") => {
    await settled();
    answers.shift()?.(word);
    await settled();
  };
  return { commits, told, answer };
}

const settled = () => new Promise((resolve) => setImmediate(resolve));

test("what is asked for while another commit is under way is told after it, and not when it is no news any more", async () => {
  const { commits, told, answer } = house();
  const asked = [commits.commit([at(5)]), commits.commit([at(9)]), commits.commit([at(7), at(3, 1)])];
  for (let n = 0; n < 3; n++) await answer("yes");
  await Promise.all(asked);
  expect(told).toEqual([[at(5)], [at(9)], [at(3, 1)]]);
  await commits.commit([at(9), at(2, 1)]);
  expect(told).toHaveLength(3);
});

test("what failed is not told: the same again is a commit", async () => {
  const { commits, told, answer } = house();
  const failing = commits.commit([at(5)]);
  failing.catch(() => undefined);
  await answer("no");
  await expect(failing).rejects.toBeInstanceOf(Unavailable);
  const again = commits.commit([at(5)]);
  await answer("yes");
  await again;
  expect(told).toEqual([[at(5)], [at(5)]]);
});

test("of a silenced partition nothing is told until it is taken over anew, then also less than before", async () => {
  const { commits, told, answer } = house();
  commits.silence(at(0));
  await commits.commit([at(1_000_000)]);
  expect(told).toEqual([]);
  commits.begin(at(0), -1);
  const told4 = commits.commit([at(4)]);
  await answer("yes");
  await told4;
  expect(told).toEqual([[at(4)]]);
});

test("rows lead to the position behind the last record of each partition", () => {
  const row = (inputPartition: number, inputOffset: number, n: number): OutboxRow => {
    return {
      inputTopic: "in",
      inputPartition,
      inputOffset,
      n,
      topic: "out",
      key: "",
      value: new Uint8Array(),
      headers: {},
    };
  };
  expect(behindRows([row(0, 3, 0), row(0, 3, 1), row(0, 8, 0), row(1, 2, 0)])).toEqual([at(9), at(3, 1)]);
  expect(behindRows([])).toEqual([]);
});
