import { type ChildProcess, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import {
  chmodSync,
  copyFileSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { fileURLToPath } from "node:url";
import koffi from "koffi";
import { afterAll, beforeAll, beforeEach, describe, expect, onTestFinished, test } from "vitest";
import { Refusal, Unavailable } from "../../protocol/refusal.ts";
import { openTokens, PIN, type Tokens } from "../../tests/token.ts";
import { type KeyName, type Keyring, KeyringError } from "./keyring.ts";
import { createKeyring, openKeyring } from "./keyring-file.ts";
import { openRootFile } from "./root-file.ts";
import type { RootKeys } from "./root-keys.ts";
import { openTokenRoots } from "./token-roots.ts";

const SCRIPT = fileURLToPath(import.meta.resolve("./keyring-process.ts"));

let tokens: Tokens;
let folder: string;
let labels = 0;

beforeAll(() => {
  tokens = openTokens();
  tokens.make("sealpost");
});
afterAll(() => tokens.remove());

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "sealpost-keyring-"));
  labels++;
  return () => rmSync(folder, { recursive: true });
});

const path = () => join(folder, "keyring");
const rootFile = () => openRootFile(join(folder, "root"));
const rootToken = (keyLabel = `root-${labels}`) =>
  openTokenRoots({ modulePath: tokens.modulePath, tokenLabel: "sealpost", pin: PIN, keyLabel });

const master = (agentId: string): KeyName => ({ kind: "master", agentId });
const day = (number: number): KeyName => ({ kind: "day", number });
const epoch = (number: number): KeyName => ({ kind: "epoch", number });

/** What a call came to: the code of what it threw. */
function codeOf(work: () => unknown): string {
  try {
    work();
  } catch (error) {
    if (error instanceof Refusal) return error.code;
    if (error instanceof Unavailable && error.cause instanceof KeyringError) return `unavailable: ${error.cause.code}`;
    if (error instanceof KeyringError) return error.code;
    throw error;
  }
  return "done";
}

function open(roots: RootKeys, at = path()): Keyring {
  const keyring = openKeyring(at, roots);
  onTestFinished(() => keyring.close());
  return keyring;
}

function made(roots: RootKeys): Keyring {
  createKeyring(path(), roots);
  return open(roots);
}

const digest = (key: Uint8Array) => createHash("sha256").update(key).digest("hex");

/** All wrapped keys, as they lie in the file. */
function wrappedKeys(): Buffer[] {
  const database = new DatabaseSync(path(), { readOnly: true });
  const rows = database.prepare("SELECT wrapped FROM keys WHERE wrapped IS NOT NULL").all();
  database.close();
  return rows.map((row) => Buffer.from(row["wrapped"] as Uint8Array));
}

/** Which of these wrapped keys still stand in some file beside the keyring. */
function found(wrapped: readonly Buffer[]): number {
  const files = readdirSync(folder).map((name) => readFileSync(join(folder, name)));
  return wrapped.filter((each) => files.some((content) => content.includes(each.subarray(0, 28)))).length;
}

