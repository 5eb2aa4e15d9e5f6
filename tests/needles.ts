/**
 * Looks for many secrets at once, in everything that servers keep: in each spelling that JSON, SQL and logs write bytes in.
 */
import { readdirSync, readFileSync, statSync } from "node:fs";
import path from "node:path";

const PREFIX_BYTES = 4;
const TABLE_BITS = 24;
const SLOT_SHIFT = 32 - TABLE_BITS;
/** Odd, near 2^32 divided by the golden ratio: spreads prefixes that are alike. */
const SPREAD = 0x9e37_79b1;

/** The same secrets in the same order, whatever is searched. */
export class Needles {
  readonly #byPrefix = new Map<number, { readonly bytes: Buffer; readonly secret: number }[]>();
  readonly #table = new Uint8Array(1 << TABLE_BITS);

  /** Each at least 16 bytes. */
  constructor(secrets: readonly Uint8Array[]) {
    for (const [secret, value] of secrets.entries()) {
      // In halves: a file may break a value at the end of one of its pages, but not twice within so few bytes.
      const middle = Math.floor(value.length / 2);
      for (const half of [value.subarray(0, middle), value.subarray(middle)]) {
        for (const bytes of spellings(Buffer.from(half))) this.#add(bytes, secret);
      }
    }
  }

  /** The indexes of the secrets of which a half was found. */
  foundIn(haystack: Buffer): ReadonlySet<number> {
    const found = new Set<number>();
    const table = this.#table;
    const { length } = haystack;
    let prefix = 0;
    for (let end = 0; end < length; end++) {
      prefix = (prefix << 8) | (haystack[end] as number);
      if (table[Math.imul(prefix, SPREAD) >>> SLOT_SHIFT] === 0) continue;
      const start = end + 1 - PREFIX_BYTES;
      for (const { bytes, secret } of this.#byPrefix.get(prefix) ?? []) {
        if (start >= 0 && haystack.subarray(start, start + bytes.length).equals(bytes)) found.add(secret);
      }
    }
    return found;
  }

  #add(bytes: Buffer, secret: number): void {
    const prefix = bytes.readInt32BE(0);
    this.#table[Math.imul(prefix, SPREAD) >>> SLOT_SHIFT] = 1;
    const known = this.#byPrefix.get(prefix);
    if (known === undefined) this.#byPrefix.set(prefix, [{ bytes, secret }]);
    else known.push({ bytes, secret });
  }
}

/** As it is, and as JSON, SQL and logs write it. Text encodings are looked for without their edges, which depend on what stands beside. */
function spellings(needle: Buffer): Buffer[] {
  const inBase64 = [0, 1, 2].flatMap((shift) => {
    const text = needle.subarray(shift, needle.length - ((needle.length - shift) % 3));
    return [text.toString("base64"), text.toString("base64url")];
  });
  const decimal = [...needle].join(",");
  return [needle, ...[needle.toString("hex"), decimal, ...inBase64].map((text) => Buffer.from(text))];
}

/** Every file below a folder, one after the other; those that go meanwhile are left out, and so are those whose names `isLeftOut` knows. */
export function* filesBelow(
  folder: string,
  isLeftOut: (name: string) => boolean,
): Generator<readonly [name: string, contents: Buffer]> {
  for (const name of readdirSync(folder, { recursive: true, encoding: "utf8" })) {
    if (isLeftOut(name)) continue;
    const file = path.join(folder, name);
    const contents = readIfThere(file);
    if (contents !== null) yield [name, contents];
  }
}

function readIfThere(file: string): Buffer | null {
  try {
    return statSync(file).isFile() ? readFileSync(file) : null;
  } catch (error) {
    if ((error as { code?: unknown }).code === "ENOENT") return null;
    throw error;
  }
}
