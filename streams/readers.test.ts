import { readdirSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { catalogue } from "./catalogue.ts";
import type { PlainConsumer, StepConsumer } from "./consumer.ts";
import { readers } from "./readers.ts";
import type { Topic } from "./topic.ts";

const folder = join(import.meta.dirname, "..", "consumers");
const names = readdirSync(folder, { withFileTypes: true }).flatMap((entry) =>
  entry.isDirectory() ? [entry.name] : [],
);

type Consumer = StepConsumer<unknown, unknown> | PlainConsumer<unknown>;

async function consumerOf(name: string): Promise<Consumer> {
  const module = (await import(join(folder, name, `${name}.ts`))) as Record<
    string,
    Consumer | ((deps: object) => Consumer)
  >;
  const exported = module[name];
  if (exported === undefined) throw new Error(`consumers/${name} exports no consumer of its name`);
  return typeof exported === "function" ? exported({}) : exported;
}

test("every consumer is declared as a reader of just the topics it reads, with its positions where it keeps them", async () => {
  expect(names.length).toBeGreaterThan(0);
  const found = await Promise.all(
    names.map(async (folderName) => {
      const consumer = await consumerOf(folderName);
      const positions = "step" in consumer ? "postgres" : "kafka";
      return { group: consumer.name, reads: consumer.reads.map(({ name }) => name), positions };
    }),
  );
  const declared = readers.map((reader) => ({ ...reader, reads: reader.reads.map(({ name }) => name) }));
  const byGroup = (a: { group: string }, b: { group: string }) => a.group.localeCompare(b.group);
  expect(declared.toSorted(byGroup)).toEqual(found.toSorted(byGroup));
});

test("a record of any topic that is read that cannot be used becomes one dead letter: just one of its groups makes it", async () => {
  const consumers = await Promise.all(names.map(consumerOf));
  const makersOf = (topic: Topic<unknown>) =>
    consumers
      .filter(({ reads, deadLettersOf = reads }) => reads.includes(topic) && deadLettersOf.includes(topic))
      .map(({ name }) => name);
  const read = new Set(readers.flatMap(({ reads }) => reads));
  expect(read.size).toBeGreaterThan(20);
  expect(Array.from(read, (topic) => [topic.name, makersOf(topic).length])).toEqual(
    Array.from(read, ({ name }) => [name, 1]),
  );
});

test("what no one reads and yet is trimmed is known: it goes by its age alone", () => {
  const read = new Set(readers.flatMap(({ reads }) => reads.map(({ name }) => name)));
  const unread = catalogue.filter(({ name, retention }) => "trimmedAfterMs" in retention && !read.has(name));
  expect(unread.map(({ name }) => name)).toEqual([]);
});