describe.each<[string, () => RootKeys]>([
  ["a file", rootFile],
  ["a token", rootToken],
])("a keyring under root keys in %s", (_name, roots) => {
  test("a key that was made is the same for all that ask, until it is destroyed", () => {
    const [one, other] = [made(roots()), open(roots())];
    expect(other.id).toBe(one.id);
    for (const name of [master("alice"), day(20_000), epoch(20_000)]) {
      expect(codeOf(() => one.unwrap(name))).toBe("key-unknown");
      one.create(name);
      const key = one.unwrap(name);
      expect(key.length).toBe(32);
      other.create(name);
      expect(other.unwrap(name)).toEqual(key);
    }
    expect(one.unwrap(day(20_000))).not.toEqual(one.unwrap(epoch(20_000)));
  });

  test("a master key that was destroyed is gone for everybody, and its agent never has another", () => {
    const [one, other] = [made(roots()), open(roots())];
    for (const agentId of ["alice", "bob"]) one.create(master(agentId));
    const before = other.destructions();
    one.destroyMaster("alice");
    one.destroyMaster("carol");
    expect(other.destructions()).toBe(before + 2);
    one.destroyMaster("alice");
    expect(other.destructions()).toBe(before + 2);
    for (const keyring of [one, other, open(roots())]) {
      for (const agentId of ["alice", "carol"]) {
        expect(codeOf(() => keyring.unwrap(master(agentId)))).toBe("key-destroyed");
        expect(codeOf(() => keyring.create(master(agentId)))).toBe("key-destroyed");
      }
      expect(keyring.unwrap(master("bob")).length).toBe(32);
    }
  });

  test("days and epochs below a bound are gone, also those that were never made; the bound never goes down", () => {
    const keyring = made(roots());
    for (const number of [9, 10, 99, 100, 101]) {
      keyring.create(day(number));
      keyring.create(epoch(number));
    }
    keyring.destroyDatedBelow("day", 100);
    keyring.destroyDatedBelow("day", 50);
    for (const number of [0, 9, 10, 98, 99]) {
      expect(codeOf(() => keyring.unwrap(day(number)))).toBe("key-destroyed");
      expect(codeOf(() => keyring.create(day(number)))).toBe("key-destroyed");
    }
    for (const name of [day(100), day(101), epoch(9), epoch(99)]) expect(keyring.unwrap(name).length).toBe(32);
  });

  test("what is destroyed stands in no file of the keyring any more", () => {
    const keyring = made(roots());
    for (let number = 0; number < 40; number++) {
      keyring.create(master(`agent-${(number * 17) % 40}`));
      keyring.create(day(number));
    }
    const wrapped = wrappedKeys();
    expect(found(wrapped)).toBe(81);
    for (let number = 0; number < 40; number++) keyring.destroyMaster(`agent-${number}`);
    keyring.destroyDatedBelow("day", 40);
    expect(found(wrapped)).toBe(1);
  });

  test("what a process that was killed left in the journal is gone after the next opening", () => {
    const keyring = made(roots());
    keyring.create(master("alice"));
    const wrapped = wrappedKeys();
    const database = new DatabaseSync(path());
    database.exec("PRAGMA journal_mode = PERSIST; PRAGMA secure_delete = ON");
    database.exec("UPDATE keys SET root = 0, wrapped = NULL WHERE name = 'alice'");
    database.close();
    expect(found(wrapped)).toBe(2);
    expect(codeOf(() => open(roots()).unwrap(master("alice")))).toBe("key-destroyed");
    expect(found(wrapped)).toBe(1);
  });

  test("after a rotation every key is what it was, and a copy made before opens nothing, the destroyed least of all", () => {
    const keyring = made(roots());
    const other = open(roots());
    for (const name of [master("alice"), master("bob"), day(1)]) keyring.create(name);
    const bob = keyring.unwrap(master("bob"));
    other.unwrap(day(1));
    const wrapped = wrappedKeys();
    const copy = join(folder, "copy");
    copyFileSync(path(), copy);
    keyring.destroyMaster("alice");
    // What destroying alone cannot do: the copy is still under the same root key.
    expect(open(roots(), copy).unwrap(master("alice")).length).toBe(32);
    rmSync(copy);
    keyring.rotate();
    expect(found(wrapped)).toBe(0);
    for (const each of [keyring, other]) {
      expect(each.unwrap(master("bob"))).toEqual(bob);
      expect(codeOf(() => each.unwrap(master("alice")))).toBe("key-destroyed");
      each.create(master("dora"));
    }
    expect(keyring.unwrap(master("dora"))).toEqual(other.unwrap(master("dora")));
  });

  test("a copy made before a rotation does not even open", () => {
    const keyring = made(roots());
    keyring.create(master("alice"));
    const copy = join(folder, "copy");
    copyFileSync(path(), copy);
    chmodSync(copy, 0o600);
    keyring.rotate();
    expect(codeOf(() => open(roots(), copy))).toBe("root-missing");
  });

  test("a keyring under other root keys is refused when it is opened", () => {
    made(roots());
    rmSync(join(folder, "root"), { force: true });
    labels++;
    const others = roots();
    expect(codeOf(() => open(others))).toBe("root-missing");
    others.create();
    expect(codeOf(() => open(others))).toBe("root-wrong");
  });

  test("a row that was moved to another name is not that one's key", () => {
    const keyring = made(roots());
    for (const agentId of ["alice", "bob"]) keyring.create(master(agentId));
    const database = new DatabaseSync(path());
    database.exec("UPDATE keys SET wrapped = (SELECT wrapped FROM keys WHERE name = 'alice') WHERE name = 'bob'");
    database.close();
    expect(codeOf(() => keyring.unwrap(master("bob")))).toBe("unavailable: root-wrong");
  });
});

