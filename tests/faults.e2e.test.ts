/**
 * A minute of faults of all sorts, mixed, over the whole service: consumers and the broker that die, partitions that move, answers that are lost, connections that fall silent, an
 * emptied Redis, poison. The same as `npm run faults -- --seconds 60 --seed 306` with these kinds. It is always the same minute, so that what turns red has been changed by what was
 * changed; other minutes are looked for by other seeds.
 */
import path from "node:path";
import { expect, test } from "vitest";
import { broken } from "./faults/checker/check.ts";
import { run } from "./faults/run.ts";
import { choiceOf, schedule } from "./faults/schedule.ts";
import { layouts, worldOf } from "./faults/stage.ts";

const seconds = 60;
const layout = layouts.few;
const world = worldOf(layout);
const choices = [
  "kill",
  "stop",
  "failpoint",
  "rebalance",
  "kill-server",
  "stop-server",
  "flush-redis",
  "stale-redis",
  "drop-responses",
  "reset",
  "delay",
  "blackhole",
  "poison",
].map((kind) => choiceOf(kind, world));

const seed = 306;
/** Who changes the kinds or the schedule looks for a seed with such a minute. */
const mustHave = ["kill", "kill-server", "failpoint", "rebalance", "drop-responses", "poison", "flush-redis"];

test("faults of all sorts, mixed: every promise holds, and the checker sees each mutant", {
  timeout: 900_000,
  retry: 0,
}, async () => {
  const plan = schedule(seed, seconds, world, choices);
  expect(plan.map(({ fault }) => fault)).toEqual(expect.arrayContaining(mustHave));
  const keptIn = path.resolve(import.meta.dirname, "../.sealpost/faults", `${seed}`);
  console.log(`faults: seed ${seed}, ${plan.map(({ fault, target }) => `${fault} ${target}`).join(", ")}`);
  const lines: string[] = [];
  const say = (line: string) => void lines.push(line);
  const report = await run({ seed, seconds, layout, plan, sessions: 20, perSecond: 20, keptIn, say });
  const { verdict, mutants, notes } = report;
  console.log(`faults: ${JSON.stringify({ ...verdict, findings: undefined })}`);
  const story = `seed ${seed}\n${[...lines, ...new Set(notes)].join("\n")}`;
  expect(verdict.findings, story).toEqual(
    Object.fromEntries(Object.keys(verdict.findings).map((invariant) => [invariant, []])),
  );
  expect(broken(verdict)).toEqual([]);
  expect(mutants.filter(({ caught }) => !caught)).toEqual([]);
  expect(mutants.length).toBeGreaterThanOrEqual(12);
});
