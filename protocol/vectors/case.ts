/**
 * What the vector files are made into: named cases, each a number of checks over one set of primitives.
 *
 * A case passes when it has made at least one check and none failed. `Fields` makes sure that no member of a case goes unread: a
 * vector that says more than is looked at fails.
 */
import { decodeBase64Url, encodeBase64Url } from "../base64url.ts";
import type { Primitives, Random } from "../primitives/primitives.ts";
import { Refusal } from "../refusal.ts";
import { parseTimestamp } from "../timestamp.ts";

/** One vector. `run` is absent when this version of the protocol's code cannot run it: it is skipped, by name. */
export interface Case {
  readonly name: string;
  readonly run?: (primitives: Primitives, checks: Checks) => void;
}

/** Compares, counts, and throws a `Mismatch` at the first difference. */
export class Checks {
  count = 0;

  /** Both are compared by their JSON text, bytes as base64url. */
  equal(what: string, actual: unknown, expected: unknown): void {
    this.count++;
    const texts = [actual, expected].map(textOf);
    if (texts[0] !== texts[1]) throw new Mismatch(`${what}: ${texts[0]} instead of ${texts[1]}`);
  }

  /** The code with which `act` refuses must be one of these. */
  refuses(act: () => unknown, codes: readonly string[]): void {
    this.count++;
    const code = refusalOf(act);
    if (code === null || !codes.includes(code)) {
      throw new Mismatch(`${code === null ? "accepted" : `refused with ${code}`} instead of ${codes.join(" or ")}`);
    }
  }
}

/** A check that failed. */
export class Mismatch extends Error {}

/** The members of a JSON object, of which each must have been read in the end. */
export class Fields {
  readonly #object: Readonly<Record<string, unknown>>;
  readonly #unread: Set<string>;

  constructor(value: unknown) {
    if (typeof value !== "object" || value === null || Array.isArray(value)) throw new Mismatch("not an object");
    this.#object = value as Record<string, unknown>;
    this.#unread = new Set(Object.keys(value));
  }

  has(name: string): boolean {
    return this.#object[name] !== undefined && this.#object[name] !== null;
  }

  value(name: string): unknown {
    this.#unread.delete(name);
    if (this.#object[name] === undefined) throw new Mismatch(`${name} is missing`);
    return this.#object[name];
  }

  /** Undefined when absent. */
  optional(name: string): unknown {
    return this.#object[name] === undefined ? undefined : this.value(name);
  }

  string(name: string): string {
    const value = this.value(name);
    if (typeof value !== "string") throw new Mismatch(`${name} is not a string`);
    return value;
  }

  /** Empty when absent: an explanation, of which nothing depends. */
  comment(name: string): string {
    return this.#object[name] === undefined ? "" : this.string(name);
  }

  /** Null when it is null. */
  nullableString(name: string): string | null {
    return this.has(name) ? this.string(name) : (this.value(name) as null);
  }

  number(name: string): number {
    const value = this.value(name);
    if (typeof value !== "number") throw new Mismatch(`${name} is not a number`);
    return value;
  }

  boolean(name: string): boolean {
    const value = this.value(name);
    if (typeof value !== "boolean") throw new Mismatch(`${name} is not a boolean`);
    return value;
  }

  bytes(name: string): Uint8Array {
    const bytes = decodeBase64Url(this.string(name));
    if (bytes === null) throw new Mismatch(`${name} is not base64url`);
    return bytes;
  }

  /** Null when it is null. */
  nullableBytes(name: string): Uint8Array | null {
    return this.has(name) ? this.bytes(name) : (this.value(name) as null);
  }

  time(name: string): number {
    const ms = parseTimestamp(this.string(name));
    if (ms === null) throw new Mismatch(`${name} is not a time`);
    return ms;
  }

  list(name: string): readonly unknown[] {
    const value = this.value(name);
    if (!Array.isArray(value)) throw new Mismatch(`${name} is not a list`);
    return value;
  }

  fields(name: string): Fields {
    return new Fields(this.value(name));
  }

  /** Null when it is null. */
  nullableFields(name: string): Fields | null {
    return this.has(name) ? this.fields(name) : (this.value(name) as null);
  }

  /** To be called last. */
  end(): void {
    if (this.#unread.size > 0) throw new Mismatch(`nothing looks at ${[...this.#unread].join(", ")}`);
  }
}

/** A random source that gives exactly these, in this order. */
export function scriptedRandom(script: readonly Uint8Array[]): {
  readonly random: Random;
  readonly left: () => number;
} {
  const rest = [...script];
  return {
    random: (length) => {
      const next = rest.shift();
      if (next === undefined || next.length !== length)
        throw new Mismatch("asked for randomness that the vector has not");
      return next;
    },
    left: () => rest.length,
  };
}

/** The code of a refusal; null when nothing was refused. Other errors pass through. */
export function refusalOf(act: () => unknown): string | null {
  try {
    act();
    return null;
  } catch (error) {
    if (error instanceof Refusal) return error.code;
    throw error;
  }
}

function textOf(value: unknown): string {
  return JSON.stringify(sorted(value)) ?? "undefined";
}

function sorted(value: unknown): unknown {
  if (value instanceof Uint8Array) return encodeBase64Url(value);
  if (Array.isArray(value)) return value.map(sorted);
  if (typeof value !== "object" || value === null) return value;
  const members = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1));
  return Object.fromEntries(members.map(([name, member]) => [name, sorted(member)]));
}
