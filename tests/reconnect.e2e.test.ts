import { randomInt } from "node:crypto";
import { afterAll, beforeAll, expect, test } from "vitest";
import { BenchAgent } from "../bench/bench-agent.ts";
import type { ItemFrame, ServerFrame } from "../protocol/stream-frames.ts";
import { consumerParts, eventually, type House, openHouse } from "./house.ts";

let house: House;
let url: string;

beforeAll(async () => {
  house = await openHouse();
  ({ url } = await house.start({ roles: ["api"], prepare: true }));
  await house.start({ roles: consumerParts });
});

afterAll(() => house.close());

const perSender = 400;
const sendersCount = 3;
const total = perSender * sendersCount;

test("a client that reconnects at random moments under load is sent every message, in order, none skipped", async () => {
  const arrivals: string[] = [];
  const refused: unknown[] = [];
  const quiet = {
    onMessage() {},
    onAccepted() {},
    onSent() {},
    onRefused: (problem: unknown) => refused.push(problem),
  };
  /** Seqs that this client has answered. */
  const answered = new Set<number>();
  /** What each connection was sent. */
  const connections: number[][] = [];
  let current: number[] = [];
  const onItem = (frame: ItemFrame) => {
    current.push(frame.seq);
    // Some are answered, in any order; others are lost with the connection.
    if (randomInt(3) === 0) return false;
    answered.add(frame.seq);
    return true;
  };
  const receiver = new BenchAgent(url, {
    ...quiet,
    onMessage: ({ messageId }) => arrivals.push(messageId),
    onFrames: (frames: readonly ServerFrame[]) => {
      const answers = frames.filter((frame) => frame.type === "item").filter(onItem);
      if (answers.length > 0) receiver.answer(answers);
    },
  });
  const senders = Array.from({ length: sendersCount }, () => new BenchAgent(url, quiet));
  for (const agent of [receiver, ...senders]) await agent.start();
  for (const sender of senders) await sender.meet(receiver.id);
  connections.push(current);

  const sending = (async () => {
    for (let index = 0; index < perSender; index += 1) {
      for (const sender of senders) sender.send(receiver.id, Buffer.from(`${index}`), 0);
      await pause(8);
    }
  })();
  let reconnecting = true;
  const chaos = (async () => {
    while (reconnecting) {
      await pause(randomInt(20, 300));
      receiver.cut();
      await pause(randomInt(0, 100));
      current = [];
      connections.push(current);
      await receiver.connect();
    }
  })();
  await sending;
  await pause(500);
  reconnecting = false;
  await chaos;
  const seen = () => new Set(connections.flat());
  await eventually(`all ${total} messages were sent to the client`, () => seen().size === total, 60_000);

  expect(refused).toEqual([]);
  expect(connections.length).toBeGreaterThan(5);
  expect([...seen()].sort((a, b) => a - b)).toEqual(Array.from({ length: total }, (_, index) => index + 1));
  for (const seqs of connections) {
    expect(seqs).toEqual([...seqs].sort((a, b) => a - b));
    expect(new Set(seqs).size).toBe(seqs.length);
    const sent = new Set(seqs);
    const last = seqs.at(-1) ?? 0;
    for (let seq = 1; seq <= last; seq += 1) expect(sent.has(seq) || answered.has(seq), `seq ${seq}`).toBe(true);
  }
  for (const agent of [receiver, ...senders]) agent.close();
});

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
