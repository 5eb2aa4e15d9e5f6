import { copyFileSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, expect, onTestFinished, test } from "vitest";
import { openSampleDatabase, sampleAgentId } from "../tests/messaging.ts";
import { type Keyring, KeyringError } from "./keyring/keyring.ts";
import { createKeyring, openKeyring } from "./keyring/keyring-file.ts";
import { openRootFile } from "./keyring/root-file.ts";
import { acceptKeyring, checkKeyring } from "./keyring-of-database.ts";
import type { Postgres } from "./postgres.ts";

let folder: string;
let postgres: Postgres;
let keyring: Keyring;
let registrations = 0;

beforeAll(async () => {
  postgres = await openSampleDatabase();
});
afterAll(() => postgres.close());

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), "sealpost-of-database-"));
  await postgres.query({ text: "TRUNCATE messaging_keyring, messaging_agents" });
  createKeyring(join(folder, "keyring"), openRootFile(join(folder, "root")));
  keyring = open("keyring");
  return () => rmSync(folder, { recursive: true });
});

function open(name: string): Keyring {
  const opened = openKeyring(join(folder, name), openRootFile(join(folder, "root")));
  onTestFinished(() => opened.close());
  return opened;
}

/** As it lies there now. */
function copy(): Keyring {
  copyFileSync(join(folder, "keyring"), join(folder, "copy"));
  return open("copy");
}

async function register(): Promise<string> {
  const agentId = sampleAgentId();
  keyring.create({ kind: "master", agentId });
  await postgres.query({
    text: `INSERT INTO messaging_agents (agent_id, identity_key, custody, created_at, identity_sealed) VALUES ($1, '\\x01', 'server', $2, '\\x01')`,
    values: [agentId, ++registrations],
  });
  return agentId;
}

async function codeOf(one: Keyring): Promise<string> {
  try {
    await checkKeyring(postgres, one);
  } catch (error) {
    if (error instanceof KeyringError) return error.code;
    throw error;
  }
  return "well";
}

test("the first keyring that is used is the database's, and another one is refused until it is accepted", async () => {
  expect(await codeOf(keyring)).toBe("well");
  await register();
  expect(await codeOf(keyring)).toBe("well");
  createKeyring(join(folder, "other"), openRootFile(join(folder, "root")));
  const other = open("other");
  expect(await codeOf(other)).toBe("keyring-foreign");
  await acceptKeyring(postgres, other);
  expect(await codeOf(other)).toBe("well");
  expect(await codeOf(keyring)).toBe("keyring-foreign");
});

test("of two keyrings that are used first at the same moment one is the database's", async () => {
  createKeyring(join(folder, "other"), openRootFile(join(folder, "root")));
  const codes = await Promise.all([codeOf(keyring), codeOf(open("other"))]);
  expect(codes.toSorted()).toEqual(["keyring-foreign", "well"]);
});

test("a database with agents takes no keyring that does not know them, also when none was noted", async () => {
  await register();
  createKeyring(join(folder, "other"), openRootFile(join(folder, "root")));
  expect(await codeOf(open("other"))).toBe("keyring-foreign");
  expect(await codeOf(keyring)).toBe("well");
});

test("a copy from before an agent was registered is refused, and is taken when an operator accepts the loss", async () => {
  await register();
  expect(await codeOf(keyring)).toBe("well");
  const before = copy();
  expect(await codeOf(before)).toBe("well");
  await register();
  expect(await codeOf(before)).toBe("keyring-older");
  await acceptKeyring(postgres, before);
  expect(await codeOf(before)).toBe("well");
  keyring = before;
  await register();
  expect(await codeOf(before)).toBe("well");
});

test("a copy from before something was destroyed is refused: it would bring the keys back", async () => {
  keyring.create({ kind: "day", number: 1 });
  expect(await codeOf(keyring)).toBe("well");
  const before = copy();
  keyring.destroyDatedBelow("day", 2);
  expect(await codeOf(before)).toBe("well");
  expect(await codeOf(keyring)).toBe("well");
  expect(await codeOf(before)).toBe("keyring-older");
});

test.each(["day", "epoch"] as const)(
  "a copy without the newest key of a %s is refused, and one that was destroyed is no sign of it",
  async (kind) => {
    keyring.create({ kind, number: 1 });
    const before = copy();
    keyring.create({ kind, number: 2 });
    expect(await codeOf(before)).toBe("well");
    expect(await codeOf(keyring)).toBe("well");
    expect(await codeOf(before)).toBe("keyring-older");
    keyring.destroyDatedBelow(kind, 3);
    expect(await codeOf(keyring)).toBe("well");
  },
);

test("an agent whose key was destroyed is no sign of a wrong keyring", async () => {
  keyring.destroyMaster(await register());
  expect(await codeOf(keyring)).toBe("well");
});
