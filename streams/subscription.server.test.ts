import { expect, test } from "vitest";
import { openScene, until, useStage } from "../tests/runner-stage.ts";
import { type SubscriptionEvents, subscribe } from "./subscription.ts";

const stage = useStage();

test("orders to a consumer that has ended do nothing: a timer that gives one does not end the process", async () => {
  const { kafka } = stage();
  const { group, input } = await openScene(stage(), 1);
  const assigned: unknown[] = [];
  const events: SubscriptionEvents = {
    onAssigned: (partitions) => void assigned.push(...partitions),
    onBatch: async () => true,
    onSkipped: () => undefined,
    onCrash: () => undefined,
  };
  const subscription = await subscribe(kafka, { group, topics: [input.name], sessionMs: 6_000 }, events);
  const place = { topic: input.name, partition: 0 };
  await until(() => assigned.length === 1);
  subscription.pause(place);
  await subscription.close();
  expect(() => subscription.resume(place)).not.toThrow();
  expect(() => subscription.seek(place, 0)).not.toThrow();
  expect(() => subscription.pause(place)).not.toThrow();
});