describe("the file of a keyring", () => {
  test("is never made by opening, nor in the place of another", () => {
    expect(codeOf(() => open(rootFile()))).toBe("keyring-missing");
    const { id } = made(rootFile());
    expect(codeOf(() => createKeyring(path(), rootFile()))).toBe("keyring-exists");
    expect(open(rootFile()).id).toBe(id);
    expect(readdirSync(folder).sort()).toEqual(["keyring", "root"]);
  });

  test("is its owner's alone, and is refused when it is not, or becomes so later", () => {
    const keyring = made(rootFile());
    keyring.create(day(1));
    for (const name of ["keyring", "keyring-journal"]) expect(statSync(join(folder, name)).mode & 0o777).toBe(0o600);
    for (const mode of [0o640, 0o604, 0o660]) {
      chmodSync(path(), mode);
      expect(codeOf(() => open(rootFile()))).toBe("keyring-exposed");
      expect(codeOf(() => keyring.create(day(2)))).toBe("unavailable: keyring-exposed");
    }
    chmodSync(path(), 0o600);
    const roots = rootFile();
    chmodSync(folder, 0o770);
    expect(codeOf(() => open(roots))).toBe("keyring-exposed");
    chmodSync(folder, 0o700);
    keyring.create(day(2));
  });

  test("that was emptied, cut or overwritten is refused, and stays as it is", () => {
    const keyring = made(rootFile());
    for (let number = 0; number < 200; number++) keyring.create(master(`agent-${number}`));
    keyring.close();
    const whole = readFileSync(path());
    const overwritten = Buffer.from(whole).fill(0xa5, 8_192, 12_288);
    for (const content of [
      Buffer.alloc(0),
      whole.subarray(0, 100),
      whole.subarray(0, 8_192),
      Buffer.from("x"),
      overwritten,
    ]) {
      writeFileSync(path(), content);
      expect(codeOf(() => open(rootFile()))).toBe("keyring-damaged");
      expect(readFileSync(path())).toEqual(content);
    }
  });

  test("that was put in the place of an open one is noticed before anything is written", () => {
    const keyring = made(rootFile());
    keyring.create(day(1));
    renameSync(path(), join(folder, "away"));
    expect(codeOf(() => keyring.create(day(2)))).toBe("unavailable: keyring-replaced");
    createKeyring(path(), rootFile());
    expect(codeOf(() => keyring.destroyMaster("alice"))).toBe("unavailable: keyring-replaced");
  });

  test("names of days that are no u32 are a bug", () => {
    const keyring = made(rootFile());
    for (const number of [-1, 0.5, 2 ** 32]) expect(() => keyring.create(day(number))).toThrow("u32");
  });
});

interface Started {
  readonly process: ChildProcess;
  readonly ended: Promise<string[]>;
  readonly lines: string[];
}

