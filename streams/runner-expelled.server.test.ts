import { once } from "node:events";
import { connect } from "node:net";
import { setTimeout as pause } from "node:timers/promises";
import { expect, test } from "vitest";
import {
  event,
  expectOncePerId,
  noted,
  openScene,
  outboxRows,
  until,
  untilTestEnds,
  useStage,
} from "../tests/runner-stage.ts";
import { useStack } from "../tests/stack.ts";
import { readTopic } from "./read-topic.ts";
import { runConsumer } from "./runner.ts";

const stage = useStage();

/** Kafka's number of the request (https://kafka.apache.org/protocol#protocol_api_keys). */
const leaveGroupApi = 13;

/** Tells the coordinator that the members of the group have left, and them nothing: as when they were silent for too long. */
async function expelAll(group: string): Promise<void> {
  const { groups } = await stage().kafka.ask((admin) => admin.describeGroups([group]));
  const [broker = ""] = useStack().kafkaBrokers;
  const text = (value: string) => {
    const bytes = Buffer.from(value);
    return Buffer.concat([Buffer.from([bytes.length >> 8, bytes.length & 255]), bytes]);
  };
  for (const { memberId } of groups[0]?.members ?? []) {
    const body = Buffer.concat([
      Buffer.from([0, leaveGroupApi, 0, 0, 0, 0, 0, 1]),
      text("test"),
      text(group),
      text(memberId),
    ]);
    const length = Buffer.alloc(4);
    length.writeInt32BE(body.length);
    const [host = "", port = ""] = broker.split(":");
    const socket = connect(Number(port), host);
    socket.write(Buffer.concat([length, body]));
    const [answer] = (await once(socket, "data")) as [Buffer];
    socket.destroy();
    expect(answer.readInt16BE(8)).toBe(0);
  }
}

test("a member that the coordinator does not know any more joins again, also when it looks at idle partitions while an offset waits to be told", async () => {
  const { group, input, output, codec, consumer, store, options, fatal } = await openScene(stage(), 4);
  const timing = { ...options.timing, idleCheckMs: 20, tickMs: 50 };
  untilTestEnds(runConsumer({ ...consumer, afterRestore: "stand-together" }, { ...options, store, timing }));
  let seq = 1_000;
  const say = () => stage().producer.append([event(codec, input, seq++)]);
  await say();
  await until(async () => (await noted(stage(), input)).length === 1);
  for (let times = 0; times < 5; times++) {
    await expelAll(group);
    for (const end = Date.now() + 1_500; Date.now() < end; ) {
      await say();
      await pause(15);
    }
  }
  const count = seq - 1_000;
  await until(async () => (await noted(stage(), input)).length === count, 40_000);
  await until(async () => (await outboxRows(stage(), group)) === 0);
  expectOncePerId(await readTopic(stage().kafka, output.name), count);
  expect(fatal).toEqual([]);
}, 90_000);
