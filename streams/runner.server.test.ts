import { describe, expect, test } from "vitest";
import { event, expectOncePerId, noted, openScene, outboxRows, until, useStage } from "../tests/runner-stage.ts";
import { acceptGap } from "./gap.ts";
import { partitionOf } from "./partition.ts";
import { readTopic } from "./read-topic.ts";
import { noMetrics } from "./runner-options.ts";

const stage = useStage();

describe("the runner", () => {
  test("applies every record once, in order for each key, tells the world once, and leaves an empty outbox", async () => {
    const { group, input, output, codec, start, fatal } = await openScene(stage(), 4);
    const seqs = Array.from({ length: 1_200 }, (_, i) => i + 1_000);
    await stage().producer.append(seqs.slice(0, 600).map((seq) => event(codec, input, seq)));
    const runner = start();
    await stage().producer.append(seqs.slice(600).map((seq) => event(codec, input, seq)));
    await until(async () => (await noted(stage(), input)).length === 1_200);
    await until(async () => (await outboxRows(stage(), group)) === 0);
    expect(runner.ready()).toBe(true);
    const rows = await noted(stage(), input);
    expect(rows.every(({ n }) => n === 1)).toBe(true);
    const told = await readTopic(stage().kafka, output.name);
    const values = told.map(({ value }) => codec.decode(output, value));
    for (const key of ["k0", "k1", "k2", "k3", "k4"]) {
      const expected = seqs.filter((seq) => `k${seq % 5}` === key);
      expect(rows.filter((row) => row.key === key).map(({ seq }) => seq)).toEqual(expected);
      expect(values.filter(({ recipientId }) => recipientId === key).map(({ seq }) => seq)).toEqual(expected);
    }
    expect(told[0]?.headers).toMatchObject({
      ce_type: Buffer.from(output.name),
      ce_source: Buffer.from(`/sealpost/${group}`),
      traceparent: Buffer.from("00-trace-span-01"),
    });
    await until(() => runner.lag().length === 4 && runner.lag().every(({ records }) => records === 0));
    await runner.stop();
    const [committed] = await stage().kafka.ask((admin) =>
      admin.fetchOffsets({ groupId: group, topics: [input.name] }),
    );
    expect(committed?.partitions.reduce((sum, { offset }) => sum + Math.max(0, Number(offset)), 0)).toBe(1_200);
    expect(fatal).toEqual([]);
  });

  test("makes a dead letter of a record that cannot be used, tells the world, and the partition goes on", async () => {
    const { group, input, output, codec, start } = await openScene(stage(), 1);
    const good = event(codec, input, 1_001, "k");
    const headers = { ...good.headers, odd: "a\u0000b" };
    const poison = [
      { ...good, value: Buffer.from("no Avro at all"), headers },
      { ...good, value: Buffer.concat([Buffer.from([0, 0x7f, 0, 0, 0]), Buffer.from(good.value).subarray(5)]) },
      { ...good, value: Buffer.from(good.value).subarray(0, -1), key: Buffer.from([0, 255, 254]) },
      event(codec, input, 13, "k"),
    ];
    await stage().producer.append([good, ...poison, event(codec, input, 1_002, "k")]);
    start();
    await until(async () => (await noted(stage(), input)).length === 2);
    await until(async () => (await outboxRows(stage(), group)) === 0);
    const letters = await readTopic(stage().kafka, `${input.name}.dlq`);
    expect(letters.map(({ headers }) => headers?.["x-error-code"]?.toString())).toEqual([
      "undecodable",
      "undecodable",
      "undecodable",
      "unlucky",
    ]);
    letters.forEach((letter, index) => {
      expect(letter.value).toEqual(poison[index]?.value);
      expect(letter.key).toEqual(Buffer.from(poison[index]?.key ?? ""));
      expect(
        Object.fromEntries(Object.entries(letter.headers ?? {}).map(([name, value]) => [name, `${value}`])),
      ).toMatchObject({
        ...poison[index]?.headers,
        "x-orig-topic": input.name,
        "x-orig-partition": "0",
        "x-orig-offset": String(index + 1),
        "x-orig-timestamp": expect.stringMatching(/^\d{13}$/),
        "x-consumer-group": group,
      });
    });
    const told = (await readTopic(stage().kafka, output.name)).map(({ value }) => codec.decode(output, value));
    expect(told.filter(({ recipientId }) => recipientId.startsWith("lament:"))).toHaveLength(4);
  });

  test("finds the one record that the database refuses by halving, and applies all others once", async () => {
    const { group, input, codec, start, fatal } = await openScene(stage(), 2);
    const seqs = Array.from({ length: 200 }, (_, i) => (i === 77 ? 666 : i + 1_000));
    await stage().producer.append(seqs.map((seq) => event(codec, input, seq)));
    start();
    await until(async () => (await noted(stage(), input)).length === 199);
    await until(async () => (await outboxRows(stage(), group)) === 0);
    expect((await noted(stage(), input)).every(({ n }) => n === 1)).toBe(true);
    const [letter, ...more] = await readTopic(stage().kafka, `${input.name}.dlq`);
    expect(codec.decode(input, letter?.value ?? null)).toMatchObject({ seq: 666 });
    expect(letter?.headers?.["x-error-code"]?.toString()).toBe("sql-23514");
    expect(more).toEqual([]);
    expect(fatal).toEqual([]);
  });

  test("ends the process for a bug, and nothing is applied, blamed or lost", async () => {
    const { input, codec, start, fatal } = await openScene(stage(), 1);
    await stage().producer.append([event(codec, input, 1_001), event(codec, input, 404)]);
    start();
    await until(() => fatal.length > 0);
    expect(fatal).toEqual([expect.any(TypeError)]);
    expect(await readTopic(stage().kafka, `${input.name}.dlq`)).toEqual([]);
    expect(await noted(stage(), input)).toEqual([]);
  });

  test("reloads and gives way when another owner moves a position, and both together apply every record once", async () => {
    const { group, input, output, codec, start, fatal } = await openScene(stage(), 3);
    // The same group in PostgreSQL, another one at the coordinator: both hold every partition, as a zombie and its successor do.
    const zombie = {
      ...stage().kafka,
      client: Object.assign(Object.create(stage().kafka.client), {
        consumer: (config: { groupId: string }) =>
          stage().kafka.client.consumer({ ...config, groupId: `${group}-zombie` }),
      }),
    };
    start();
    start({ kafka: zombie });
    const seqs = Array.from({ length: 600 }, (_, i) => i + 1_000);
    for (let at = 0; at < 600; at += 20) {
      await stage().producer.append(seqs.slice(at, at + 20).map((seq) => event(codec, input, seq)));
      await new Promise((resolve) => setTimeout(resolve, 15));
    }
    await until(async () => (await noted(stage(), input)).length === 600);
    await until(async () => (await outboxRows(stage(), group)) === 0);
    const rows = await noted(stage(), input);
    expect(rows.every(({ n }) => n === 1)).toBe(true);
    expect(fatal).toEqual([]);
    const told = await readTopic(stage().kafka, output.name);
    expectOncePerId(told, 600);
    for (const key of ["k0", "k1", "k2", "k3", "k4"]) {
      const values = told
        .filter((record) => `${record.key}` === key)
        .map(({ value }) => codec.decode(output, value).seq);
      expect(Array.from(new Set(values))).toEqual(seqs.filter((seq) => `k${seq % 5}` === key));
    }
  });

  test("loses nothing and repeats nothing while members come and go", async () => {
    const { group, input, output, codec, start, fatal } = await openScene(stage(), 4);
    const seqs = Array.from({ length: 800 }, (_, i) => i + 1_000);
    const members = [start()];
    const producing = (async () => {
      for (let at = 0; at < 800; at += 10) {
        await stage().producer.append(seqs.slice(at, at + 10).map((seq) => event(codec, input, seq)));
        await new Promise((resolve) => setTimeout(resolve, 30));
      }
    })();
    await new Promise((resolve) => setTimeout(resolve, 700));
    members.push(start());
    await until(() => members[1]?.ready() === true);
    await members[0]?.stop();
    start();
    await producing;
    await until(async () => (await noted(stage(), input)).length === 800);
    await until(async () => (await outboxRows(stage(), group)) === 0);
    const rows = await noted(stage(), input);
    expect(rows.every(({ n }) => n === 1)).toBe(true);
    expect(fatal).toEqual([]);
    for (const key of ["k0", "k1", "k2", "k3", "k4"]) {
      expect(rows.filter((row) => row.key === key).map(({ seq }) => seq)).toEqual(
        seqs.filter((seq) => `k${seq % 5}` === key),
      );
    }
    expectOncePerId(await readTopic(stage().kafka, output.name), 800);
  });

  test("stands still before a gap in the log, goes on elsewhere, and goes on here when an operator accepts it", async () => {
    const { group, input, codec, store, start, fatal } = await openScene(stage(), 2);
    const inPartition = (partition: number, seq: number) => {
      const key = Array.from({ length: 20 }, (_, i) => `g${i}`).find((k) => partitionOf(k, 2) === partition) ?? "";
      return event(codec, input, seq, key);
    };
    const first = start();
    await stage().producer.append([inPartition(0, 1), inPartition(1, 2)]);
    await until(async () => (await noted(stage(), input)).length === 2);
    await first.stop();
    await stage().producer.append([inPartition(0, 3), inPartition(0, 4), inPartition(0, 5)]);
    await stage().kafka.ask(async (admin) => {
      // Without it kafkajs does not know the topic's leaders.
      await admin.fetchTopicOffsets(input.name);
      await admin.deleteTopicRecords({ topic: input.name, partitions: [{ partition: 0, offset: "3" }] });
    });
    const gaps: number[] = [];
    const second = start({ metrics: { ...noMetrics, gaps: (_, partitions) => gaps.push(partitions) } });
    await stage().producer.append([inPartition(1, 6)]);
    await until(async () => (await noted(stage(), input)).length === 3);
    await until(() => gaps.at(-1) === 1 && second.lag().some(({ stopped }) => stopped));
    expect((await noted(stage(), input)).map(({ seq }) => seq).sort()).toEqual([1, 2, 6]);
    expect(await acceptGap(stage().kafka, store, group, { topic: input.name, partition: 0 })).toEqual({
      from: 1,
      to: 3,
    });
    await second.check();
    await until(async () => (await noted(stage(), input)).some(({ seq }) => seq === 5));
    await until(() => gaps.at(-1) === 0);
    // A log that ends before the position is a gap as well: somebody made the topic anew.
    await second.stop();
    await store.acceptGap(group, { topic: input.name, partition: 1 }, 99);
    const third = start();
    await until(() => third.lag().some(({ partition, stopped }) => partition === 1 && stopped));
    expect(fatal).toEqual([]);
  });
});