function start(...words: string[]): Started {
  const child = spawn(process.execPath, [SCRIPT, folder, ...words], { stdio: ["ignore", "pipe", "inherit"] });
  onTestFinished(() => void child.kill("SIGKILL"));
  const lines: string[] = [];
  let rest = "";
  child.stdout.on("data", (chunk: Buffer) => {
    const parts = (rest + chunk.toString()).split("\n");
    rest = parts.pop() ?? "";
    lines.push(...parts);
  });
  return { process: child, lines, ended: once(child, "close").then(() => lines) };
}

describe("several processes with one keyring", () => {
  test.each(["file", "token"])("that make the keys of days at once get the same ones (root keys: %s)", async (kind) => {
    const keyring = made(kind === "file" ? rootFile() : rootToken("root"));
    const root = kind === "file" ? "file" : tokens.modulePath;
    const all = await Promise.all(Array.from({ length: 4 }, () => start(root, PIN, "days", "25").ended));
    for (let number = 0; number < 25; number++) {
      const line = `day ${number} ${digest(keyring.unwrap(day(number)))}`;
      for (const lines of all) expect(lines).toContain(line);
    }
  });

  test("killed in the middle of writing, again and again, lose no key they told of and bring none back", async () => {
    made(rootFile()).close();
    const lines: string[] = [];
    for (let round = 0; round < 8; round++) {
      const pair = [0, 1].map((number) => start("file", "", "churn", `${round}-${number}`));
      // However long they took to start. Where there is no core for them, one may find the keyring locked for too long by the other, and end.
      const madeCount = () => pair.flatMap((one) => one.lines).filter((line) => line.startsWith("made ")).length;
      await expect.poll(madeCount, { timeout: 60_000 }).toBeGreaterThan(3);
      await new Promise((resolve) => setTimeout(resolve, 37 * round));
      for (const { process } of pair) process.kill("SIGKILL");
      for (const { ended } of pair) lines.push(...(await ended));
    }
    const keyring = open(rootFile());
    const [doomed, dead] = ["destroying", "destroyed"].map(
      (word) => new Set(lines.filter((line) => line.startsWith(`${word} `)).map((line) => line.slice(word.length + 1))),
    );
    const told = lines.filter((line) => line.startsWith("made ")).map((line) => line.split(" "));
    expect(told.length).toBeGreaterThan(20);
    for (const [, agentId = "", expected = ""] of told) {
      const code = codeOf(() => expect(digest(keyring.unwrap(master(agentId)))).toBe(expected));
      if (dead?.has(agentId)) expect(code).toBe("key-destroyed");
      else if (!doomed?.has(agentId)) expect(code).toBe("done");
    }
    keyring.rotate();
    keyring.create(day(1));
  });
});

describe("a token that", () => {
  test("refuses the PIN is named", async () => {
    made(rootToken("root")).close();
    expect(await start(tokens.modulePath, "00000000", "open").ended).toEqual(["pin-wrong"]);
    expect(await start(tokens.modulePath, PIN, "open").ended).toEqual(["open"]);
  });

  test("lost its sessions, and its login with them, is logged in to again", () => {
    const keyring = made(rootToken());
    keyring.create(day(1));
    const key = keyring.unwrap(day(1));
    expect(koffi.load(tokens.modulePath).func("unsigned long C_Finalize(void *reserved)")(null)).toBe(0);
    expect(keyring.unwrap(day(1))).toEqual(key);
    keyring.create(day(2));
  });

  test("lost its key has lost everything; while it is away nothing is done", () => {
    const roots = rootToken();
    const keyring = made(roots);
    keyring.create(day(1));
    roots.destroyBelow(2);
    expect(codeOf(() => keyring.unwrap(day(1)))).toBe("unavailable: root-missing");
    expect(codeOf(() => keyring.create(day(2)))).toBe("unavailable: root-missing");
    expect(codeOf(() => keyring.rotate())).toBe("unavailable: root-missing");
  });
});
