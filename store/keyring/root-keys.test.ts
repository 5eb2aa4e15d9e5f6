import { chmodSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { asciiBytes } from "../../protocol/bytes.ts";
import { nodeRandom } from "../../protocol/primitives/node.ts";
import { openTokens, PIN, type Tokens } from "../../tests/token.ts";
import { loadCryptoki } from "./cryptoki.ts";
import { KeyringError } from "./keyring.ts";
import { openRootFile } from "./root-file.ts";
import type { RootKeys } from "./root-keys.ts";
import { openTokenRoots } from "./token-roots.ts";

let tokens: Tokens;
let folder: string;
let labels = 0;

beforeAll(() => {
  tokens = openTokens();
  tokens.make("sealpost");
});
afterAll(() => tokens.remove());

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "sealpost-roots-"));
  labels++;
  return () => rmSync(folder, { recursive: true });
});

const token = (options: { tokenLabel?: string; pin?: string; keyLabel?: string } = {}) =>
  openTokenRoots({
    modulePath: tokens.modulePath,
    tokenLabel: "sealpost",
    pin: PIN,
    keyLabel: `root-${labels}`,
    ...options,
  });

const file = () => openRootFile(join(folder, "root"));

const place = asciiBytes("a place");

function codeOf(work: () => unknown): string {
  try {
    work();
  } catch (error) {
    if (error instanceof KeyringError) return error.code;
    throw error;
  }
  return "done";
}

describe.each<[string, () => RootKeys]>([
  ["a file", file],
  ["a token", token],
])("root keys in %s", (_name, open) => {
  test("what was wrapped is unwrapped, by every process that has them", () => {
    const [one, other] = [open(), open()];
    expect(one.newest()).toBe(0);
    expect(one.create()).toBe(1);
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 32, maxLength: 32 }), fc.uint8Array(), (key, at) => {
        const wrapped = one.wrap(1, key, at);
        expect(wrapped.length).toBe(60);
        expect(one.unwrap(1, wrapped, at)).toEqual(key);
        expect(other.unwrap(1, wrapped, at)).toEqual(key);
      }),
      { numRuns: 20 },
    );
  });

  test("a wrapped key with any bit flipped, cut, or from another place is refused", () => {
    const roots = open();
    const wrapped = roots.wrap(roots.create(), nodeRandom(32), place);
    for (let bit = 0; bit < 8 * wrapped.length; bit++) {
      const damaged = wrapped.slice();
      damaged[bit >> 3] = (damaged[bit >> 3] as number) ^ (1 << (bit & 7));
      expect(codeOf(() => roots.unwrap(1, damaged, place))).toBe("root-wrong");
    }
    expect(codeOf(() => roots.unwrap(1, wrapped.subarray(1), place))).toBe("root-wrong");
    expect(codeOf(() => roots.unwrap(1, wrapped, asciiBytes("b place")))).toBe("root-wrong");
    expect(roots.unwrap(1, wrapped, place).length).toBe(32);
  });

  test("each version is another key, and one that was destroyed opens nothing any more, for no process", () => {
    const [one, other] = [open(), open()];
    one.create();
    const wrapped = one.wrap(1, nodeRandom(32), place);
    expect(other.unwrap(1, wrapped, place).length).toBe(32);
    expect(other.create()).toBe(2);
    expect([one.newest(), other.newest()]).toEqual([2, 2]);
    expect(codeOf(() => one.unwrap(2, wrapped, place))).toBe("root-wrong");
    expect(one.unwrap(1, wrapped, place).length).toBe(32);
    other.destroyBelow(2);
    expect(one.newest()).toBe(2);
    for (const roots of [one, other, open()]) {
      expect(codeOf(() => roots.unwrap(1, wrapped, place))).toBe("root-missing");
      expect(codeOf(() => roots.wrap(1, nodeRandom(32), place))).toBe("root-missing");
    }
    expect(one.create()).toBe(3);
  });

  test("two that are called otherwise are other keys", () => {
    const roots = open();
    const wrapped = roots.wrap(roots.create(), nodeRandom(32), place);
    labels++;
    rmSync(join(folder, "root"), { force: true });
    const others = open();
    expect(others.newest()).toBe(0);
    others.create();
    expect(codeOf(() => others.unwrap(1, wrapped, place))).toBe("root-wrong");
  });
});

describe("root keys in a file", () => {
  const path = () => join(folder, "root");

  test("it is its owner's alone, and is refused when it is not", () => {
    const roots = file();
    roots.create();
    expect(statSync(path()).mode & 0o777).toBe(0o600);
    for (const mode of [0o640, 0o604, 0o620, 0o610]) {
      chmodSync(path(), mode);
      expect(codeOf(file)).toBe("root-exposed");
    }
    chmodSync(path(), 0o600);
    chmodSync(folder, 0o777);
    expect(codeOf(file)).toBe("root-exposed");
  });

  test("any byte changed or cut off is noticed when it is opened", () => {
    file().create();
    file().create();
    const whole = readFileSync(path());
    for (let at = 0; at < whole.length; at++) {
      const damaged = Buffer.from(whole);
      damaged[at] = (damaged[at] as number) ^ 1;
      writeFileSync(path(), damaged);
      expect([at, codeOf(file)]).toEqual([at, "root-damaged"]);
    }
    for (let length = 0; length < whole.length; length++) {
      writeFileSync(path(), whole.subarray(0, length));
      // A whole line that is missing is a version that is missing.
      if (whole[length - 1] !== 10 || length < 30) expect([length, codeOf(file)]).toEqual([length, "root-damaged"]);
    }
  });
});

describe("root keys in a token", () => {
  test("a module, a token or a PIN that is wrong is named", () => {
    expect(codeOf(() => openTokenRoots({ modulePath: "/nowhere.so", tokenLabel: "", pin: "", keyLabel: "" }))).toBe(
      "module-missing",
    );
    expect(codeOf(() => token({ tokenLabel: "another" }))).toBe("token-missing");
  });

  test("the key cannot be read out of it", () => {
    token().create();
    const [key] = loadCryptoki(tokens.modulePath)
      .open("sealpost", PIN)
      .keys()
      .filter(({ label }) => label === `root-${labels}/1`);
    expect(key?.inside).toBe(true);
  });
});
