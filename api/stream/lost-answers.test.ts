import { expect, test } from "vitest";
import { until } from "../../tests/stream-client.ts";
import { connect, fill, newWorld, startGateway } from "../../tests/stream-stage.ts";

test("whose answers were lost in an outage of Kafka is asked to connect again when it is over, and nobody else: its items come once more", async () => {
  const { world, alice, bob } = newWorld();
  const place = await startGateway(world, { refreshMs: 20 }, 10);
  fill(world, bob, alice, 12);
  fill(world, alice, bob, 1);
  const heard = await connect(place, alice);
  const client = await connect(place, bob);
  await heard.has("item");
  await client.has("item", 12);
  world.kafkaAway = true;
  client.send({ type: "ack-up-to", seq: 8 }, { type: "ack-up-to", seq: 12 });
  await until(() => place.gateway.status().answersDropped === 4);
  expect(client.frames.some(({ type }) => type === "goaway")).toBe(false);
  world.kafkaAway = false;
  expect(await client.closed).toBe(1012);
  expect(client.frames.at(-1)).toEqual({ type: "goaway", reason: "retry" });
  const again = await connect(place, bob);
  await again.has("queue-empty");
  expect(again.seqs.slice(-4)).toEqual([9, 10, 11, 12]);
  again.send({ type: "ack-up-to", seq: 12 });
  await until(() => world.mailbox(bob.agentId).rows.length === 0);
  expect(heard.frames.some(({ type }) => type === "goaway")).toBe(false);
});
