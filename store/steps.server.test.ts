import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { RecordFault, Unavailable } from "../protocol/refusal.ts";
import { createDatabase, uniqueName } from "../tests/stack.ts";
import { migrate } from "./migrate.ts";
import { openPostgres, type Postgres, type Queryable } from "./postgres.ts";
import { type OutboxRow, openSteps } from "./steps.ts";

let url: string;
let postgres: Postgres;
let steps: ReturnType<typeof openSteps<Queryable>>;

beforeAll(async () => {
  url = await createDatabase("steps");
  await migrate(url);
  postgres = openPostgres(url);
  steps = openSteps(postgres, (client) => client);
});
afterAll(() => postgres?.close());

const topic = "in";
const p0 = { topic, partition: 0 };
const p1 = { topic, partition: 1 };
const nothing = async () => [];

function row(partition: number, offset: number, n: number, changes: Partial<OutboxRow> = {}): OutboxRow {
  const place = { inputTopic: topic, inputPartition: partition, inputOffset: offset, n };
  return {
    ...place,
    topic: "out",
    key: "k",
    value: Buffer.from([n]),
    headers: { ce_id: `${offset}.${n}` },
    ...changes,
  };
}

async function group(): Promise<string> {
  const name = uniqueName("g");
  await steps.loadPositions(name, [
    { ...p0, startAt: 0 },
    { ...p1, startAt: 5 },
  ]);
  return name;
}

async function positions(name: string): Promise<number[]> {
  const loaded = await steps.loadPositions(name, [
    { ...p0, startAt: 99 },
    { ...p1, startAt: 99 },
  ]);
  return loaded.sort((a, b) => a.partition - b.partition).map(({ nextOffset }) => nextOffset);
}

async function placesOf(name: string, partition = p0): Promise<string[]> {
  return (await steps.leftovers(name, partition, 100)).map(({ inputOffset, n }) => `${inputOffset}.${n}`);
}

describe("a position", () => {
  test("begins where it is told, once", async () => {
    expect(await positions(await group())).toEqual([0, 5]);
  });

  test("moves together with all others of the step, or the step does not happen", async () => {
    const name = await group();
    const both = [
      { ...p0, from: 0, to: 3 },
      { ...p1, from: 5, to: 6 },
    ];
    expect(await steps.commitStep(name, both, [], nothing)).toBe("committed");
    expect(await positions(name)).toEqual([3, 6]);
    let worked = false;
    const half = [
      { ...p0, from: 3, to: 9 },
      { ...p1, from: 5, to: 9 },
    ];
    const outcome = await steps.commitStep(name, half, [], async () => {
      worked = true;
      return [row(0, 3, 0)];
    });
    expect([outcome, worked]).toEqual(["moved", false]);
    expect(await positions(name)).toEqual([3, 6]);
    expect(await placesOf(name)).toEqual([]);
  });

  test("is moved by one of many who try at the same moment", async () => {
    const name = await group();
    const outcomes = await Promise.all(
      Array.from({ length: 6 }, (_, i) =>
        steps.commitStep(name, [{ ...p0, from: 0, to: 1 }], [], async () => [row(0, 0, i)]),
      ),
    );
    expect(outcomes.filter((outcome) => outcome === "committed")).toHaveLength(1);
    expect(await placesOf(name)).toHaveLength(1);
  });

  test("stays where it was when the work fails, and the database's refusal of data is told apart", async () => {
    const name = await group();
    const failing = steps.commitStep(name, [{ ...p0, from: 0, to: 1 }], [], async (client) => {
      await client.query({ text: "SELECT 1 / 0" });
      return [];
    });
    await expect(failing).rejects.toThrow(RecordFault);
    expect(await positions(name)).toEqual([0, 5]);
  });

  test("stays where it was when the transaction could not be begun", async () => {
    const name = await group();
    const other = openPostgres(url);
    const client = await other.pool.connect();
    const query = client.query.bind(client) as (query: { text: string }) => Promise<unknown>;
    Object.assign(client, {
      query: (sent: { text: string }) => query(sent.text?.startsWith("BEGIN") ? { text: "SELECT refused" } : sent),
    });
    client.release();
    const failing = openSteps(other, (tx) => tx).commitStep(name, [{ ...p0, from: 0, to: 1 }], [], nothing);
    await expect(failing).rejects.toThrow(Unavailable);
    await other.close();
    expect(await positions(name)).toEqual([0, 5]);
  });

  test("stays where it was when what the step tells the world cannot be written", async () => {
    const name = await group();
    const broken = [row(0, 0, 0, { value: undefined as unknown as Uint8Array })];
    await expect(steps.commitStep(name, [{ ...p0, from: 0, to: 1 }], [], async () => broken)).rejects.toThrow(
      TypeError,
    );
    const twice = [row(0, 0, 0), row(0, 0, 0)];
    await expect(steps.commitStep(name, [{ ...p0, from: 0, to: 1 }], [], async () => twice)).rejects.toThrow(
      RecordFault,
    );
    expect(await positions(name)).toEqual([0, 5]);
    expect(await placesOf(name)).toEqual([]);
  });

  test("sees how far the whole group is, with what it moves itself", async () => {
    const name = await group();
    await steps.commitStep(name, [{ ...p0, from: 0, to: 2 }], [], async (_, reach) => {
      expect((await reach()).positions.toSorted((a, b) => a.partition - b.partition)).toEqual([
        { ...p0, nextOffset: 2 },
        { ...p1, nextOffset: 5 },
      ]);
      expect((await steps.loadReached(name)).positions).toContainEqual({ ...p0, nextOffset: 0 });
      return [];
    });
    expect(await steps.loadReached("nobody")).toEqual({ generation: 0, isHeld: false, positions: [] });
  });

  test("goes where an operator says, and rows of what will be applied again are gone", async () => {
    const name = await group();
    await steps.commitStep(name, [{ ...p0, from: 0, to: 9 }], [], async () => [row(0, 2, 0), row(0, 6, 0)]);
    await steps.acceptGap(name, p0, 4);
    expect(await positions(name)).toEqual([4, 5]);
    expect(await placesOf(name)).toEqual(["2.0"]);
  });

  test("goes nowhere where rows would be lost that must not be", async () => {
    const name = await group();
    await steps.commitStep(name, [{ ...p0, from: 0, to: 9 }], [], async () => [row(0, 2, 0), row(0, 6, 0)]);
    expect(await steps.acceptGap(name, p0, 4, "refuse")).toBe("rows-wait");
    expect(await positions(name)).toEqual([9, 5]);
    expect(await placesOf(name)).toEqual(["2.0", "6.0"]);
    expect(await steps.acceptGap(name, p0, 7, "refuse")).toBe("accepted");
    expect(await positions(name)).toEqual([7, 5]);
    expect(await placesOf(name)).toEqual(["2.0", "6.0"]);
  });
});

