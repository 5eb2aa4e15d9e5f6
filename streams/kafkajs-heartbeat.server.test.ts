import { setTimeout as pause } from "node:timers/promises";
import { expect, test, vi } from "vitest";
import { event, noted, openScene, swift, until, untilTestEnds, useStage } from "../tests/runner-stage.ts";
import { runConsumer } from "./runner.ts";

const stage = useStage();

const HOUR_MS = 3_600_000;

test("a member whose clock was an hour ahead, and is right again, stays in its group", async () => {
  const { group, input, codec, consumer, store, options, fatal } = await openScene(stage(), 2);
  untilTestEnds(runConsumer(consumer, { ...options, store }));
  const say = (seq: number) => stage().producer.append([event(codec, input, seq)]);
  await say(1);
  await until(async () => (await noted(stage(), input)).length === 1);
  const members = async () => {
    const { groups } = await stage().kafka.ask((admin) => admin.describeGroups([group]));
    return groups.flatMap((one) => one.members.map(({ memberId }) => memberId));
  };
  const before = await members();
  expect(before).toHaveLength(1);
  const now = Date.now;
  const ahead = vi.spyOn(Date, "now").mockImplementation(() => now() + HOUR_MS);
  // A heartbeat or two.
  await pause(2_500);
  ahead.mockRestore();
  // Longer than the group waits for a member that says nothing.
  await pause((swift.sessionMs ?? 0) + 4_000);
  expect(await members()).toEqual(before);
  await say(2);
  await until(async () => (await noted(stage(), input)).length === 2);
  expect(fatal).toEqual([]);
}, 90_000);
