import { expect, test } from "vitest";
import { InMemoryKafka } from "../tests/in-memory-kafka.ts";
import { type SubscriptionEvents, subscribe } from "./subscription.ts";

test("a subscription that is given up while its consumer joins the group does not stay in it", async () => {
  const kafka = new InMemoryKafka();
  const events: SubscriptionEvents = {
    onAssigned: () => undefined,
    onBatch: async () => false,
    onSkipped: () => undefined,
    onCrash: () => undefined,
  };
  const subscription = await subscribe(kafka.door, { group: "g", topics: ["t"], sessionMs: 6_000 }, events);
  await subscription.close();
  expect(kafka.consumers.map(({ isOver }) => isOver)).toEqual([true]);
});