describe("the outbox", () => {
  test("says which rows stand in it, byte for byte", async () => {
    const name = await group();
    const rows = [row(0, 1, 0), row(0, 1, 1), row(0, 3, 0)];
    const [first, second, third] = rows as [OutboxRow, OutboxRow, OutboxRow];
    await steps.commitStep(name, [{ ...p0, from: 0, to: 4 }], [], async () => rows);
    expect(await steps.stillWaiting(name, rows)).toEqual(rows);
    const other = { ...third, value: Buffer.from("another record at the same place") };
    expect(await steps.stillWaiting(name, [second, row(0, 2, 0), other])).toEqual([second]);
    await steps.deletePublished(name, [{ ...p0, from: 1, below: 2 }]);
    expect(await steps.stillWaiting(name, [first, second, third])).toEqual([third]);
    expect(await steps.stillWaiting(await group(), rows)).toEqual([]);
  });

  test("gives back what was written, any bytes and any header, in order and by pages", async () => {
    const name = await group();
    const odd = row(0, 1, 0, {
      key: Buffer.from([0, 255]),
      headers: { "a\u0000": "\ud800 \u0000" },
      value: Buffer.alloc(0),
    });
    const rows = [row(0, 2, 1), row(0, 10, 0), odd, row(0, 2, 0), row(1, 5, 0)];
    await steps.commitStep(name, [{ ...p0, from: 0, to: 11 }], [], async () => rows);
    expect(await placesOf(name)).toEqual(["1.0", "2.0", "2.1", "10.0"]);
    expect(await placesOf(name, p1)).toEqual(["5.0"]);
    const [first] = await steps.leftovers(name, p0, 1);
    expect(first).toMatchObject({ key: odd.key, value: odd.value, inputTopic: topic, topic: "out" });
    expect(JSON.stringify(first?.headers)).toBe(JSON.stringify(odd.headers));
    const page = await steps.leftovers(name, p0, 2, { inputOffset: 2, n: 0 });
    expect(page.map(({ inputOffset, n }) => `${inputOffset}.${n}`)).toEqual(["2.1", "10.0"]);
  });

  test("loses published rows with the next step or on their own: of that group and partition, below that offset", async () => {
    const [name, other] = [await group(), await group()];
    for (const one of [name, other]) {
      const rows = [row(0, 0, 0), row(0, 1, 0), row(0, 2, 0), row(1, 0, 0)];
      await steps.commitStep(one, [{ ...p0, from: 0, to: 3 }], [], async () => rows);
    }
    await steps.commitStep(name, [{ ...p1, from: 5, to: 6 }], [{ ...p0, from: 0, below: 1 }], nothing);
    expect(await placesOf(name)).toEqual(["1.0", "2.0"]);
    await steps.deletePublished(name, [{ ...p0, from: 1, below: 2 }]);
    expect(await placesOf(name)).toEqual(["2.0"]);
    expect(await placesOf(name, p1)).toEqual(["0.0"]);
    expect(await placesOf(other)).toHaveLength(3);
  });
});
