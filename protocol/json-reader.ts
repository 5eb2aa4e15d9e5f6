/**
 * Reads the JSON forms of the protocol strictly: every member has its one type and spelling, no member is unknown.
 *
 * All it throws is a Refusal `malformed` whose `field` is the JSON pointer of the member.
 */
import { decodeBase64Url } from "./base64url.ts";
import { Refusal } from "./refusal.ts";
import { parseTimestamp } from "./timestamp.ts";
import { isUuid } from "./uuid.ts";

export class JsonReader {
  readonly #members: ReadonlyMap<string, unknown>;
  readonly #pointer: string;
  readonly #unread: Set<string>;

  /** `pointer`: where this value stands in the whole document. */
  constructor(json: unknown, pointer = "") {
    if (typeof json !== "object" || json === null || Array.isArray(json)) throw malformed(pointer);
    this.#members = new Map(Object.entries(json));
    this.#pointer = pointer;
    this.#unread = new Set(this.#members.keys());
  }

  has(name: string): boolean {
    return this.#members.has(name);
  }

  string(name: string): string {
    return this.#read(name, (value) => (typeof value === "string" ? value : null));
  }

  /** A text, or at most so many, each another. */
  stringOrStrings(name: string, countMax: number): string | readonly string[] {
    return this.#read(name, (value) => {
      if (typeof value === "string") return value;
      if (!Array.isArray(value) || value.length > countMax) return null;
      const areDistinct = value.every((entry) => typeof entry === "string") && new Set(value).size === value.length;
      return areDistinct ? value : null;
    });
  }

  number(name: string): number {
    return this.#read(name, (value) => (typeof value === "number" ? value : null));
  }

  boolean(name: string): boolean {
    return this.#read(name, (value) => (typeof value === "boolean" ? value : null));
  }

  /** base64url; `length` in bytes, any when it is left out. */
  bytes(name: string, length?: number): Uint8Array {
    return this.#read(name, (value) => {
      const bytes = typeof value === "string" ? decodeBase64Url(value) : null;
      return bytes !== null && (length === undefined || bytes.length === length) ? bytes : null;
    });
  }

  /** The text of a UUID. */
  uuid(name: string): string {
    return this.#read(name, (value) => (typeof value === "string" && isUuid(value) ? value : null));
  }

  /** Milliseconds. */
  timestamp(name: string): number {
    return this.#read(name, (value) => (typeof value === "string" ? parseTimestamp(value) : null));
  }

  object(name: string): JsonReader {
    return this.#read(name, (value) => new JsonReader(value, `${this.#pointer}/${name}`));
  }

  /** To be called when all members have been read: refuses the others, without repeating their names. */
  end(): void {
    if (this.#unread.size > 0) throw malformed(this.#pointer);
  }

  #read<Value>(name: string, take: (value: unknown) => Value | null): Value {
    this.#unread.delete(name);
    const value = take(this.#members.get(name));
    if (value === null) throw malformed(`${this.#pointer}/${name}`);
    return value;
  }
}

function malformed(field: string): Refusal<"malformed"> {
  return new Refusal("malformed", { field });
}
