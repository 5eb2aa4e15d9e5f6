/**
 * Values to bytes and back: Avro in Confluent's wire format, `0x00 | schema id, 4 bytes big-endian | Avro binary`.
 *
 * Promises: the registry is asked when the codec opens, and later once per schema id that it has not met, never per record. Bytes that
 * are not a value of the topic are a `Refusal("undecodable")`; a registry that does not answer is `Unavailable("registry")`.
 */
import { readFile } from "node:fs/promises";
import type avro from "avsc";
import { Refusal, Unavailable } from "../protocol/refusal.ts";
import { avroType } from "./avro.ts";
import { backoffMs, pause } from "./backoff.ts";
import { catalogue } from "./catalogue.ts";
import { openRegistry, type Registry } from "./registry.ts";
import type { Topic } from "./topic.ts";

type CodecCode = "undecodable" | "schema-mismatch";

export interface Codec {
  /** Throws (a bug of the caller) when `value` does not fit the topic's schema. */
  encode<T>(topic: Topic<T>, value: T): Buffer;
  /**
   * The value; its binary fields are views of `bytes`. Call `learn` with the same bytes before.
   *
   * Throws `Refusal("undecodable")`: no value, wrong first byte, unknown schema, a schema that cannot be read as the topic's, truncated
   * or trailing bytes.
   */
  decode<T>(topic: Topic<T>, bytes: Uint8Array | null): T;
  /**
   * Makes every schema known that these records were written with; null when all are already, so that nobody waits for nothing.
   *
   * Rejects with `Unavailable("registry")`.
   */
  learn(records: readonly (Uint8Array | null)[]): Promise<void> | null;
}

export interface CodecOptions {
  readonly registryUrl: string;
  /** True in development and CI: schemas that are missing are registered. Else a missing one refuses the start. */
  readonly register: boolean;
  readonly topics?: readonly Topic<unknown>[];
}

/** An id the registry does not know is asked for again after this: long enough to spare it, short enough for a late replica. */
const unknownForMs = 10_000;
const headerBytes = 5;

/** What a topic's values are written as and read into, and how to read what others wrote. */
interface TopicTypes {
  readonly id: number;
  readonly type: avro.Type;
  /** By the writer's schema id; null where the writer's schema cannot be read as ours. */
  readonly readers: Map<number, Reader | null>;
}

type Reader = (bytes: Buffer) => unknown;

/**
 * Opens the codec of `topics` (the whole catalogue by default).
 *
 * Rejects with `Refusal("schema-mismatch")`, its `field` the subject, when the registry holds other schemas or would not take ours, and
 * with `Unavailable("registry")`.
 */
export async function openCodec(options: CodecOptions): Promise<Codec> {
  const registry = openRegistry(options.registryUrl);
  const topics = new Map<string, TopicTypes>();
  const writers = new Map<number, avro.Type>();
  // One after the other: a registry that has just started has few connections to its own database, and refuses who waits for one.
  for (const topic of options.topics ?? catalogue) {
    const text = await schemaText(topic);
    const subject = `${topic.name}-value`;
    const id = await patiently(() =>
      options.register ? registry.register(subject, text) : registry.lookUp(subject, text),
    );
    const type = avroType(text);
    writers.set(id, type);
    topics.set(topic.name, { id, type, readers: new Map() });
  }
  return codecOver(registry, topics, writers);
}

/** Over some two seconds: longer, and whoever supervises this process knows better what to do. */
const triesMax = 5;

async function patiently<Answer>(ask: () => Promise<Answer>): Promise<Answer> {
  for (let tries = 1; ; tries++) {
    try {
      return await ask();
    } catch (error) {
      // Of two processes that register a subject in the same moment a registry may refuse one; what is wrong is refused again.
      const isOnce = error instanceof Refusal && tries === 1;
      if ((!(error instanceof Unavailable) && !isOnce) || tries === triesMax) throw error;
      await pause(backoffMs(tries));
    }
  }
}

/** The topic's schema as it stands in `schemas/`. */
export function schemaText(topic: Topic<unknown>): Promise<string> {
  return readFile(new URL(`../schemas/${topic.schema ?? topic.name}.avsc`, import.meta.url), "utf8");
}

function codecOver(
  registry: Pick<Registry, "find">,
  topics: ReadonlyMap<string, TopicTypes>,
  writers: Map<number, avro.Type>,
): Codec {
  const fetching = new Map<number, Promise<void>>();
  const unknownUntil = new Map<number, number>();
  let scratch = Buffer.allocUnsafeSlow(64 * 1024);

  function typesOf(topic: Topic<unknown>): TopicTypes {
    const types = topics.get(topic.name);
    if (types === undefined) throw new Error("the codec was opened without this topic");
    return types;
  }

  function fetchOnce(id: number): Promise<void> {
    const running = fetching.get(id);
    if (running !== undefined) return running;
    const fetched = registry
      .find(id)
      .then((text) => {
        const type = text === null ? null : typeOrNull(text);
        if (type === null) unknownUntil.set(id, Date.now() + unknownForMs);
        else writers.set(id, type);
      })
      .finally(() => fetching.delete(id));
    fetching.set(id, fetched);
    return fetched;
  }

  return {
    encode(topic, value) {
      const { id, type } = typesOf(topic);
      for (;;) {
        const end = type.encode(value, scratch, headerBytes);
        if (end >= headerBytes) {
          scratch[0] = 0;
          scratch.writeUInt32BE(id, 1);
          return Buffer.from(scratch.subarray(0, end));
        }
        // A negative answer is the number of bytes that were missing.
        scratch = Buffer.allocUnsafeSlow(2 * (scratch.length - end));
      }
    },

    decode<T>(topic: Topic<T>, bytes: Uint8Array | null): T {
      const id = schemaIdOf(bytes);
      if (bytes === null || id === null) throw new Refusal<CodecCode>("undecodable");
      const types = typesOf(topic);
      let reader = types.readers.get(id);
      if (reader === undefined) {
        const writer = writers.get(id);
        if (writer === undefined) throw new Refusal<CodecCode>("undecodable");
        reader = readerOf(types.type, writer);
        types.readers.set(id, reader);
      }
      if (reader === null) throw new Refusal<CodecCode>("undecodable");
      try {
        return reader(asBuffer(bytes).subarray(headerBytes)) as T;
      } catch {
        throw new Refusal<CodecCode>("undecodable");
      }
    },

    learn(records) {
      const missing = new Set<number>();
      for (const bytes of records) {
        const id = schemaIdOf(bytes);
        if (id !== null && !writers.has(id) && (unknownUntil.get(id) ?? 0) < Date.now()) missing.add(id);
      }
      if (missing.size === 0) return null;
      return Promise.all(Array.from(missing, fetchOnce)).then(() => undefined);
    },
  };
}

/** Null where the bytes do not begin as a record of ours. */
function schemaIdOf(bytes: Uint8Array | null): number | null {
  if (bytes === null || bytes.length < headerBytes || bytes[0] !== 0) return null;
  return asBuffer(bytes).readUInt32BE(1);
}

function readerOf(reader: avro.Type, writer: avro.Type): Reader | null {
  if (reader === writer) return (bytes) => reader.fromBuffer(bytes);
  try {
    const resolver = reader.createResolver(writer);
    return (bytes) => reader.fromBuffer(bytes, resolver);
  } catch {
    return null;
  }
}

/** A registry may hold schemas that are not Avro. */
function typeOrNull(text: string): avro.Type | null {
  try {
    return avroType(text);
  } catch {
    return null;
  }
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
